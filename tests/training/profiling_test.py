"""Traces for xprof: readable, and of the requested steps only."""

import pathlib
import tempfile
import warnings

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
from jax.profiler import ProfileData

from lamd_jax.training import profiling
from lamd_jax.types import UserError


def train(folder, steps, first, last):
  double = jax.jit(lambda x: x * 2)
  with profiling.Profiler(folder, steps) as profiler:
    for number in range(first, last + 1):
      with profiler.step(number):
        double(jnp.ones(3))


class ProfilingTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def traced(self):
    """Returns the step numbers in the trace."""
    (path,) = (self.folder / "profile").rglob("*.xplane.pb")
    data = ProfileData.from_serialized_xspace(path.read_bytes())
    events = [e for plane in data.planes for line in plane.lines for e in line.events]
    # On Python 3.13 jaxlib's type of a statistic causes a warning, and aborts the
    # process where warnings are errors.
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", DeprecationWarning)
      return sorted(dict(e.stats)["step_num"] for e in events if e.name == "train")

  def test_a_trace_holds_the_steps_asked_for(self):
    train(self.folder, (3, 4), first=1, last=6)
    self.assertEqual(self.traced(), [3, 4])

  def test_a_run_that_ends_before_writes_what_it_has(self):
    train(self.folder, (3, 9), first=4, last=5)
    self.assertEqual(self.traced(), [4, 5])

  def test_the_trace_is_written_as_soon_as_its_last_step_is_over(self):
    with profiling.Profiler(self.folder, (1, 1)) as profiler:
      with profiler.step(1):
        jax.jit(lambda x: x * 2)(jnp.ones(3))
      self.assertEqual(self.traced(), [1])

  def test_steps_that_are_not_trained_are_said(self):
    with self.assertLogs("absl", "WARNING") as logs:
      train(self.folder, (3, 4), first=5, last=6)
    self.assertIn("no step of --profile_steps=3:4", logs.output[0])
    self.assertFalse((self.folder / "profile").exists())

  def test_nothing_is_traced_unless_asked_for(self):
    with self.assertNoLogs("absl"):
      train(self.folder, None, first=1, last=2)
    self.assertEqual(list(self.folder.iterdir()), [])

  def test_a_range_is_read(self):
    self.assertEqual(profiling.parse_steps("10:20"), (10, 20))
    self.assertEqual(profiling.parse_steps("3:3"), (3, 3))

  @parameterized.parameters("", "10", "20:10", "0:5", "a:b", "1:2:3", "-1:4")
  def test_a_mistake_says_what_is_expected(self, text):
    with self.assertRaisesRegex(UserError, f"--profile_steps={text}: expected FIRST:L"):
      profiling.parse_steps(text)


if __name__ == "__main__":
  absltest.main()
