"""Batches of a run: their shapes, the images that go along, and held-out clips."""

import pathlib
import tempfile

from absl.testing import absltest, parameterized
import jax
import numpy as np
import tiny_config
from tiny_lamd import generator
from tiny_run import tiny_run
import tiny_vdm

from lamd_jax.data import pipeline, sources
from lamd_jax.experiment import batches
from lamd_jax.systems import table

WORDS = dict(kind="words", dropout=0.1, vocabulary="shapes", num_words=37)


def with_words():
  config = tiny_config.get_config()
  config.condition = WORDS
  return config


CONFIGS = (tiny_config.get_config, tiny_vdm.get_config, with_words)


def opened(run, stage=None, **kwargs):
  """Returns the first three batches of the last stage, and the source they are from."""
  name = run.stages[-1]
  source = sources.make_source(run.data(name), "train")
  stage = table.bare_stage(run.config, name) if stage is None else stage
  make = batches.training_batches(run, name, stage, source, 10)
  iterator = make(**kwargs)
  found = [next(iterator) for _ in range(3)]
  iterator.close()
  return found, source


def shapes(batch):
  return {name: (x.shape, np.dtype(x.dtype)) for name, x in batch.items()}


class BatchesTest(parameterized.TestCase):
  @parameterized.parameters(*CONFIGS)
  def test_the_shapes_are_those_of_what_is_trained_on(self, get_config):
    run = tiny_run(get_config())
    (batch, *_), source = opened(run)
    del batch["index"]
    self.assertEqual(
      shapes(batch), shapes(batches.abstract_batch(run, run.stages[-1], 8))
    )
    held_out, _ = batches.eval_batch(run, run.stages[-1], source, 4)
    expected = shapes(batches.abstract_batch(run, run.stages[-1], 4))
    images = {name for name in expected if name.startswith("image")}
    self.assertEqual(images != set(), get_config == tiny_vdm.get_config)
    # Held-out clips have no images: those are for training.
    expected = {name: x for name, x in expected.items() if name not in images}
    self.assertEqual(shapes(held_out), expected)

  def test_images_have_conditions_of_their_own(self):
    config = tiny_vdm.get_config()
    config.images.num = 5
    run = tiny_run(config)
    self.assertEqual(batches.num_images(run), 5)
    found = batches.abstract_batch(run, "base", 2)
    self.assertEqual(found["images"].shape, (2, 5, 8, 8, 3))
    self.assertEqual(found["image_label"].shape, (2, 5))
    self.assertEqual(found["image_label"].dtype, found["label"].dtype)
    self.assertEqual(batches.num_images(tiny_run()), 0)

  def test_every_example_is_its_own_video_with_its_own_condition(self):
    config = tiny_vdm.get_config()
    config.augment.flip = False
    found, source = opened(tiny_run(config))
    for batch in found:
      for i, video, label in zip(
        batch["index"], batch["video"], batch["label"], strict=True
      ):
        np.testing.assert_array_equal(video, source.read(int(i), 0, 3, 1))
        self.assertEqual(label, source.annotation(int(i))["label"])
      # Each image is a frame of a video with the image's label.
      frames = {
        source.read(i, j, 1, 1).tobytes(): source.annotation(i)["label"]
        for i in range(len(source))
        for j in range(3)
      }
      for images, labels in zip(batch["images"], batch["image_label"], strict=True):
        for image, label in zip(images, labels, strict=True):
          self.assertEqual(frames[image.tobytes()], label)

  def test_a_batch_depends_on_the_seed_and_its_number_alone(self):
    config = tiny_vdm.get_config()
    first, _ = opened(tiny_run(config))
    later, _ = opened(tiny_run(config), start_step=1)
    for a, b in zip(first[1:], later, strict=False):
      jax.tree.map(np.testing.assert_array_equal, a, b)
    again, _ = opened(tiny_run(config), num_threads=1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    config.seed = 9
    other, _ = opened(tiny_run(config))
    self.assertNotEqual(
      [x["index"].tolist() for x in first], [x["index"].tolist() for x in other]
    )


class ImagesTest(absltest.TestCase):
  def test_images_are_frames_of_the_videos_unless_another_source_is_named(self):
    run = tiny_run(tiny_vdm.get_config())
    videos = sources.make_source(run.data("base"), "train")
    self.assertIs(batches.image_source(run, "base", videos, "train"), videos)
    self.assertIs(batches.image_source(tiny_run(), "dmg", videos, "train"), videos)
    run.config.images.source = dict(name="shapes", num_train=3, num_eval=2, seed=5)
    run.config.base.clip = dict(resolution=16)
    for split, number in (("train", 3), ("eval", 2)):
      found = batches.image_source(run, "base", videos, split)
      self.assertLen(found, number)
      # Pictures of the size of the stage's clips.
      self.assertEqual(found.read(0, 0, 1, 1).shape, (1, 16, 16, 3))
      self.assertEqual(found.num_frames(0), 1)

  def test_labels_of_images_are_those_of_their_source(self):
    config = tiny_vdm.get_config()
    config.images.source = dict(name="shapes", num_train=3, num_eval=1, seed=5)
    config.augment.flip = False
    run = tiny_run(config)
    (batch, *_), videos = opened(run)
    source = batches.image_source(run, "base", videos, "train")
    labels = {
      source.read(i, 0, 1, 1).tobytes(): source.annotation(i)["label"] for i in range(3)
    }
    for image, label in zip(
      batch["images"].reshape(-1, 8, 8, 3), batch["image_label"].ravel(), strict=True
    ):
      self.assertEqual(labels[image.tobytes()], label)


class EvalTest(absltest.TestCase):
  def test_held_out_clips_are_always_the_same_and_say_where_they_are_from(self):
    run = tiny_run(tiny_vdm.get_config())
    source = sources.make_source(run.data("base"), "eval")
    batch, numbers = batches.eval_batch(run, "base", source, 3)
    self.assertEqual(numbers, [i for i, _ in pipeline.eval_windows(source, 3, 3, 1)])
    for i, number in enumerate(numbers):
      np.testing.assert_array_equal(batch["video"][i], source.read(number, 0, 3, 1))
      self.assertEqual(batch["label"][i], source.annotation(number)["label"])
    run.config.seed = 9  # Which is training's.
    again, _ = batches.eval_batch(run, "base", source, 3)
    jax.tree.map(np.testing.assert_array_equal, batch, again)

  def test_they_are_as_long_and_as_fast_as_the_stage_sees_them(self):
    config = tiny_config.get_config()
    config.dmg.clip = dict(num_frames=2, frame_stride=2)
    run = tiny_run(config)
    source = sources.make_source(run.data("mcd_vae"), "eval")  # Of 3 frames.
    batch, numbers = batches.eval_batch(run, "dmg", source, 2)
    video = source.read(numbers[1], 0, 3, 1)
    np.testing.assert_array_equal(batch["video"][1], video[::2])


class LatentsTest(absltest.TestCase):
  def test_what_a_frozen_stage_makes_is_kept_in_the_work_folder(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    config = tiny_config.get_config()
    config.dmg.train.steps = 100  # Each window is met often enough.
    run = tiny_run(config, folder)
    (batch, *_), source = opened(run, generator()[0])
    self.assertEqual(batch["video"].shape, (8, 1, 8, 8, 3))
    self.assertIn("motion_mean", batch)
    self.assertTrue((folder / "latents" / "dmg").is_dir())
    for i, video in zip(batch["index"], batch["video"], strict=True):
      np.testing.assert_array_equal(video, source.read(int(i), 0, 1, 1))


if __name__ == "__main__":
  absltest.main()
