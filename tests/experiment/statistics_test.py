"""Latents measured after a training: what is written, whose it is, and when."""

import json
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from flax import struct
import jax.numpy as jnp
import numpy as np
import tiny_config

from lamd_jax.experiment import statistics
from lamd_jax.experiment.run import make_run
from lamd_jax.systems import stage as stage_lib
from lamd_jax.types import UserError

PARAMS = {"layer": {"kernel": jnp.arange(6.0).reshape(2, 3)}}


@struct.dataclass
class Stage:
  """Latents are the pixels of a batch, scaled by a parameter."""

  given_frames: int = struct.field(pytree_node=False, default=0)
  init = loss = sample = protocol = mock.Mock(side_effect=AssertionError)

  def measure(self, params, batch, key):
    del key
    return params["layer"]["kernel"][0, 1] * batch["video"].astype(jnp.float32)


def open_batches(*, start_step):
  """Batches of 8 clips with a mean and a spread of their own for each channel."""

  def batches():
    rng = np.random.default_rng(start_step)
    while True:
      video = rng.integers(0, (10, 100, 250), (8, 3, 8, 8, 3)).astype(np.uint8)
      yield {"video": video, "index": np.arange(8, dtype=np.int32)}

  return batches()


class StatisticsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.run_ = make_run(tiny_config.get_config(), folder)
    self.path = folder / "mcd_vae" / statistics.FILE

  def measure(self):
    statistics.measure(self.run_, "mcd_vae", Stage(), PARAMS, open_batches)

  def test_they_are_mean_and_spread_of_each_channel(self):
    self.measure()
    found = statistics.read(self.run_, "mcd_vae", PARAMS)
    self.assertEqual(found["num_clips"], statistics.NUM_CLIPS)
    high = np.array([10, 100, 250])
    # Of whole numbers below n the mean is (n - 1) / 2, the variance (n^2 - 1) / 12.
    np.testing.assert_allclose(found["shift"], (high - 1) / 2, rtol=0.02)
    np.testing.assert_allclose(found["scale"], np.sqrt((high**2 - 1) / 12), rtol=0.02)

  def test_those_of_other_parameters_are_refused(self):
    self.measure()
    other = {"layer": {"kernel": PARAMS["layer"]["kernel"] + 1.0}}
    with self.assertRaisesRegex(UserError, "belongs to other parameters"):
      statistics.read(self.run_, "mcd_vae", other)
    renamed = {"layers": PARAMS["layer"]}
    with self.assertRaisesRegex(UserError, "belongs to other parameters"):
      statistics.read(self.run_, "mcd_vae", renamed)

  def test_a_stage_that_was_not_measured_has_none(self):
    self.assertEqual(dict(statistics.read(self.run_, "mcd_vae", PARAMS)), {})

  def test_only_a_stage_that_asks_for_it_has_to_be_measured(self):
    self.assertTrue(statistics.is_there(self.run_, "mcd_vae"))
    self.assertIsInstance(Stage(), stage_lib.MeasuredStage)
    with mock.patch.object(statistics, "bare_stage", lambda *args: Stage()):
      self.assertFalse(statistics.is_there(self.run_, "mcd_vae"))
      self.measure()
      self.assertTrue(statistics.is_there(self.run_, "mcd_vae"))

  def test_the_file_is_plain_json(self):
    self.measure()
    keys = {"shift", "scale", "num_clips", "parameters"}
    self.assertEqual(set(json.loads(self.path.read_text())), keys)


if __name__ == "__main__":
  absltest.main()
