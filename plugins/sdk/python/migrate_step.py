"""Step plugins for `migrate` in Python: one file, no dependencies, Python 3.9 or newer.

    from migrate_step import Context, Step, run

    class Touch(Step):
        name = "team.touch"
        summary = "Makes an empty file"
        idempotency = "natural"
        config_schema = {"type": "object", "properties": {"file": {"type": "string"}},
                         "required": ["file"], "additionalProperties": False}

        def apply(self, ctx: Context, config: dict) -> dict:
            path = ctx.project_dir / config["file"]
            path.touch()
            return {"path": str(path)}

    if __name__ == "__main__":
        run(Touch())

Copy this file beside your plugin. `print` goes to the node's log; the protocol has a stream of its
own. `migrate plugin test FILE` runs the conformance suite.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, BinaryIO, Dict, List, Optional, Tuple, Type, Union

__all__ = [
    "Step", "Context", "run",
    "StepError", "Transient", "Throttled", "Auth", "Conflict", "Permanent", "Corrupt", "Cancelled",
    "absent", "running", "done", "unknown", "check", "error", "warning", "is_unknown", "TestContext",
]

PROTOCOL_VERSION = 1
MESSAGE_BYTES = 4 * 1024 * 1024  # longest line, the line break included
SECRET_BYTES = 64 * 1024
TEXT_CHARS = 1000  # of a log line or a progress message; at most 4 KiB in UTF-8
MASK = "********"
CALLS = ("validate", "plan", "observe", "apply", "verify", "undo")

JSON = Dict[str, Any]


class StepError(Exception):
    """A failure that the engine decides about by its class. The message completes "failed to …":
    lowercase, no period, no secret."""

    kind = "permanent"

    def __init__(self, message: str, *, hint: Optional[str] = None,
                 retry_after_seconds: Optional[float] = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.retry_after_seconds = retry_after_seconds


class Transient(StepError):
    """May pass by itself: tried again, where the node's `retry` says so."""

    kind = "transient"


class Throttled(StepError):
    """The service asks for less: tried again after a longer wait."""

    kind = "throttled"


class Auth(StepError):
    """Credentials are missing, expired or refused."""

    kind = "auth"


class Conflict(StepError):
    """Something else stands where the effect should go."""

    kind = "conflict"


class Permanent(StepError):
    """Will fail the same way again."""


class Corrupt(StepError):
    """Data is not what it was proven to be."""

    kind = "corrupt"


class Cancelled(StepError):
    """The run was asked to stop, and the step did."""

    kind = "cancelled"

    def __init__(self, message: str = "stopped on request") -> None:
        super().__init__(message)


def absent() -> JSON:
    """For `observe`: nothing of it exists; of a step that is not `keyed` also: doing it again is harmless."""
    return {"state": "absent"}


def running(handle: str) -> JSON:
    """For `observe`: it goes on outside; `apply` is called and joins it by `ctx.handle`."""
    return {"state": "running", "handle": handle}


def done(outputs: JSON) -> JSON:
    """For `observe`: it is finished, with these outputs."""
    return {"state": "done", "outputs": outputs}


def unknown(reason: str) -> JSON:
    """For `observe`: can't be told. A `natural` or `keyed` step goes on; otherwise a person decides."""
    return {"state": "unknown", "reason": reason}


def check(subject: str, what: str, source: Any, target: Any, *, note: Optional[str] = None,
          status: Optional[str] = None) -> JSON:
    """For `verify`: a comparison, which passes when both are equal as text unless `status` says
    `passed`, `warning` or `failed`."""
    source, target = str(source), str(target)
    status = status or ("passed" if source == target else "failed")
    found = {"subject": subject, "what": what, "source": source, "target": target, "status": status}
    return found if note is None else {**found, "note": note}


def error(message: str, *, field: Optional[str] = None, hint: Optional[str] = None) -> JSON:
    """For `validate` and `plan`: a problem that keeps the run from starting."""
    return _problem("error", message, field, hint)


def warning(message: str, *, field: Optional[str] = None, hint: Optional[str] = None) -> JSON:
    """For `validate` and `plan`: a problem that a person should read."""
    return _problem("warning", message, field, hint)


def _problem(severity: str, message: str, field: Optional[str], hint: Optional[str]) -> JSON:
    problem = {"severity": severity, "message": message}
    problem.update({k: v for k, v in (("field", field), ("hint", hint)) if v is not None})
    return problem


def is_unknown(value: Any) -> bool:
    """In `validate` and `plan`: whether an input, or a part of it, is only known later in the run."""
    if isinstance(value, dict):
        return "$unknown" in value or any(map(is_unknown, value.values()))
    return isinstance(value, list) and any(map(is_unknown, value))


class Context:
    """What a call knows about its surroundings, and what it may ask of the engine."""

    run: str
    node: str
    attempt: int  #: from 1
    key: str  #: the idempotency key: a valid DNS label; name the outside thing by it
    project_dir: Path  #: relative paths in the config start here
    handle: Optional[str]  #: what was last given to `set_handle`
    cursor: Any  #: what was last given to `checkpoint`

    def __init__(self, link: "_Link", call: int, params: JSON) -> None:
        self._link, self._call = link, call
        self.run, self.node = params["run"], params["node"]
        self.attempt, self.key = params["attempt"], params["key"]
        self.project_dir = Path(params["project_dir"])
        self.handle, self.cursor = params.get("handle"), params.get("cursor")

    def progress(self, message: Optional[str] = None, *, bytes: Optional[Tuple[int, Optional[int]]] = None,
                 items: Optional[Tuple[int, Optional[int]]] = None) -> None:
        """Shows how far the step is; `bytes` and `items` are (done, total)."""
        params: JSON = {} if message is None else {"message": self._link.clean(message)}
        for name, amount in (("bytes", bytes), ("items", items)):
            if amount is not None:
                params[name] = {k: v for k, v in zip(("done", "total"), amount) if v is not None}
        self._link.tell(self._call, "progress", params)

    def debug(self, message: str) -> None:
        """Logs for whoever debugs the step."""
        self._log("debug", message)

    def info(self, message: str) -> None:
        """Logs what was done."""
        self._log("info", message)

    def warn(self, message: str) -> None:
        """Logs what a person should read."""
        self._log("warn", message)

    def _log(self, level: str, message: str) -> None:
        self._link.tell(self._call, "log", {"level": level, "message": self._link.clean(message)})

    def artifact(self, name: str, path: Union[str, Path]) -> None:
        """Tells of a file that was made for people, relative to the project's folder."""
        self._link.tell(self._call, "artifact", {"name": name, "path": str(path)})

    def heartbeat(self) -> None:
        """Says that the step is alive, where it has nothing else to say."""
        self._link.tell(self._call, "heartbeat", {})

    def checkpoint(self, cursor: Any) -> None:
        """Stores the step's own place; durable when this returns. Raises `Cancelled`, after it is
        stored, when the run was asked to stop."""
        self._link.ask(self._call, "checkpoint", {"cursor": cursor})
        self.check_cancelled()

    def set_handle(self, handle: str) -> None:
        """Stores the ID of the outside thing; durable when this returns."""
        self._link.ask(self._call, "set_handle", {"handle": handle})

    def secret(self, reference: str) -> str:
        """The secret that a reference in the config (`env:NAME`) means. Its field in the schema is
        `{"type": "string", "format": "secret-reference"}`."""
        path = self._link.ask(self._call, "secret", {"reference": reference})["path"]
        with open(path, "rb") as file:
            value = file.read(SECRET_BYTES + 1)
        if len(value) > SECRET_BYTES:
            raise Auth(f"secret `{reference}` is longer than {SECRET_BYTES} bytes")
        text = value.decode("utf-8")
        self._link.hide(text)
        return text

    @property
    def cancelled(self) -> bool:
        """Whether the run was asked to stop: reach a checkpoint and raise `Cancelled`."""
        return self._link.cancelled.is_set()

    def check_cancelled(self) -> None:
        """Raises `Cancelled` once the run was asked to stop."""
        if self.cancelled:
            raise Cancelled()

    def sleep(self, seconds: float) -> None:
        """Waits; raises `Cancelled` as soon as the run is asked to stop."""
        self._link.cancelled.wait(seconds)
        self.check_cancelled()


class TestContext(Context):
    """A context without an engine, for tests of a step: it remembers what the step told, and stops
    it at checkpoint number `stop_at`, as a kill would."""

    __test__ = False

    def __init__(self, project_dir: Union[str, Path], *, cursor: Any = None, handle: Optional[str] = None,
                 secrets: Optional[Dict[str, str]] = None, stop_at: Optional[int] = None) -> None:
        params = {"run": "test-run", "node": "node", "attempt": 1, "key": "node-0000000000",
                  "project_dir": str(project_dir), "handle": handle, "cursor": cursor}
        super().__init__(_Link(None, None), 0, params)  # type: ignore[arg-type]
        self._known, self._stop_at = secrets or {}, stop_at
        self.told: List[Tuple[str, JSON]] = []
        self.cursors: List[Any] = []
        self.handles: List[str] = []
        self._link.tell = lambda _, method, params: self.told.append((method, params))  # type: ignore

    def checkpoint(self, cursor: Any) -> None:
        self.cursors.append(json.loads(json.dumps(cursor)))
        if len(self.cursors) == self._stop_at:
            raise Cancelled()

    def set_handle(self, handle: str) -> None:
        self.handles.append(handle)

    def secret(self, reference: str) -> str:
        if reference not in self._known:
            raise Auth(f"no secret at `{reference}`")
        return self._known[reference]


class Step:
    """A kind of work. `name`, `summary` and `apply` are needed; the other methods may be left out:
    see the protocol for what the engine does then."""

    name: str  #: as written in a workflow: `team.notify`
    version: str = "1"  #: changes whenever results of an earlier version must not be reused
    summary: str  #: one sentence, no period
    config_schema: JSON = {"type": "object"}  #: JSON Schema of the node's `with`
    output_schema: JSON = {"type": "object"}  #: JSON Schema of what `apply` returns
    sensitive: List[str] = []  #: JSON Pointers of outputs that must not be stored or shown
    idempotency: str = "none"  #: what a repeated `apply` does: `natural`, `keyed` or `none`

    def validate(self, ctx: Context, config: JSON) -> List[JSON]:
        """Problems of the config beyond its schema, by `error` and `warning`. Touches nothing."""
        raise NotImplementedError

    def plan(self, ctx: Context, config: JSON) -> Union[str, JSON]:
        """What `apply` would do: a line, or a dict with `summary`, `items`, `bytes`, `seconds`,
        `destroys`, `problems`. Reads only; inputs may be unknown (`is_unknown`)."""
        raise NotImplementedError

    def observe(self, ctx: Context, config: JSON) -> JSON:
        """What became of an attempt whose end nobody saw: `absent`, `running`, `done` or `unknown`.
        Reads only."""
        raise NotImplementedError

    def apply(self, ctx: Context, config: JSON) -> JSON:
        """Does the work, from `ctx.cursor` on, and returns the outputs."""
        raise NotImplementedError

    def verify(self, ctx: Context, config: JSON, outputs: JSON, deep: bool) -> List[JSON]:
        """Compares the outputs with the world, by `check`. Reads only."""
        raise NotImplementedError

    def undo(self, ctx: Context, config: JSON, outputs: JSON) -> None:
        """Takes the effect back; what is gone already is no error."""
        raise NotImplementedError

    def _has(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(Step, method)

    def _describe(self) -> JSON:
        fields = ("name", "version", "summary", "config_schema", "output_schema", "sensitive", "idempotency")
        return {**{field: getattr(self, field) for field in fields}, "supports_undo": self._has("undo")}


class _Refused(Exception):
    """A request that is answered with an error code of JSON-RPC."""

    def __init__(self, code: int, message: str, data: Optional[JSON] = None) -> None:
        super().__init__(message)
        self.code, self.data = code, data


class _Link:
    """The streams: one line at a time, and a thread that reads, so that `cancel` is heard at work."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._lock = threading.Lock()
        self._limit = MESSAGE_BYTES
        self._open: Optional[int] = None  # the call that may speak
        self._call_id: Any = None
        self._asked = 0
        self._answers: Dict[int, "queue.SimpleQueue[JSON]"] = {}
        self._secrets: List[str] = []
        self.requests: "queue.SimpleQueue[Optional[JSON]]" = queue.SimpleQueue()
        self.cancelled = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def limit(self, message_bytes: int) -> None:
        self._limit = min(message_bytes, MESSAGE_BYTES)

    def open(self, call: int, call_id: Any) -> None:
        with self._lock:
            self._open, self._call_id = call, call_id
            self.cancelled.clear()

    def answer(self, message: JSON, *, closes: bool = False) -> None:
        with self._lock:
            if closes:
                self._open = self._call_id = None
            self._write(message)

    def tell(self, call: int, method: str, params: JSON) -> None:
        with self._lock:
            if self._open == call:
                self._write({"jsonrpc": "2.0", "method": method, "params": params})

    def ask(self, call: int, method: str, params: JSON) -> JSON:
        answer: "queue.SimpleQueue[JSON]" = queue.SimpleQueue()
        with self._lock:
            if self._open != call:
                raise Cancelled()
            self._asked += 1
            self._answers[self._asked] = answer
            self._write({"jsonrpc": "2.0", "id": self._asked, "method": method, "params": params})
        message = answer.get()
        if "error" in message:
            raise _error_of(message["error"])
        return message.get("result") or {}

    def hide(self, secret: str) -> None:
        if secret.strip():
            self._secrets.append(secret.strip())
            self._secrets.sort(key=len, reverse=True)

    def mask(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def clean(self, text: str) -> str:
        return self.mask(str(text))[:TEXT_CHARS]

    def _write(self, message: JSON) -> None:
        line = json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"
        if len(line) > self._limit:
            raise Permanent(f"a message is longer than {self._limit} bytes",
                            hint="write what is large to a file, and return its path")
        try:
            self._sink.write(line)
            self._sink.flush()
        except OSError:
            os._exit(1)  # The host has gone: nobody records what is done from here on.

    def _read(self) -> None:
        while True:
            line = self._source.readline(MESSAGE_BYTES + 1)
            if not line or len(line) > MESSAGE_BYTES:
                break
            if line.strip():
                self._take(line)
        with self._lock:
            if self._open is not None:
                os._exit(1)  # In the middle of a call: stop at once and change nothing more.
        self.requests.put(None)

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError
        except ValueError:
            failure = {"code": -32700, "message": "this is no message of the protocol"}
            return self.answer({"jsonrpc": "2.0", "id": None, "error": failure})
        method = message.get("method")
        if method is None:
            waiting = self._answers.pop(message.get("id", 0), None)
            if waiting is not None:
                waiting.put(message)
        elif method == "cancel":
            with self._lock:
                if self._call_id is not None and message["params"].get("call") == self._call_id:
                    self.cancelled.set()
        elif method == "shutdown":
            os._exit(0)
        elif "id" in message:
            self.requests.put(message)


def _error_of(failure: JSON) -> StepError:
    data = failure.get("data") or {}
    kinds: Dict[str, Type[StepError]] = {c.kind: c for c in (Transient, Throttled, Auth, Conflict, Corrupt)}
    kind = data.get("class", "permanent")
    if kind == "cancelled":
        return Cancelled(failure["message"])
    return kinds.get(kind, Permanent)(failure["message"], hint=data.get("hint"),
                                      retry_after_seconds=data.get("retry_after_seconds"))


def _failure(link: _Link, problem: BaseException) -> JSON:
    if isinstance(problem, _Refused):
        failure: JSON = {"code": problem.code, "message": str(problem)}
        return failure if problem.data is None else {**failure, "data": problem.data}
    if isinstance(problem, StepError):
        kind, message = problem.kind, str(problem)
        more: JSON = {"hint": problem.hint, "retry_after_seconds": problem.retry_after_seconds}
    else:
        # Broken connections may pass; everything else that nobody expected is a mistake.
        kind = "transient" if isinstance(problem, (ConnectionError, TimeoutError)) else "permanent"
        message = f"{type(problem).__name__}: {problem}"
        more = {"hint": "the log of the node says where"}
        sys.stderr.write(link.mask("".join(traceback.format_exception(
            type(problem), problem, problem.__traceback__))))
        sys.stderr.flush()
    if problem.__cause__ is not None:
        more["causes"] = [link.clean(f"{type(problem.__cause__).__name__}: {problem.__cause__}")]
    data = {"class": kind, **{k: v for k, v in more.items() if v is not None}}
    return {"code": -32000, "message": link.clean(message), "data": data}


class _Server:
    def __init__(self, step: Step, link: _Link) -> None:
        self._step, self._link = step, link
        self._ready = False
        self._calls = 0

    def serve(self) -> None:
        self._link.start()
        while True:
            message = self._link.requests.get()
            if message is None:
                return
            try:
                result: JSON = {"result": self._request(message)}
            except BaseException as problem:  # Whatever a step raises costs its call and no more.
                result = {"error": _failure(self._link, problem)}
            answer = {"jsonrpc": "2.0", "id": message["id"], **result}
            try:
                self._link.answer(answer, closes=True)
            except (StepError, TypeError, ValueError) as problem:
                # Too long, or no JSON.
                failure = _failure(self._link, problem)
                self._link.answer({"jsonrpc": "2.0", "id": message["id"], "error": failure}, closes=True)

    def _request(self, message: JSON) -> Any:
        method, params = message["method"], message.get("params") or {}
        if method == "initialize":
            return self._initialize(params)
        if not self._ready:
            raise _Refused(-32600, "`initialize` must come first")
        if method == "describe":
            return self._step._describe()
        if method in CALLS and self._step._has(method):
            return self._call(method, message["id"], params)
        raise _Refused(-32601, f"there is no method `{method}`")

    def _initialize(self, params: JSON) -> JSON:
        if PROTOCOL_VERSION not in params.get("protocol_versions", []):
            data = {"protocol_versions": [PROTOCOL_VERSION]}
            raise _Refused(-32001, "no common version of the protocol", data)
        self._link.limit(params.get("limits", {}).get("message_bytes", MESSAGE_BYTES))
        self._ready = True
        return {"protocol_version": PROTOCOL_VERSION, "cancel": True}

    def _call(self, method: str, call_id: Any, params: JSON) -> JSON:
        try:
            self._calls += 1
            ctx = Context(self._link, self._calls, params["context"])
            config, outputs = params["config"], params.get("outputs") or {}
        except (KeyError, TypeError) as missing:
            raise _Refused(-32602, f"wrong params of `{method}`: {missing}") from None
        self._link.open(self._calls, call_id)
        step = self._step
        if method == "validate":
            return {"problems": step.validate(ctx, config)}
        if method == "plan":
            plan = step.plan(ctx, config)
            return {"summary": plan} if isinstance(plan, str) else plan
        if method == "observe":
            return step.observe(ctx, config)
        if method == "apply":
            return {"outputs": step.apply(ctx, config)}
        if method == "verify":
            return {"checks": step.verify(ctx, config, outputs, params.get("depth") == "deep")}
        step.undo(ctx, config, outputs)
        return {}


def run(step: Step) -> None:
    """Serves `step` until `migrate` has no more to ask. Call it last."""
    if len(sys.argv) > 1 or sys.stdin.isatty():
        sys.stderr.write(f"this is a plugin of migrate, for the step `{step.name}`; "
                         "to test it: migrate plugin test FILE\n")
        sys.exit(2)
    # The protocol gets streams of its own: what the step or a program that it starts prints goes to
    # the log, and what they read is nothing.
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    _Server(step, _Link(source, sink)).serve()
