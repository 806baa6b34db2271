"""How the tests run: their devices, what they share, and that their marks count."""

import ast
import os
import pathlib
import subprocess
import sys

from absl.testing import absltest
import jax
from made_once import made_once
import pytest

TESTS = pathlib.Path(__file__).parent
COMPILE = """
import numpy as np
import jax
hits = []
count = lambda name, **_: name.endswith("cache_hits") and hits.append(name)
jax.monitoring.register_event_listener(count)
jax.jit(lambda x: x * {number} + 1)(np.ones(3))
print(len(hits) > 0)
"""
MAKE = """
import sys, time
sys.path.insert(0, {helpers!r})
from made_once import made_once
def make(folder):
  folder.mkdir()
  (folder / "maker").write_text({name!r})
  time.sleep(1.0)  # Longer than the others need to arrive.
print((made_once({key!r}, make) / "maker").read_text())
"""


def start(program):
  return subprocess.Popen(
    [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
  )


def marks_without_effect(text):
  """Returns the lines of marks above `parameterized`, which hands out copies."""
  found = []
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef):
      names = [ast.unparse(x) for x in node.decorator_list]
      last = max(
        (i for i, name in enumerate(names) if name.startswith("parameterized.")),
        default=-1,
      )
      lines = [x.lineno for x in node.decorator_list[: last + 1]]
      pairs = zip(names, lines, strict=False)
      found += [line for name, line in pairs if name.startswith("pytest.mark.")]
  return found


class MarksTest(absltest.TestCase):
  def test_marks_stand_below_the_parameters_of_a_test(self):
    found = {
      str(path.relative_to(TESTS)): marks_without_effect(path.read_text())
      for path in TESTS.rglob("*_test.py")
    }
    self.assertEqual({k: v for k, v in found.items() if v}, {})

  def test_a_mark_without_effect_is_found(self):
    mark, parameters = "@pytest.mark.mesh\n", "@parameterized.parameters(1)\n"
    test = "def test(self):\n  pass\n"
    self.assertEqual(marks_without_effect(mark + parameters + test), [1])
    self.assertEqual(marks_without_effect(parameters + mark + test), [])
    self.assertEqual(marks_without_effect(mark + test), [])


class DevicesTest(absltest.TestCase):
  def test_there_is_one_device(self):
    self.assertEqual(jax.device_count(), 1)

  @pytest.mark.mesh
  def test_there_are_eight_under_the_mark_mesh(self):
    self.assertEqual(jax.device_count(), 8)


class SharedTest(absltest.TestCase):
  def test_a_folder_is_made_by_one_process_and_the_others_wait_for_it(self):
    key = f"suite_test_{os.getpid()}"
    fill = dict(helpers=str(TESTS / "helpers"), key=key)
    processes = [start(MAKE.format(name=name, **fill)) for name in "abc"]
    makers = [process.communicate()[0].strip() for process in processes]
    self.assertLen(set(makers), 1)
    self.assertIn(makers[0], list("abc"))

  def test_what_failed_is_made_again(self):
    def fail(folder):
      folder.mkdir()
      raise OSError("full")

    key = f"suite_test_again_{os.getpid()}"
    with self.assertRaisesRegex(OSError, "full"):
      made_once(key, fail)
    self.assertEmpty(list(made_once(key, lambda folder: folder.mkdir()).iterdir()))

  @pytest.mark.process
  def test_a_program_is_compiled_once_for_all_processes(self):
    config = jax.config
    if not (config.jax_enable_compilation_cache and config.jax_compilation_cache_dir):
      self.skipTest("the cache of compiled programs is turned off")
    program = COMPILE.format(number=int.from_bytes(os.urandom(3)))
    hits = [start(program).communicate()[0].strip() for _ in range(2)]
    self.assertEqual(hits, ["False", "True"])


if __name__ == "__main__":
  absltest.main()
