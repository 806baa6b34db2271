"""Sky time-lapse as it is distributed, in small: videos, their shots, frames."""

import os
import shutil

from absl.testing import absltest
import numpy as np
from PIL import Image
from video_fixtures import FolderTestCase, numbers_of, write_frames, write_video

from lamd_jax.data import pipeline, sources
from lamd_jax.types import UserError

# Frames of each shot; both ways are found in which shots are called.
SHOTS = {
  "sky_train/rM7aPu9WV2Q/rM7aPu9WV2Q_1": 9,
  "sky_train/rM7aPu9WV2Q/rM7aPu9WV2Q_2": 30,
  "sky_train/3-VAM9owl-o/1": 14,
  "sky_train/Ei_PONHmJnA/Ei_PONHmJnA_1": 2,
  "sky_test/07U1fSrk9oI/07U1fSrk9oI_1": 12,
  "sky_test/07U1fSrk9oI/07U1fSrk9oI_2": 25,
}


class LandscapeTest(FolderTestCase):
  def setUp(self):
    super().setUp()
    for name, length in SHOTS.items():
      video = name.split("/")[1]
      # Numbers go on where another shot ends, and grow by a digit.
      pattern = f"{video}_frames_{{}}"
      write_frames(self.folder / name, length, ".jpg", pattern, first=995)
    # What is no shot.
    (self.folder / "sky_train" / "readme").write_text("as in the archive")
    write_video(self.folder / "sky_train" / "preview.mp4", 20)

  def source(self, split="train", **values):
    data = dict(
      name="landscape", path=str(self.folder), num_frames=4, frame_stride=2,
      resolution=16,
    )  # fmt: skip
    return sources.make_source(data | values, split)

  def assert_refused(self, expected, split="train", **values):
    with self.assertRaisesRegex(UserError, expected) as caught:
      self.source(split, **values)
    self.assertNotIn("\n", str(caught.exception))

  def names(self, source):
    return [video.name for video in source._videos]

  def test_names_that_are_not_utf_8_are_shuffled_and_read(self):
    name = os.fsdecode(b"caf\xe9/1")
    write_frames(self.folder / "sky_train" / name, 20, ".jpg")
    with self.assertLogs("absl", "WARNING"):
      source = self.source()
    self.assertIn(name, self.names(source))
    window = source.read(self.names(source).index(name), 3, 4, 2)
    self.assertEqual(numbers_of(window), [3, 5, 7, 9])

  def test_each_split_is_its_folder(self):
    with self.assertLogs("absl", "WARNING") as logs:
      train, held_out = self.source(), self.source("eval")
    self.assertIsInstance(train, sources.VideoSource)
    self.assertEqual(
      set(self.names(train)),
      {"3-VAM9owl-o/1", "rM7aPu9WV2Q/rM7aPu9WV2Q_1", "rM7aPu9WV2Q/rM7aPu9WV2Q_2"},
    )
    self.assertEqual(
      set(self.names(held_out)),
      {"07U1fSrk9oI/07U1fSrk9oI_1", "07U1fSrk9oI/07U1fSrk9oI_2"},
    )
    line = "Ei_PONHmJnA/Ei_PONHmJnA_1: too short, 2 frames of the 7 needed"
    self.assertEqual(
      train.skipped,
      [
        "preview.mp4: not looked at, by its ending (.mp4, 1 file)",
        "readme: not looked at, by its ending (none, 1 file)",
        line,
      ],
    )
    self.assertLen(logs.output, 3)
    self.assertEqual((train.annotation(0), train.num_classes), ({}, None))

  def test_shots_do_not_come_in_the_order_of_their_videos(self):
    for number in range(20):
      write_frames(self.folder / f"sky_test/{number // 5}/{number % 5}", 7, ".jpg")
    names = self.names(self.source("eval"))
    self.assertLen(names, 22)
    self.assertGreater(len({name.split("/")[0] for name in names[:5]}), 2)
    # Nor does the order change when one is missing.
    shutil.rmtree(self.folder / "sky_test" / names[3])
    self.assertEqual(self.names(self.source("eval")), names[:3] + names[4:])

  def test_frames_come_in_the_order_of_their_numbers(self):
    source = self.source("eval")
    index = self.names(source).index("07U1fSrk9oI/07U1fSrk9oI_2")
    self.assertEqual(numbers_of(source.read(index, 0, 4, 2)), [0, 2, 4, 6])
    self.assertEqual(numbers_of(source.read(index, 18, 4, 2)), [18, 20, 22, 24])
    with self.assertRaises(ValueError):
      source.read(index, 19, 4, 2)

  def test_evaluation_takes_the_first_clip_of_each_shot_and_then_those_after_it(self):
    source = self.source("eval")
    order = self.names(source)
    long = order.index("07U1fSrk9oI/07U1fSrk9oI_2")
    windows = pipeline.eval_windows(source, 4, 4, 2)
    self.assertEqual(windows, [(0, 0), (1, 0), (long, 7), (long, 14)])

  def test_a_missing_frame_makes_a_step_and_no_mistake(self):
    shot = "sky_test/07U1fSrk9oI/07U1fSrk9oI_2"
    (self.folder / shot / "07U1fSrk9oI_frames_999.jpg").unlink()  # Number 4.
    source = self.source("eval")
    index = self.names(source).index("07U1fSrk9oI/07U1fSrk9oI_2")
    self.assertEqual(source.num_frames(index), 24)
    self.assertEqual(numbers_of(source.read(index, 0, 4, 2)), [0, 2, 5, 7])

  def test_the_whole_frame_is_seen_or_the_centre_of_it(self):
    picture = np.zeros((36, 64, 3), np.uint8)
    picture[:, :16] = 200  # A quarter on the left, and outside of the centre square.
    for path in (self.folder / "sky_test/07U1fSrk9oI/07U1fSrk9oI_1").iterdir():
      Image.fromarray(picture).save(path, quality=98)
    shutil.rmtree(self.folder / "sky_test/07U1fSrk9oI/07U1fSrk9oI_2")
    stretched = self.source("eval").read(0, 0, 4, 2)
    np.testing.assert_allclose(stretched[:, :, :3], 200, atol=3)
    np.testing.assert_allclose(stretched[:, :, 5:], 0, atol=3)
    cropped = self.source("eval", fit="crop").read(0, 0, 4, 2)
    np.testing.assert_allclose(cropped[:, :, 2:], 0, atol=3)

  def test_many_shots_too_short_are_some_lines_and_a_number(self):
    for number in range(30):
      write_frames(self.folder / f"sky_train/Ei_PONHmJnA/{number}", 1, ".jpg")
    with self.assertLogs("absl", "WARNING") as logs:
      source = self.source()
    self.assertLen(source.skipped, 33)
    self.assertLen(logs.output, 21)
    self.assertIn("left out: 13 more", logs.output[-1])

  def test_folders_that_are_not_there_are_named_with_where_to_get_them(self):
    url = "https://drive.google.com/file/d/"
    self.assert_refused(f"data.path is not set; .*{url}.*config.data.path=", path="")
    self.assert_refused(
      f"'no' does not exist; expected a folder with .*{url}", path="no"
    )
    self.assert_refused(
      f"has no folder 'sky_train'; expected a folder with sky_train and .*{url}",
      path=str(self.folder / "sky_train"),
    )
    shutil.rmtree(self.folder / "sky_test")
    self.assert_refused("has no folder 'sky_test'; expected", "eval")

  def test_a_folder_without_shots_says_what_it_expected(self):
    self.assert_refused(
      "no video of 31 frames or more in sky_test of data.path=.*; left out: 07U1.*too "
      "short, 12 frames .*and 1 more.; expected a folder with sky_train and sky_test",
      "eval", num_frames=16,
    )  # fmt: skip
    shutil.rmtree(self.folder / "sky_test")
    (self.folder / "sky_test").mkdir()
    self.assert_refused("left out: nothing; expected a folder", "eval")

  def test_a_choice_that_there_is_not_is_refused(self):
    self.assert_refused("data.fit='squash'; known: crop, stretch, pad", fit="squash")
    self.assert_refused("data.sampling means nothing to data.name", sampling="uniform")


if __name__ == "__main__":
  absltest.main()
