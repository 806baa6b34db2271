"""Weights and Biases, with a stand-in for its package."""

import io
import math
import pathlib
import sys
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import jax.numpy as jnp
import numpy as np

from lamd_jax.training import logging, wandb_run
from lamd_jax.types import UserError


class Run:
  def __init__(self, how):
    self.how, self.logged, self.is_finished = how, [], False

  def define_metric(self, name, step_metric=None):
    pass

  def log(self, values):
    self.logged.append(values)

  def finish(self):
    self.is_finished = True


class StandIn:
  """The parts of the package that are used."""

  Image = staticmethod(lambda array: ("picture", array.shape))

  def __init__(self, error=None):
    self.runs, self.error = [], error

  def init(self, **how):
    if self.error:
      raise self.error
    self.runs.append(Run(how))
    return self.runs[-1]


class WandbRunTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    temporary = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(temporary) / "work" / "dmg"

  def install(self, module):
    self.enterContext(mock.patch.dict(sys.modules, {"wandb": module}))

  def log(self, **kwargs):
    kwargs = dict(total_steps=9, log_every=1, stream=io.StringIO(), **kwargs)
    return logging.Log(self.folder, wandb="videos", **kwargs)

  def test_scalars_and_pictures_arrive_with_their_step(self):
    self.install(wandb := StandIn())
    with self.log() as log:
      log.step(1, {"loss": jnp.array(2.5), "grad_norms": jnp.ones(3)}, now=True)
      log.image(1, "clips", np.zeros((4, 5, 3), np.uint8))
      log.extra(1, {"motion_ratio": 0.5})
      log.step(2, {"loss": jnp.array(math.nan)})
    (run,) = wandb.runs
    scalars, picture, extra, bad = run.logged
    self.assertEqual((scalars["step"], scalars["loss"]), (1, 2.5))
    self.assertNotIn("grad_norms", scalars)
    self.assertEqual(picture, {"step": 1, "clips": ("picture", (4, 5, 3))})
    self.assertEqual(extra, {"step": 1, "motion_ratio": 0.5})
    self.assertEqual((bad["step"], "loss" in bad), (2, False))
    self.assertTrue(run.is_finished)
    self.assertEqual((run.how["project"], run.how["name"]), ("videos", "work/dmg"))

  def test_a_resume_goes_on_with_the_same_run(self):
    self.install(wandb := StandIn())
    for _ in range(2):
      with self.log():
        pass
    self.folder = self.folder.with_name("mcd_vae")
    with self.log():
      pass
    first, second, other = [run.how["id"] for run in wandb.runs]
    self.assertEqual(first, second)
    self.assertNotEqual(first, other)
    self.assertEqual({run.how["resume"] for run in wandb.runs}, {"allow"})

  def test_without_the_package_it_says_what_to_install(self):
    self.install(None)  # Importing it fails.
    with self.assertRaisesRegex(UserError, r"'videos': .*pip install 'lamd-jax\[wandb"):
      wandb_run.check("videos")
    wandb_run.check("")

  def test_a_run_that_does_not_start_is_a_message(self):
    self.install(StandIn(RuntimeError("no network\nat all")))
    with self.assertRaisesRegex(UserError, r"did not start \(no network\); run `wandb"):
      self.log()


if __name__ == "__main__":
  absltest.main()
