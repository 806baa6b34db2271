"""Kept latents train as their clips do, and are never those of another model."""

import json
import pathlib
import shutil
import tempfile
from unittest import mock

from absl.testing import absltest
import jax
import numpy as np
import tiny_config
from tiny_lamd import autoencoder, generator
from tiny_run import tiny_run

from lamd_jax.data import pipeline, sources
from lamd_jax.experiment import batches, latent_cache
from lamd_jax.types import UserError

KEY = jax.random.key(3)


class LatentsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.config = tiny_config.get_config()
    self.config.data.update(num_train=3, num_frames=3)
    self.config.dmg.train.steps = 100
    self.source = sources.make_source(self.config.data.to_dict(), "train")
    self.source._length = 5  # Three windows of each.
    self.stage = generator()[0]

  def open(self):
    run = tiny_run(self.config, self.folder)
    batch = batches.abstract_batch(run, "dmg", self.config.dmg.train.batch_size)
    return latent_cache.open_latents(run, "dmg", self.stage, self.source, batch)

  def batches(self, read=None):
    return pipeline.batches(
      self.source, num_frames=3, frame_stride=1, batch_size=8, seed=1, read=read
    )

  def test_a_batch_of_kept_latents_has_the_loss_of_its_clips(self):
    read = self.open()
    loss = jax.jit(
      lambda batch: self.stage.loss(generator()[1], batch, KEY, train=True)
    )
    for clips, kept in zip(self.batches(), self.batches(read), strict=False):
      np.testing.assert_array_equal(clips["index"], kept["index"])
      np.testing.assert_array_equal(clips["video"][:, :1], kept["video"])
      np.testing.assert_allclose(loss(kept)[0], loss(clips)[0], rtol=1e-4)
      break
    kept = {**kept, "motion_mean": np.roll(kept["motion_mean"], 1, axis=0)}
    self.assertGreater(abs(loss(kept)[0] - loss(clips)[0]), 1e-4)

  def test_every_window_has_a_row_of_its_own(self):
    read = self.open()
    rows = [read(i, start)["motion_mean"] for i in range(3) for start in range(3)]
    self.assertLen(np.unique(np.stack(rows).reshape(9, -1), axis=0), 9)

  def test_they_are_computed_once(self):
    first = self.open()(2, 1)
    with mock.patch.object(latent_cache, "_compute", side_effect=AssertionError):
      second = self.open()(2, 1)
    for key, x in first.items():
      np.testing.assert_array_equal(x, second[key])

  def test_those_of_another_model_are_computed_anew(self):
    self.open()
    params = jax.tree.map(lambda x: x, autoencoder()[1])
    params["conv_out"] = {**params["conv_out"], "bias": params["conv_out"]["bias"] + 1}
    self.stage = self.stage.replace(vae_params=params)
    with self.assertLogs("absl", "INFO") as logs:
      self.assertIsNotNone(self.open())
    self.assertRegex(logs.output[0], "computed anew: .* made from other parameters")
    self.assertRegex(logs.output[1], "latents of 9 windows are kept")
    with self.assertNoLogs("absl"):
      self.open()

  def test_those_of_other_clips_are_computed_anew(self):
    before = self.open()(2, 2)["motion_mean"].copy()
    read = self.source.read
    one_is_other = lambda i, *args: np.roll(read(i, *args), int(i == 2), axis=1)
    with mock.patch.object(self.source, "read", one_is_other):
      after = self.open()(2, 2)["motion_mean"].copy()
      self.assertGreater(np.abs(after - before).max(), 1e-3)
      shutil.rmtree(self.folder / "latents")
      np.testing.assert_array_equal(self.open()(2, 2)["motion_mean"], after)

  def test_files_of_another_size_are_other_clips(self):
    self.source.stamp = lambda i: f"{i}"
    self.open()
    with mock.patch.object(latent_cache, "_compute", side_effect=AssertionError):
      self.open()
      self.source.stamp = lambda i: f"{i + (i == 1)}"
      with self.assertRaises(AssertionError):
        self.open()

  def test_where_clips_lie_makes_no_difference(self):
    self.config.data = dict(
      name="video_folder", path="here", num_frames=3, frame_stride=1, resolution=8
    )
    self.open()
    self.config.data.path = "moved"
    with mock.patch.object(latent_cache, "_compute", side_effect=AssertionError):
      self.open()

  def test_a_folder_without_its_origin_is_computed_anew(self):
    expected = self.open()(1, 1)["motion_mean"].copy()
    (self.folder / "latents/dmg/made_from.json").unlink()
    with self.assertLogs("absl", "WARNING") as logs:
      np.testing.assert_array_equal(self.open()(1, 1)["motion_mean"], expected)
    self.assertRegex(logs.output[0], "made from other parameters .unknown")

  def test_an_interrupted_run_goes_on_to_the_same_bits(self):
    self.open()
    path = self.folder / "latents/dmg/motion_mean.npy"
    expected = path.read_bytes()
    shutil.rmtree(self.folder / "latents")
    read, seen = self.source.read, []

    def interrupted(*args):
      seen.append(args)
      if len(seen) > 10 + 8:  # After a look at the clips, in the second batch.
        raise KeyboardInterrupt
      return read(*args)

    with mock.patch.object(self.source, "read", interrupted):
      with self.assertRaises(KeyboardInterrupt):
        self.open()
      self.assertNotEqual(path.read_bytes(), expected)
      del seen[:]  # Room for one batch more, not for two.
      self.open()
    self.assertEqual(path.read_bytes(), expected)
    self.assertIn("parameters", json.loads(
      (self.folder / "latents/dmg/made_from.json").read_text()))  # fmt: skip

  def test_a_damaged_row_is_computed_anew_by_the_next_run(self):
    expected = self.open()(1, 1)["motion_mean"]
    path = self.folder / "latents/dmg/motion_mean.npy"
    content = bytearray(path.read_bytes())
    content[256 + 4 * expected.nbytes] ^= 1
    path.write_bytes(content)
    read = self.open()
    self.assertLen([read(0, start) for start in range(3)], 3)
    with self.assertRaisesRegex(UserError, "latents/dmg is damaged; run the same"):
      read(1, 1)
    np.testing.assert_array_equal(self.open()(1, 1)["motion_mean"], expected)

  def test_mirrored_or_seldom_met_windows_are_not_kept(self):
    self.config.augment = dict(flip=True)
    self.assertIsNone(self.open())
    self.config.augment.flip = False
    self.config.dmg.train.steps = 4  # 32 visits of 9 windows: less than 4 of each.
    self.assertIsNone(self.open())
    self.config.dmg.train.steps = 5
    self.assertIsNotNone(self.open())

  def test_more_than_the_limit_is_not_kept(self):
    with mock.patch.object(latent_cache, "MAX_BYTES", 1000):
      self.assertIsNone(self.open())
    self.assertFalse((self.folder / "latents").exists())

  def test_a_first_stage_has_nothing_to_keep(self):
    self.stage = autoencoder()[0]
    self.assertIsNone(self.open())


if __name__ == "__main__":
  absltest.main()
