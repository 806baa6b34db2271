"""Two runs in one work folder, and one folder trained twice, in real processes."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

from absl.testing import absltest
import chex
import orbax.checkpoint as ocp
import pytest
import real_processes

from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.files import lock
from lamd_jax.training import checkpoint

STEPS = 6


def last_state(folder):
  """Returns all arrays of the last checkpoint: parameters, averages, optimizer."""
  folder = folder / real_processes.STAGE / workdir_lib.CHECKPOINTS
  step = checkpoint.latest_step(folder)
  return step, ocp.StandardCheckpointer().restore(folder / str(step) / "state")


@pytest.mark.process
class TwoRunsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    temporary = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.alone, self.shared = temporary / "alone", temporary / "shared"

  def train(self, folder, steps):
    processes = real_processes.start(folder, 1, steps=steps)
    statuses, _ = real_processes.wait(processes, 300)
    self.assertEqual(statuses, [0], real_processes.log(folder, 0).read_text())

  def second(self, mode):
    """Runs a second process in the folder of the first; returns its outcome."""
    command = [sys.executable, "-m", "lamd_jax.main", f"--mode={mode}"]
    command += [f"--config={real_processes.CONFIG}:steps={STEPS}"]
    return subprocess.run(
      [*command, f"--workdir={self.shared}"],
      env=real_processes.environment(),
      capture_output=True,
      text=True,
      timeout=300,
    )

  def test_the_second_names_the_first_which_ends_bit_for_bit_as_alone(self):
    self.train(self.alone, STEPS)
    (first,) = real_processes.start(self.shared, 1, steps=STEPS)
    real_processes.wait_for_update([first], self.shared, 2)
    first.send_signal(signal.SIGSTOP)  # Until all others have tried.
    for mode in ("train", "all", "sample", "evaluate", "export"):
      done = self.second(mode)
      self.assertEqual(done.returncode, 2, done.stderr)
      line = done.stderr.strip().splitlines()[-1]
      who = f"process {first.pid} on {socket.gethostname()} since "
      self.assertIn(f"error: {self.shared} is in use by {who}", line)
      self.assertNotIn("Traceback", done.stderr)
    done = self.second("report")  # Of what is there so far.
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertTrue((self.shared / "report.html").exists())
    first.send_signal(signal.SIGCONT)
    statuses, _ = real_processes.wait([first], 300)
    self.assertEqual(statuses, [0])
    (step, ours), (expected_step, expected) = map(last_state, (self.shared, self.alone))
    self.assertEqual((step, expected_step), (STEPS, STEPS))
    chex.assert_trees_all_equal(ours, expected)
    self.assertEqual(*map(real_processes.losses, (self.shared, self.alone)))
    self.assertFalse((self.shared / lock.FILE).exists())

  def test_a_killed_run_leaves_a_lock_that_the_next_one_takes_over(self):
    self.train(self.alone, STEPS)
    (first,) = real_processes.start(self.shared, 1, steps=STEPS)
    real_processes.wait_for_update([first], self.shared, 3)
    first.send_signal(signal.SIGKILL)
    first.wait()
    self.assertIn(f'"pid": {first.pid},', (self.shared / lock.FILE).read_text())
    self.train(self.shared, STEPS)
    chex.assert_trees_all_equal(last_state(self.shared), last_state(self.alone))

  def test_a_finished_folder_is_trained_on_for_more_steps(self):
    self.train(self.alone, STEPS)
    self.train(self.shared, STEPS - 2)
    self.assertEqual(last_state(self.shared)[0], STEPS - 2)
    self.train(self.shared, STEPS)
    # The learning rate is constant, so that its schedule makes no difference.
    chex.assert_trees_all_equal(last_state(self.shared), last_state(self.alone))
    self.assertEqual(*map(real_processes.losses, (self.shared, self.alone)))
    self.assertIn("more steps", real_processes.log(self.shared, 0).read_text())


if __name__ == "__main__":
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  absltest.main()
