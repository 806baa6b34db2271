"""Samples are made again when what they were made from is another, and only then."""

import json
import pathlib
import shutil
import tempfile
from unittest import mock
import zipfile

from absl.testing import absltest
import jax
from made_once import made_once
import numpy as np
import pytest
import tiny_config
from tiny_run import random_stages, save_stage, tiny_run, trained_folder

from lamd_jax.data import media
from lamd_jax.experiment import trained
from lamd_jax.jobs import generate
from lamd_jax.types import UserError


class Flat:
  """A sampler of videos of one grey, by which the parameters can be told."""

  def __init__(self, stage, devices, size, on_step=None):
    del devices, size, on_step
    total = sum(float(np.abs(x).sum()) for x in jax.tree.leaves(stage.params))
    self.grey = int(1000 * total) % 256

  def __call__(self, batch, key, through=None):
    del key, through
    return np.full_like(batch["video"], self.grey)


def make_config(clips):
  config = tiny_config.get_config()
  del config.data.num_train, config.data.num_eval
  config.data.name, config.data.path = "video_folder", str(clips)
  config.evaluate.num_clips = 2
  return config


def write_clips(folder, shift=0):
  folder.mkdir(parents=True, exist_ok=True)
  for i in range(12):
    video = np.full((3, 16, 16, 3), 20 * i + shift, np.uint8)
    media.write_mp4(folder / f"{i}.mp4", video, 8.0)


def make(folder):
  """Writes clips and a trained and sampled work folder."""
  write_clips(folder / "clips")
  run = trained_folder(make_config(folder / "clips"), folder / "run")
  with mock.patch.object(generate, "Sampler", Flat):
    generate.sample_clips(run)


class SamplesTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    temporary = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    shutil.copytree(made_once("sampled", make), temporary, dirs_exist_ok=True)
    self.folder, self.clips = temporary / "run", temporary / "clips"
    self.config = make_config(self.clips)
    self.run_ = tiny_run(self.config, self.folder)
    self.enterContext(mock.patch.object(generate, "Sampler", Flat))

  def sample(self, config=None):
    """Samples; returns the arrays, and whether they were written by this call."""
    path = self.folder / "samples" / "clips.npz"
    before = path.stat().st_mtime_ns if path.exists() else 0
    generate.sample_clips(tiny_run(config or self.config, self.folder))
    with np.load(path) as file:
      return {**file}, path.stat().st_mtime_ns != before

  def figures(self):
    """Writes figures, as if measured."""
    (self.folder / "metrics.json").write_text("{}")
    (self.folder / "cards").mkdir(exist_ok=True)
    (self.folder / "cards" / "sample_fvd.json").write_text("{}")

  def retrain(self, name="dmg"):
    """Replaces a stage by one with other parameters after as many steps."""
    shutil.rmtree(self.folder / name)
    params = random_stages(self.run_, seed=5)[name].params
    save_stage(self.run_, name, params)

  def test_the_same_again_are_left_as_they_are(self):
    self.figures()
    before, _ = self.sample()
    after, is_new = self.sample()
    self.assertFalse(is_new)
    self.assertEqual({*before}, {*after})
    self.assertTrue((self.folder / "cards" / "sample_fvd.json").exists())

  def test_a_retrained_stage_of_as_many_steps_is_sampled_again(self):
    before, _ = self.sample()
    self.figures()
    self.retrain()
    with self.assertRaisesRegex(UserError, "other parameters or settings .*=sample"):
      generate.check_samples(self.run_)
    after, is_new = self.sample()
    self.assertTrue(is_new)
    self.assertFalse(np.array_equal(before["sampled"], after["sampled"]))
    generate.check_samples(self.run_)
    # Figures of samples that are gone would be shown next to new ones.
    self.assertFalse((self.folder / "metrics.json").exists())
    self.assertEqual([*(self.folder / "cards").iterdir()], [])

  def test_a_retrained_first_stage_counts_too(self):
    self.retrain("mcd_vae")
    self.assertTrue(self.sample()[1])

  def test_other_clips_under_the_same_names_are_sampled_again(self):
    before, _ = self.sample()
    write_clips(self.clips, 9)
    after, is_new = self.sample()
    self.assertTrue(is_new)
    shift = after["real"].astype(float) - before["real"]
    np.testing.assert_allclose(shift, 9, atol=3)

  def test_moved_clips_are_the_same(self):
    self.clips.rename(self.clips.with_name("moved"))
    self.config.data.path = str(self.clips.with_name("moved"))
    self.assertFalse(self.sample()[1])

  def test_clips_that_are_gone_leave_samples_as_they_are(self):
    shutil.rmtree(self.clips)
    with self.assertLogs("absl", "WARNING") as logs:
      self.assertFalse(self.sample()[1])
    self.assertRegex(
      logs.output[-1], "already there.*clips cannot be read: .* does not"
    )
    self.retrain()
    with self.assertRaisesRegex(UserError, "does not exist"):
      self.sample()

  def test_other_settings_are_sampled_again_but_not_other_measures(self):
    self.config.evaluate.metrics = ()
    self.assertFalse(self.sample()[1])
    self.config.sample.num_steps = 2
    self.assertTrue(self.sample()[1])
    self.config.evaluate.samples_per_clip = 1
    after, is_new = self.sample()
    self.assertTrue(is_new)
    self.assertEqual(after["sampled"].shape[1], 1)
    self.assertFalse((self.folder / "samples" / "sample_0_1.mp4").exists())

  def test_damage_anywhere_in_the_file_is_sampled_again(self):
    path = self.folder / "samples" / "clips.npz"
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
      entry = file.getinfo("sampled.npy")
    content[entry.header_offset + 30 + len(entry.filename) + entry.compress_size] ^= 255
    path.write_bytes(content)
    self.assertTrue(self.sample()[1])

  @pytest.mark.slow
  def test_a_finished_video_is_not_gone_on_from_with_other_parameters(self):
    model = generate.Model(self.run_)
    picture = np.zeros((16, 16, 3), np.uint8)
    request = model.request("animate", picture[None])
    digest = lambda: generate.unfinished._digest(
      self.run_, request, trained.TrainedStages(self.run_)
    )
    before = digest()
    self.assertEqual(digest(), before)
    self.retrain()
    self.assertNotEqual(digest(), before)

  def test_a_stage_around_a_retrained_one_is_a_warning(self):
    stages = random_stages(self.run_)
    needs = trained.digests(self.run_, stages)
    trained.check_needs("dmg", {"needs": needs}, {"mcd_vae": needs["mcd_vae"]})
    with self.assertLogs("absl", "WARNING") as logs:
      trained.check_needs("dmg", {"needs": needs}, {"mcd_vae": "another"})
    self.assertRegex(logs.output[0], "dmg was trained with other parameters of mcd_vae")


class NamesTest(absltest.TestCase):
  def test_names_of_files_are_made_of_plain_characters_and_fit(self):
    for name, expected in (
      ("a b.png", "a_b"),
      ("a\nb\x1b[2J.png", "a_b_2J"),
      (json.loads('"caf\\udce9.png"'), "caf_"),
      ("\u3042" * 80 + ".png", "\u3042" * 33),
    ):
      wish = generate.Wish("animate", pathlib.Path(name), is_picture=True)
      self.assertEqual(generate._name(wish), expected)
      self.assertLess(len(expected.encode()), 230)


if __name__ == "__main__":
  absltest.main()
