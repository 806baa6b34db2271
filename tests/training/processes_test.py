"""Several real processes: one training, one place to stop, one order of examples."""

import pathlib
import signal
import tempfile

from absl.testing import absltest
import numpy as np
import one_stage_config
import real_processes

from lamd_jax import train
from lamd_jax import workdir as workdir_lib
from lamd_jax.training import checkpoint, examples

STEPS = 8


class ProcessesTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    temporary = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.whole, self.parts = temporary / "whole", temporary / "parts"

  def train_here(self, folder):
    config = one_stage_config.get_config(f"steps={STEPS}")
    workdir_lib.open_workdir(folder, config)
    train.train(config, folder)

  def test_two_that_are_stopped_together_are_gone_on_from_by_one(self):
    processes = real_processes.start(self.parts, 2, steps=STEPS)
    real_processes.wait_for_update(processes, self.parts, 2)
    processes[1].send_signal(signal.SIGTERM)  # One hears it, both save.
    statuses, _ = real_processes.wait(processes, 120)
    log = real_processes.log(self.parts, 0).read_text()
    self.assertEqual(statuses, [128 + signal.SIGTERM] * 2, log)
    folder = self.parts / real_processes.STAGE
    stopped = checkpoint.latest_step(folder / workdir_lib.CHECKPOINTS)
    assert stopped is not None
    self.assertIn(f"stage mcd_vae saved at step {stopped} of {STEPS}", log)
    self.assertNotIn("saved at step", real_processes.log(self.parts, 1).read_text())
    self.assertBetween(stopped, 2, STEPS - 1)
    self.assertEqual(list(examples.read(folder)), [*range(1, stopped + 1)])

    self.train_here(self.parts)
    self.train_here(self.whole)
    self.assertEqual(
      examples.read(folder), examples.read(self.whole / real_processes.STAGE)
    )
    ours, expected = map(real_processes.losses, (self.parts, self.whole))
    self.assertEqual(list(expected), [*range(1, STEPS + 1)])
    np.testing.assert_allclose(
      [ours[step] for step in expected], [*expected.values()], rtol=1e-5
    )


if __name__ == "__main__":
  absltest.main()
