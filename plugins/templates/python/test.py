"""The plugin's own test: python3 test.py"""
import tempfile
import unittest
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

from migrate_step import Cancelled, TestContext

loader = SourceFileLoader("plugin", str(Path(__file__).with_name("migrate-step-team.example")))
plugin = module_from_spec(spec_from_loader("plugin", loader))
loader.exec_module(plugin)


class Test(unittest.TestCase):
    def test_it_goes_on_where_it_was_stopped(self) -> None:
        config = {"to": "out", "items": ["a", "b", "c"]}
        with tempfile.TemporaryDirectory() as folder:
            stopped = TestContext(folder, stop_at=2)
            with self.assertRaises(Cancelled):
                plugin.Example().apply(stopped, config)
            (Path(folder) / "out/a").unlink()
            resumed = TestContext(folder, cursor=stopped.cursors[-1])
            outputs = plugin.Example().apply(resumed, config)
            self.assertEqual((outputs, resumed.cursors), ({"written": 3}, [3]))
            checks = plugin.Example().verify(resumed, config, outputs, False)
            self.assertEqual(checks[0]["status"], "failed", "a lost file is found")


if __name__ == "__main__":
    unittest.main()
