"""Tests of the Python SDK, over the real streams: python3 test_migrate_step.py"""
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, List, Optional

from migrate_step import (Conflict, Context, Step, Throttled, absent, check, done, error, is_unknown, run, running,
                          unknown, warning)

CANARY = "canary-7d1e"


class Probe(Step):
    """What it does is said by its config."""

    name = "test.probe"
    summary = "Does what it is told"
    idempotency = "keyed"

    def validate(self, ctx: Context, config: Dict[str, Any]) -> List[Dict[str, Any]]:
        return [error("no", field="a", hint="yes"), warning("perhaps")]

    def plan(self, ctx: Context, config: Dict[str, Any]) -> str:
        return "unknown" if is_unknown(config) else "known"

    def observe(self, ctx: Context, config: Dict[str, Any]) -> Dict[str, Any]:
        answers = {"absent": absent(), "running": running("h"), "done": done({"a": 1}), "unknown": unknown("why")}
        return answers[config["state"]]

    def verify(self, ctx: Context, config: Dict[str, Any], outputs: Dict[str, Any], deep: bool) -> list:
        return [check("thing", "deep", True, deep, note="a note")]

    def apply(self, ctx: Context, config: Dict[str, Any]) -> Dict[str, Any]:
        return getattr(self, config["do"])(ctx)

    def place(self, ctx: Context) -> Dict[str, Any]:
        ctx.progress("half", items=(1, 2), bytes=(5, None))
        ctx.set_handle("h-1")
        ctx.checkpoint({"at": 1})
        ctx.heartbeat()
        ctx.artifact("report", "out/report.txt")
        return {"cursor": ctx.cursor, "handle": ctx.handle, "dir": str(ctx.project_dir), "key": ctx.key}

    def chatter(self, ctx: Context) -> Dict[str, Any]:
        print("printed")
        subprocess.run(["sh", "-c", "echo from a child; cat; echo end"], check=True)
        return {}

    def secret(self, ctx: Context) -> Dict[str, Any]:
        value = ctx.secret("env:TOKEN")
        ctx.info(f"the secret is {value}")
        raise ValueError(f"bad {value}")

    def refused(self, ctx: Context) -> Dict[str, Any]:
        raise Throttled("too much", retry_after_seconds=1.5, hint="less")

    def caused(self, ctx: Context) -> Dict[str, Any]:
        raise Conflict("in the way") from KeyError("k")

    def broken(self, ctx: Context) -> Dict[str, Any]:
        raise ConnectionResetError("reset")

    def wait(self, ctx: Context) -> Dict[str, Any]:
        ctx.info("waiting")
        ctx.sleep(1000)
        return {}

    def long(self, ctx: Context) -> Dict[str, Any]:
        return {"text": "x" * 5_000_000}

    def nonsense(self, ctx: Context) -> Dict[str, Any]:
        return {"number": float("nan")}

    def keep(self, ctx: Context) -> Dict[str, Any]:
        self.kept = ctx
        return {}

    def late(self, ctx: Context) -> Dict[str, Any]:
        # By a call that has been answered already.
        self.kept.info("late")
        self.kept.progress("late")
        return {}


class Talk:
    """The host's side."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, __file__, "serve"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.number = 0
        self.seen: List[Dict[str, Any]] = []
        self.initialized = self.ask("initialize", {
            "protocol_versions": [2, 1], "host": {"name": "migrate", "version": "0"},
            "limits": {"message_bytes": 4194304, "output_bytes": 268435456, "cancel_grace_seconds": 8}})

    def write(self, message: Dict[str, Any]) -> None:
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")) + "\n")
        self.process.stdin.flush()

    def read(self) -> Dict[str, Any]:
        message = json.loads(self.process.stdout.readline())
        assert message["jsonrpc"] == "2.0", message
        self.seen.append(message)
        return message

    def begin(self, method: str, params: Dict[str, Any]) -> int:
        self.number += 1
        self.write({"id": self.number, "method": method, "params": params})
        return self.number

    def ask(self, method: str, params: Dict[str, Any], secret: Optional[str] = None) -> Dict[str, Any]:
        number = self.begin(method, params)
        while True:
            message = self.read()
            if "method" not in message:
                assert message["id"] == number, message
                return message
            if "id" in message:
                result = {"path": secret} if message["method"] == "secret" else {}
                self.write({"id": message["id"], "result": result})

    def call(self, method: str, config: Dict[str, Any], secret: Optional[str] = None, **more: Any) -> Dict[str, Any]:
        return self.ask(method, self.params(config, **more), secret)

    @staticmethod
    def params(config: Dict[str, Any], **more: Any) -> Dict[str, Any]:
        context = {"run": "r", "node": "n", "attempt": 1, "key": "n-1", "project_dir": "/project"}
        context.update(more.pop("context", {}))
        return {"context": context, "config": config, **more}

    def end(self) -> str:
        self.write({"method": "shutdown", "params": {}})
        _, stderr = self.process.communicate(timeout=10)
        assert self.process.returncode == 0, self.process.returncode
        return stderr


class Test(unittest.TestCase):
    def setUp(self) -> None:
        self.talk = Talk()
        self.addCleanup(self.talk.process.communicate)
        self.addCleanup(self.talk.process.kill)

    def test_calls_are_answered_in_the_protocols_form(self) -> None:
        talk = self.talk
        self.assertEqual(talk.initialized["result"], {"protocol_version": 1, "cancel": True})
        described = talk.ask("describe", {})["result"]
        self.assertEqual((described["name"], described["supports_undo"]), ("test.probe", False))
        problems = talk.call("validate", {})["result"]["problems"]
        self.assertEqual(problems, [{"severity": "error", "message": "no", "field": "a", "hint": "yes"},
                                    {"severity": "warning", "message": "perhaps"}])
        self.assertEqual(talk.call("plan", {"a": [{"$unknown": "x"}]})["result"], {"summary": "unknown"})
        self.assertEqual(talk.call("plan", {"a": [1]})["result"], {"summary": "known"})
        self.assertEqual(talk.call("observe", {"state": "running"})["result"], {"state": "running", "handle": "h"})
        checks = talk.call("verify", {}, outputs={}, depth="quick")["result"]["checks"]
        self.assertEqual(checks, [{"subject": "thing", "what": "deep", "source": "True", "target": "False",
                                   "status": "failed", "note": "a note"}])
        for method in ("undo", "bogus"):
            self.assertEqual(talk.call(method, {})["error"]["code"], -32601)
        self.assertEqual(talk.ask("apply", {"config": {}})["error"]["code"], -32602)
        talk.end()

    def test_what_a_step_tells_comes_before_its_answer(self) -> None:
        context = {"cursor": [3], "handle": "h-0"}
        outputs = self.talk.call("apply", {"do": "place"}, context=context)["result"]["outputs"]
        self.assertEqual(outputs, {"cursor": [3], "handle": "h-0", "dir": "/project", "key": "n-1"})
        told = [(m["method"], m["params"]) for m in self.talk.seen if "method" in m]
        self.assertEqual(told, [
            ("progress", {"message": "half", "bytes": {"done": 5}, "items": {"done": 1, "total": 2}}),
            ("set_handle", {"handle": "h-1"}), ("checkpoint", {"cursor": {"at": 1}}), ("heartbeat", {}),
            ("artifact", {"name": "report", "path": "out/report.txt"})])
        self.talk.call("apply", {"do": "keep"})
        self.talk.call("apply", {"do": "late"})
        self.assertNotIn("late", json.dumps(self.talk.seen))

    def test_printing_and_children_leave_the_protocol_alone(self) -> None:
        self.assertEqual(self.talk.call("apply", {"do": "chatter"})["result"], {"outputs": {}})
        self.assertEqual(self.talk.end(), "printed\nfrom a child\nend\n")

    def test_a_secret_is_masked_in_logs_and_errors(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "secret"
            file.write_text(CANARY)
            failure = self.talk.call("apply", {"do": "secret"}, secret=str(file))["error"]
        self.assertEqual(failure["message"], "ValueError: bad ********")
        self.assertNotIn(CANARY, json.dumps(self.talk.seen))
        stderr = self.talk.end()
        self.assertIn("ValueError: bad ********", stderr)
        self.assertNotIn(CANARY, stderr)

    def test_errors_have_their_class(self) -> None:
        def failed(do: str) -> Dict[str, Any]:
            return self.talk.call("apply", {"do": do})["error"]

        self.assertEqual(failed("refused"), {"code": -32000, "message": "too much", "data": {
            "class": "throttled", "hint": "less", "retry_after_seconds": 1.5}})
        self.assertEqual(failed("caused")["data"], {"class": "conflict", "causes": ["KeyError: 'k'"]})
        self.assertEqual(failed("broken")["data"]["class"], "transient")
        self.assertEqual(failed("bogus")["data"]["class"], "permanent")
        self.assertIn("longer than 4194304 bytes", failed("long")["message"])
        self.assertEqual(failed("nonsense")["data"]["class"], "permanent")
        self.talk.end()

    def test_a_waiting_call_is_cancelled_and_the_next_one_is_not(self) -> None:
        number = self.talk.begin("apply", self.talk.params({"do": "wait"}))
        self.assertEqual(self.talk.read()["params"]["message"], "waiting")
        self.talk.write({"method": "cancel", "params": {"call": number}})
        self.assertEqual(self.talk.read()["error"]["data"]["class"], "cancelled")
        self.talk.write({"method": "cancel", "params": {"call": number}})
        self.assertIn("result", self.talk.call("apply", {"do": "place"}))

    def test_a_dead_host_ends_a_call_at_once(self) -> None:
        self.talk.begin("apply", self.talk.params({"do": "wait"}))
        self.talk.read()
        self.talk.process.stdin.close()
        self.talk.process.stdin = None
        self.assertEqual(self.talk.process.wait(10), 1)

    def test_what_is_no_message_is_told_and_costs_nothing(self) -> None:
        for line in ("{", "[]", "7", '"text"'):
            self.talk.process.stdin.write(line + "\n\n")
            self.talk.process.stdin.flush()
            self.assertEqual(self.talk.read()["error"]["code"], -32700)
        self.talk.write({"id": 99, "method": "initialize", "params": {"protocol_versions": [7]}})
        refused = self.talk.read()["error"]
        self.assertEqual((refused["code"], refused["data"]), (-32001, {"protocol_versions": [1]}))

    def test_started_by_hand_it_says_what_it_is(self) -> None:
        result = subprocess.run([sys.executable, __file__, "serve", "--help"], capture_output=True, text=True,
                                stdin=subprocess.DEVNULL)
        self.assertEqual(result.returncode, 2)
        self.assertIn("migrate plugin test", result.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        del sys.argv[1]
        run(Probe())
    else:
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        unittest.main()
