"""MUG as it is given out, in small: folders of people, expressions and takes."""

import random
import shutil

from absl.testing import absltest, parameterized
import numpy as np
from PIL import Image
from video_fixtures import FolderTestCase, numbers_of, write_frames

from lamd_jax.data import sources
from lamd_jax.data.sets import mug
from lamd_jax.types import UserError

# Frames of each take, by which they are told apart. Of those for training are 008 and
# 084, of those for evaluation 001 and 002, who came twice; 003 and 005 are of neither.
TAKES = {
  "008/anger/take000": 13,
  "008/anger/take001": 9,
  "008/neutral/take000": 3,
  "008/mixed/take000": 20,
  "084/surprise/take003": 17,
  "001/disgust/take000": 10,
  "001/surprise/take000": 11,
  "002/session0/fear/take000": 12,
  "002/session1/fear/take000": 14,
  "005/anger/take000": 15,
}


class MugTest(FolderTestCase):
  def setUp(self):
    super().setUp()
    for name, length in TAKES.items():
      self.write(name, length)

  def write(self, name, length):
    return write_frames(self.folder / name, length, ".jpg", "img_{:04d}")

  def source(self, split="train", **values):
    data = dict(name="mug", path=str(self.folder), num_frames=5, resolution=24)
    return sources.make_source(data | values, split)

  def assert_refused(self, expected, split="train", **values):
    with self.assertRaisesRegex(UserError, expected) as caught:
      self.source(split, **values)
    self.assertNotIn("\n", str(caught.exception))

  def find(self, source, name):
    return [video.name for video in source._videos].index(name)

  def test_no_person_is_on_both_sides(self):
    train, held_out = self.source(), self.source("eval")
    self.assertIsInstance(train, sources.VideoSource)
    self.assertEqual(
      {video.name for video in train._videos},
      {name for name in TAKES if name[:3] in ("008", "084") and "mixed" not in name},
    )
    self.assertEqual(
      {video.name for video in held_out._videos},
      {"001/disgust/take000", "001/surprise/take000", "002/session0/fear/take000"},
    )

  def test_the_people_are_those_whom_lfdm_drew(self):
    names = [f"{subject:03d}" for part in mug.SUBJECTS.values() for subject in part]
    self.assertLen(set(names), 52)
    names.sort()
    random.Random(1234).shuffle(names)  # Its seed; the first 26 are for training.
    parts = dict(train=sorted(names[:26]), eval=sorted(names[26:]))
    for split, part in parts.items():
      self.assertEqual(list(mug.SUBJECTS[split]), [int(name) for name in part])

  def test_what_is_of_no_part_is_named_with_the_reason(self):
    self.write("008/take000", 6)
    (self.folder / "008" / "notes.avi").write_text("not looked at")
    self.assertEqual(
      self.source().skipped,
      [
        "002/session1/fear/take000: the split has session0 alone",
        "005/anger/take000: a person of neither part of the split",
        "008/mixed/take000: expected one of anger, disgust, fear, happiness, neutral,"
        " sadness, surprise",
        "008/take000: expected <person>/<expression>/<take>",
        "008/notes.avi: not looked at, by its ending (.avi, 1 file)",
      ],
    )

  def test_labels_captions_and_people_are_those_of_the_folders(self):
    train, held_out = self.source(), self.source("eval")
    self.assertEqual((train.num_classes, held_out.num_classes), (7, 7))
    for source, name, expected in (
      (train, "008/anger/take001", (0, "anger", 8)),
      (train, "008/neutral/take000", (4, "neutral", 8)),
      (train, "084/surprise/take003", (6, "surprise", 84)),
      (held_out, "001/disgust/take000", (1, "disgust", 1)),
      (held_out, "002/session0/fear/take000", (2, "fear", 2)),
    ):
      note = source.annotation(self.find(source, name))
      keys = ("label", "caption", "subject")
      self.assertEqual(note, dict(zip(keys, expected, strict=True)))

  def test_a_clip_is_evenly_spaced_over_its_take(self):
    source = self.source()
    for name, expected in (
      ("008/anger/take000", [0, 3, 6, 9, 12]),
      ("008/anger/take001", [0, 2, 4, 6, 8]),
      ("008/neutral/take000", [0, 1, 2, 2, 2]),
      ("084/surprise/take003", [0, 4, 8, 12, 16]),
    ):
      index = self.find(source, name)
      self.assertEqual(source.num_frames(index), 5)
      clip = source.read(index, 0, 5, 1)
      self.assertEqual((clip.shape, clip.dtype), ((5, 24, 24, 3), np.uint8))
      self.assertEqual(numbers_of(clip), expected)

  def test_windows_need_takes_that_are_long_enough(self):
    source = self.source(sampling="window", frame_stride=3)
    self.assertEqual(
      {video.name for video in source._videos},
      {"008/anger/take000", "084/surprise/take003"},
    )
    self.assertIn(
      "008/anger/take001: too short, 9 frames of the 13 needed", source.skipped
    )
    index = self.find(source, "084/surprise/take003")
    self.assertEqual(numbers_of(source.read(index, 4, 5, 3)), [4, 7, 10, 13, 16])
    self.assertEqual(source.fps, 19.0)

  def test_frames_are_shown_whole(self):
    picture = np.zeros((30, 30, 3), np.uint8)
    picture[..., 0], picture[..., 1] = np.arange(30) * 8, np.arange(30)[:, None] * 8
    for i in range(13):  # Without loss; LFDM reads png too.
      Image.fromarray(picture).save(self.folder / f"008/anger/take000/img_{i:04d}.png")
      (self.folder / f"008/anger/take000/img_{i:04d}.jpg").unlink()
    source = self.source(resolution=30)
    clip = source.read(self.find(source, "008/anger/take000"), 0, 5, 1)
    np.testing.assert_array_equal(clip, np.stack([picture] * 5))

  def test_the_same_expression_of_another_person_takes_the_place_of_what_breaks(self):
    self.write("084/anger/take000", 21)
    shutil.rmtree(self.folder / "008/anger/take001")
    source = self.source()
    (self.folder / "008/anger/take000/img_0003.jpg").write_text("not a picture")
    with self.assertLogs("absl", "WARNING") as logs:
      clip = source.read(self.find(source, "008/anger/take000"), 0, 5, 1)
    self.assertEqual(numbers_of(clip), [0, 5, 10, 15, 20])  # Of 084.
    self.assertIn("another clip takes the place of 008/anger/take000", logs.output[0])
    # Of neutral faces there is no other.
    for path in (self.folder / "008/neutral/take000").iterdir():
      path.unlink()
    with self.assertLogs("absl", "WARNING") as logs:
      source.read(self.find(source, "008/neutral/take000"), 0, 5, 1)
    self.assertIn("a clip with another label or caption takes", logs.output[0])

  def test_folders_that_are_not_there_are_named_with_where_to_get_them(self):
    url = "https://mug.ee.auth.gr/fed/"
    self.assert_refused(f"data.path is not set; .*{url}.*config.data.path=", path="")
    self.assert_refused(
      f"'no' does not exist; expected a folder with .*{url}", path="no"
    )
    self.assert_refused(
      "is a file", path=str(self.folder / "001/disgust/take000/img_0000.jpg")
    )

  @parameterized.parameters(None, "anger", "008")
  def test_a_folder_of_another_layout_says_what_it_expected(self, inner):
    kept = "anger" if inner is None else inner
    shutil.copytree(self.folder / "008", self.folder / "other" / kept)
    expected = "no video of 1 frames or more of a person of the split in data.path=.*"
    split = "eval" if inner == "008" else "train"
    self.assert_refused(
      f"{expected}expected a folder with <person>/<expression>/<take>/.*mug.ee.auth",
      split, path=str(self.folder / "other"),
    )  # fmt: skip

  def test_an_empty_folder_is_refused(self):
    (self.folder / "empty").mkdir()
    self.assert_refused("left out: nothing; expected", path=str(self.folder / "empty"))

  @parameterized.parameters(
    (dict(sampling="even"), "data.sampling='even'; known: uniform, window"),
    (dict(frame_stride=2), "data.frame_stride=2 means nothing"),
  )
  def test_a_choice_that_there_is_not_is_refused(self, change, expected):
    self.assert_refused(expected, **change)


if __name__ == "__main__":
  absltest.main()
