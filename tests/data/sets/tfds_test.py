"""TFDS data sets: written here by TFDS itself, read back without TensorFlow."""

import io
import json
import pathlib
import shutil
import tempfile
from typing import ClassVar

from absl.testing import absltest, parameterized
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds
from video_fixtures import FolderTestCase, numbered_frames, numbers_of

from lamd_jax.data import pipeline, sources
from lamd_jax.types import UserError


def encoded(num_frames, first=0, image_format="PNG"):
  """Numbered frames of 12x14 as encoded bytes: TFDS stores them as they are."""
  images = []
  for pixels in numbered_frames(first + num_frames, 12, 14)[first:]:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, image_format, quality=95)
    images.append(data.getvalue())
  return images


class _Builder(tfds.core.GeneratorBasedBuilder):
  """A builder with splits of videos of given lengths, the base of those below."""

  VERSION = tfds.core.Version("1.0.0")
  pkg_dir_path = pathlib.Path(tempfile.gettempdir())  # Where no metadata lie.
  lengths: ClassVar[dict[str, tuple[int, ...]]]
  features: tfds.features.FeatureConnector

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=self.features)

  def _split_generators(self, dl_manager):
    del dl_manager
    return {split: self._generate_examples(split) for split in self.lengths}

  def _generate_examples(self, split):
    for index, length in enumerate(self.lengths[split]):
      yield index, self.example(index, length)


class Arm(_Builder):
  """Laid out as BAIR is: a sequence of steps with two cameras."""

  lengths: ClassVar = dict(train=(9, 12, 8), test=(7, 10))
  features = tfds.features.Sequence(
    {
      "image_main": tfds.features.Image(shape=(12, 14, 3)),
      "image_aux1": tfds.features.Image(shape=(12, 14, 3)),
      "action": tfds.features.Tensor(shape=(4,), dtype=np.float32),
    }
  )

  def example(self, index, length):
    return dict(
      image_main=encoded(length, first=index),
      image_aux1=encoded(length, first=index + 20),
      action=np.zeros((length, 4), np.float32),
    )


class Damaged(Arm):
  """The fifth frame of the first video is no image."""

  def example(self, index, length):
    example = super().example(index, length)
    if index == 0:
      example["image_main"][4] = b"no image"
    return example


class Episodes(_Builder):
  """Laid out as robot data often are: nested, one camera, jpg, only train."""

  lengths: ClassVar = dict(train=(8,) * 20)
  features = tfds.features.FeaturesDict(
    {
      "label": np.int64,
      "steps": tfds.features.Sequence(
        {"observation": {"image": tfds.features.Image(encoding_format="jpeg")}}
      ),
    }
  )

  def example(self, index, length):
    images = encoded(length, first=index, image_format="JPEG")
    return dict(label=index, steps=[dict(observation=dict(image=i)) for i in images])


class Stills(_Builder):
  """No sequence at all."""

  lengths: ClassVar = dict(train=(1, 1))
  features = tfds.features.FeaturesDict({"image": tfds.features.Image()})

  def example(self, index, length):
    return dict(image=encoded(length, first=index)[0])


def setUpModule():
  global DATA_DIR
  DATA_DIR = pathlib.Path(tempfile.mkdtemp()).resolve()
  for builder in (Arm, Damaged, Episodes, Stills):
    builder(data_dir=DATA_DIR, file_format="array_record").download_and_prepare()


def tearDownModule():
  shutil.rmtree(DATA_DIR)


class TfdsSourceTest(FolderTestCase):
  def source(
    self, tfds_name="arm", split="train", num_frames=3, frame_stride=2, **values
  ):
    data = dict(
      name="tfds", tfds_name=tfds_name, data_dir=str(DATA_DIR), num_frames=num_frames,
      frame_stride=frame_stride, resolution=10,
    )  # fmt: skip
    if tfds_name == "arm":
      data["image_key"] = "image_main"
    return sources.make_source(data | values, split)

  def copy(self, name="arm"):
    """A copy of a data set, to be damaged; returns the folder of its version."""
    shutil.copytree(DATA_DIR / name, self.folder / name)
    return self.folder / name / "1.0.0"

  def offsets(self, source):
    """TFDS shuffles: the first number of each video says which one it is."""
    return [numbers_of(source.read(i, 0, 1, 1))[0] for i in range(len(source))]

  def test_windows_are_read_where_they_were_asked_for(self):
    source = self.source()
    self.assertLen(source, 3)
    offsets = self.offsets(source)
    self.assertCountEqual(offsets, [0, 1, 2])
    for index, first in enumerate(offsets):
      self.assertEqual(source.num_frames(index), (9, 12, 8)[first])
      window = source.read(index, 2, 3, 2)
      self.assertEqual((window.shape, window.dtype), ((3, 10, 10, 3), np.uint8))
      self.assertEqual(numbers_of(window), [first + 2, first + 4, first + 6])
    self.assertEqual(source.annotation(0), {})
    self.assertEmpty(source.skipped)

  def test_evaluation_reads_the_test_split(self):
    source = self.source(split="eval")
    self.assertLen(source, 2)
    self.assertCountEqual([source.num_frames(i) for i in range(2)], [7, 10])

  def test_without_a_test_split_the_last_tenth_is_held_out(self):
    train = self.source("episodes", "train")
    held_out = self.source("episodes", "eval")
    self.assertEqual((len(train), len(held_out)), (18, 2))
    self.assertCountEqual(self.offsets(train) + self.offsets(held_out), range(20))

  def test_the_other_camera_is_another_key(self):
    main, aux = self.source(), self.source(image_key="image_aux1")
    np.testing.assert_array_equal(
      np.asarray(self.offsets(aux)) - self.offsets(main), [20, 20, 20]
    )

  def test_a_nested_key_has_dots_and_may_be_left_out_if_it_is_the_only_one(self):
    a = self.source("episodes")
    b = self.source("episodes", image_key="steps.observation.image")
    np.testing.assert_array_equal(a.read(3, 1, 3, 2), b.read(3, 1, 3, 2))

  def test_a_video_feature_is_read_as_well(self):
    folder = self.copy("episodes")
    features = json.loads((folder / "features.json").read_text())
    steps = features["featuresDict"]["features"].pop("steps")
    image = steps["sequence"]["feature"]["featuresDict"]["features"]["observation"]
    self.assertIn("image", str(image))
    # As TFDS describes features.Video, which it cannot build without TensorFlow.
    features["featuresDict"]["features"]["steps/observation/image"] = {
      "pythonClassName": "tensorflow_datasets.core.features.video_feature.Video",
      "video": {"shape": {"dimensions": ["-1", "-1", "-1", "3"]}, "dtype": "uint8"},
    }
    (folder / "features.json").write_text(json.dumps(features))
    source = self.source("episodes", data_dir=str(self.folder))
    np.testing.assert_array_equal(
      source.read(0, 0, 3, 2), self.source("episodes").read(0, 0, 3, 2)
    )

  def test_batches_come_out(self):
    batches = pipeline.batches(
      self.source(), num_frames=3, frame_stride=2, batch_size=4, seed=0
    )
    for _ in range(4):
      batch = next(batches)
      self.assertEqual(batch["video"].shape, (4, 3, 10, 10, 3))
      for video in batch["video"]:
        np.testing.assert_array_equal(np.diff(numbers_of(video)), [2, 2])

  def test_the_rate_can_be_given(self):
    self.assertEqual(self.source(fps=4.0).fps, 4.0)

  def test_the_latest_version_is_read_unless_one_is_named(self):
    folder = self.copy()
    for version in ("9.0.0", "10.0.0"):
      shutil.copytree(folder, folder.with_name(version))
    data_dir = str(self.folder)
    source = self.source(data_dir=data_dir)
    self.assertEqual(source._folder.name, "10.0.0")
    source = self.source("arm:9.0.0", data_dir=data_dir, image_key="image_main")
    self.assertEqual(source._folder.name, "9.0.0")
    with self.assertRaisesRegex(UserError, "no data set 'arm:3.0.0'"):
      self.source("arm:3.0.0", data_dir=data_dir)

  def test_a_configuration_is_found_and_several_must_be_told_apart(self):
    folder = self.copy()
    (self.folder / "arms" / "small").mkdir(parents=True)
    shutil.copytree(folder, self.folder / "arms" / "small" / "1.0.0")
    values = dict(data_dir=str(self.folder), image_key="image_main")
    self.assertLen(self.source("arms", **values), 3)
    shutil.copytree(self.folder / "arms" / "small", self.folder / "arms" / "large")
    with self.assertRaisesRegex(UserError, "add one of: arms/large, arms/small"):
      self.source("arms", **values)
    self.assertEqual(self.source("arms/large", **values)._folder.parent.name, "large")

  def test_missing_data_say_how_to_prepare_them(self):
    with self.assertRaises(UserError) as caught:
      sources.make_source(
        dict(name="tfds", data_dir=str(self.folder), num_frames=16), "train"
      )
    message = str(caught.exception)
    self.assertNotIn("\n", message)
    self.assertIn("step that needs TensorFlow", message)
    self.assertIn("pip install tensorflow tensorflow-datasets", message)
    self.assertIn(
      "tfds.builder('bair_robot_pushing_small', file_format='array_record', "
      f"data_dir='{self.folder}').download_and_prepare()",
      message,
    )

  @parameterized.parameters("image", "", None)
  def test_a_wrong_or_missing_key_lists_the_keys(self, image_key):
    given = "is not set" if not image_key else "is 'image'"
    with self.assertRaisesRegex(
      UserError, f"data.image_key {given}.*sequences: image_aux1, image_main"
    ):
      self.source(image_key=image_key)

  def test_a_data_set_without_a_sequence_says_what_it_has(self):
    with self.assertRaisesRegex(UserError, "no sequence of images; it has: image"):
      self.source("stills")

  def test_another_file_format_says_how_to_convert(self):
    folder = self.copy()
    for path in folder.glob("*array_record*"):
      path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    with self.assertRaisesRegex(UserError, "convert_format .*array_record"):
      self.source(data_dir=str(self.folder))

  def test_a_missing_file_of_a_split_is_noticed(self):
    folder = self.copy()
    path = next(folder.glob("*train*"))
    path.rename(path.with_name(path.name.replace("00000-of-00001", "00001-of-00003")))
    with self.assertRaisesRegex(UserError, "2 of the 3 files .* the first is number 0"):
      self.source(data_dir=str(self.folder))

  def test_a_damaged_file_is_a_line_not_a_crash(self):
    folder = self.copy()
    path = next(folder.glob("*train*"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with self.assertRaisesRegex(UserError, "'train' .* cannot be opened"):
      self.source(data_dir=str(self.folder))

  def test_an_episode_too_short_gives_way_to_the_next_and_is_named_once(self):
    source = self.source(num_frames=5)  # Nine frames; the one of eight is too short.
    short = [source.num_frames(i) for i in range(3)].index(8)
    other = (short + 1) % 3
    with self.assertLogs("absl", "WARNING") as logs:
      window = source.read(short, 0, 5, 2)
      np.testing.assert_array_equal(source.read(short, 0, 5, 2), window)
    np.testing.assert_array_equal(window, source.read(other, 0, 5, 2))
    self.assertLen(logs.output, 1)
    self.assertEqual(
      source.skipped, [f"train record {short}: too short, 8 frames of the 9 needed"]
    )

  def test_a_damaged_image_gives_way_to_the_next_video(self):
    source = self.source("damaged", image_key="image_main")
    index = [source.num_frames(i) for i in range(3)].index(9)
    self.assertEqual(numbers_of(source.read(index, 1, 3, 2)), [1, 3, 5])
    with self.assertLogs("absl", "WARNING") as logs:
      window = source.read(index, 2, 3, 2)
      np.testing.assert_array_equal(source.read(index, 2, 3, 2), window)
    np.testing.assert_array_equal(window, source.read((index + 1) % 3, 2, 3, 2))
    self.assertLen(logs.output, 1)
    self.assertLen(source.skipped, 1)
    self.assertStartsWith(source.skipped[0], f"train record {index}: ")

  def test_a_damaged_record_gives_way_to_the_next(self):
    folder = self.copy("episodes")
    path = next(folder.glob("*train*"))
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    used = np.flatnonzero(data)  # The rest is padding.
    data[used[len(used) // 3 :][:20]] ^= 255
    path.write_bytes(data.tobytes())
    source = self.source("episodes", data_dir=str(self.folder))
    with self.assertLogs("absl", "WARNING") as logs:
      offsets = self.offsets(source)
    whole = self.offsets(self.source("episodes"))
    changed = [i for i in range(len(source)) if offsets[i] != whole[i]]
    self.assertLen(changed, 1)
    self.assertEqual(offsets[changed[0]], whole[changed[0] + 1])
    self.assertEqual(source.num_frames(changed[0]), 0)
    self.assertLen(logs.output, 1)
    self.assertRegex(source.skipped[0], r"^train record \d+: the record cannot be read")

  def test_when_all_are_too_short_it_ends_with_the_reason(self):
    source = self.source(num_frames=30)
    with (
      self.assertLogs("absl", "WARNING"),
      self.assertRaisesRegex(UserError, "no window of 59 frames .* too short"),
    ):
      source.read(0, 0, 30, 2)


if __name__ == "__main__":
  absltest.main()
