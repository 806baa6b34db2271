"""UCF-101 as it is distributed, in small: its folders, its split files, their flaws."""

import shutil
from unittest import mock

from absl.testing import absltest, parameterized
import numpy as np
from video_fixtures import FolderTestCase, numbers_of, write_video

from lamd_jax.data import media, sources
from lamd_jax.data.sets import ucf101
from lamd_jax.types import UserError

CLASSES = ("ApplyEyeMakeup", "HandstandPushups", "YoYo")
# Of each class three groups; which of them are for testing, in each split.
TEST_GROUPS = {1: ("01",), 2: ("02",), 3: ("03",)}


def file_name(class_name, group):
  # In one class the files are not called like the folder; so it is in UCF-101.
  stem = class_name.replace("HandstandPushups", "HandStandPushups")
  return f"{class_name}/v_{stem}_g{group}_c01.avi"


class Ucf101Test(FolderTestCase):
  def setUp(self):
    super().setUp()
    self.videos, self.lists = self.folder / "UCF-101", self.folder / "splits"
    for number, class_name in enumerate(CLASSES):
      for group in ("01", "02", "03"):
        path = self.videos / file_name(class_name, group)
        # The number of frames tells which video it is.
        write_video(path, 10 + 3 * number + int(group), codec="mpeg4", b_frames=0)
    self.lists.mkdir()
    self.write_list("classInd", [f"{n} {c}" for n, c in enumerate(CLASSES, 1)])
    for split, test_groups in TEST_GROUPS.items():
      train, test = [], []
      for number, class_name in enumerate(CLASSES, 1):
        for group in ("01", "02", "03"):
          name = file_name(class_name, group)
          if group in test_groups:
            test.append(name)
          else:
            train.append(f"{name} {number}")
      self.write_list(f"trainlist0{split}", train)
      self.write_list(f"testlist0{split}", test)

  def write_list(self, name, lines):
    # With the line ends of the original.
    (self.lists / f"{name}.txt").write_bytes(
      "".join(f"{x}\r\n" for x in lines).encode()
    )

  def source(self, split="train", **values):
    data = dict(
      name="ucf101", path=str(self.videos), splits_path=str(self.lists),
      split_number=1, num_frames=4, frame_stride=2, resolution=16,
    )  # fmt: skip
    return sources.make_source(data | values, split)

  def assert_refused(self, expected, split="train", **values):
    with self.assertRaisesRegex(UserError, expected) as caught:
      self.source(split, **values)
    self.assertNotIn("\n", str(caught.exception))

  def names(self, source):
    return sorted(video.name for video in source._videos)

  @parameterized.parameters(1, 2, 3, "2")
  def test_each_split_is_that_of_its_lists(self, number):
    test_groups = TEST_GROUPS[int(number)]
    train_groups = sorted({"01", "02", "03"} - set(test_groups))
    for split, groups in (("train", train_groups), ("eval", test_groups)):
      source = self.source(split, split_number=number)
      self.assertIsInstance(source, sources.VideoSource)
      expected = [file_name(c, g) for c in CLASSES for g in groups]
      self.assertEqual(self.names(source), expected)
      self.assertEmpty(source.skipped)
      self.assertEqual((source.fps, source.num_classes), (25.0, 3))

  def test_all_is_every_video_for_both_and_evaluation_says_so(self):
    train = self.source(split_number="all")
    with self.assertLogs("absl", "WARNING") as logs:
      held_out = self.source("eval", split_number="all")
    self.assertLen(logs.output, 1)
    self.assertIn("evaluation uses the videos that training sees", logs.output[0])
    self.assertLen(train, 9)
    self.assertEqual(self.names(train), self.names(held_out))

  def test_labels_count_from_0_and_captions_are_words(self):
    source = self.source()
    captions = {"apply eye makeup": 0, "handstand pushups": 1, "yo yo": 2}
    seen = set()
    for index in range(len(source)):
      annotation = source.annotation(index)
      self.assertEqual(sorted(annotation), ["caption", "label"])
      self.assertEqual(annotation["label"], captions[annotation["caption"]])
      # It is the annotation of the video that is read.
      self.assertEqual(annotation["label"], (source.num_frames(index) - 11) // 3)
      seen.add(annotation["label"])
    self.assertEqual(seen, {0, 1, 2})

  def test_names_of_classes_become_words(self):
    for name, words in (
      ("CleanAndJerk", "clean and jerk"),
      ("BodyWeightSquats", "body weight squats"),
      ("Rafting", "rafting"),
    ):
      self.assertEqual(ucf101.readable(name), words)

  def test_a_video_is_read_at_both_ends_at_the_resolution_asked_for(self):
    source = self.source()
    for index in range(len(source)):
      last = source.num_frames(index) - 7
      window = source.read(index, 0, 4, 2)
      self.assertEqual((window.shape, window.dtype), ((4, 16, 16, 3), np.uint8))
      self.assertEqual(numbers_of(window), [0, 2, 4, 6])
      window = source.read(index, last, 4, 2)
      self.assertEqual(numbers_of(window), [last, last + 2, last + 4, last + 6])

  def test_the_first_videos_are_not_all_of_the_first_class(self):
    source = self.source(split_number="all")
    train = self.source()
    labels = [train.annotation(i)["label"] for i in range(len(train))]
    self.assertNotEqual(labels, sorted(labels))
    self.assertGreater(len(set(labels[:3])), 1)
    # Nor does the order change when one is missing.
    order = [video.name for video in source._videos]
    (self.videos / order[4]).unlink()
    with self.assertLogs("absl", "WARNING"):
      later = [video.name for video in self.source(split_number="all")._videos]
    self.assertEqual(later, order[:4] + order[5:])

  def test_videos_that_cannot_be_used_are_named(self):
    gone, broken, short = (file_name(c, "02") for c in CLASSES)
    (self.videos / gone).unlink()
    (self.videos / broken).write_text("not a video")
    write_video(self.videos / short, 5, codec="mpeg4", b_frames=0)
    with self.assertLogs("absl", "WARNING") as logs:
      source = self.source()
    self.assertLen(source, 3)
    self.assertLen(source.skipped, 3)
    self.assertEqual(source.skipped[0], f"{gone}: not in the folder")
    self.assertStartsWith(source.skipped[1], f"{broken}: Invalid data")
    self.assertIn("too short, 5 frames of the 7 needed", source.skipped[2])
    self.assertIn("1 of the 6 videos that trainlist01.txt lists", logs.output[0])
    self.assertLen(logs.output, 3)

  def test_a_video_of_the_same_class_takes_the_place_of_one_that_breaks(self):
    source = self.source()
    index, twin = (i for i in range(6) if source.annotation(i)["label"] == 1)
    (self.videos / source._videos[index].name).unlink()
    with (
      mock.patch.object(media, "read_frames", wraps=media.read_frames) as read,
      self.assertLogs("absl", "WARNING") as logs,
    ):
      window = source.read(index, 1, 4, 2)
    self.assertEqual(numbers_of(window), [1, 3, 5, 7])
    paths = [str(call.args[0].relative_to(self.videos)) for call in read.mock_calls]
    self.assertEqual(paths, [source._videos[i].name for i in (index, twin)])
    self.assertIn("another clip takes the place of HandstandPushups", logs.output[0])

  @parameterized.parameters(0, 4, "01", "two", True)
  def test_a_split_that_there_is_not_is_refused(self, number):
    self.assert_refused("data.split_number=.* 1, 2, 3, all", split_number=number)

  def test_the_split_has_to_be_chosen(self):
    data = dict(name="ucf101", path="x", splits_path="y", num_frames=4)
    with self.assertRaisesRegex(UserError, "data.split_number is missing"):
      sources.make_source(data, "train")

  def test_folders_that_are_not_there_are_named_with_where_to_get_them(self):
    url = "https://www.crcv.ucf.edu/data/UCF101.php"
    self.assert_refused(f"data.path is not set; .*{url}.*config.data.path=", path="")
    self.assert_refused("nothing' does not exist; .* UCF-101 as", path="nothing")
    file = str(self.lists / "classInd.txt")
    self.assert_refused("data.path=.* is a file; expected", path=file)
    self.assert_refused("data.splits_path is not set; give the folder", splits_path="")
    self.assert_refused(f"data.splits_path='no' does not .*{url}", splits_path="no")
    # A folder, but another one.
    self.assert_refused(
      "no video of 7 frames or more among the 6 that trainlist01.txt lists; left out: "
      "ApplyEyeMakeup/v_ApplyEyeMakeup_g02_c01.avi: not in the folder .and 5 more.; "
      f"expected in data.path=.*{url}",
      path=str(self.folder),
    )
    shutil.rmtree(self.videos)
    self.assert_refused("data.path=.*UCF-101' does not exist")

  @parameterized.parameters("classInd", "trainlist01", "testlist01")
  def test_a_split_file_that_is_not_there_is_named(self, name):
    (self.lists / f"{name}.txt").unlink()
    expected = f"data.splits_path=.*: {name}.txt cannot be read .No such file"
    self.assert_refused(expected, "eval" if name == "testlist01" else "train")

  @parameterized.parameters(
    ("1 YoYo", "2 YoYo"), ("0 YoYo",), ("2 YoYo",), ("1 YoYo x",), ("1",), ("YoYo 1",)
  )
  def test_a_list_of_classes_that_is_none_is_refused(self, *lines):
    self.write_list("classInd", lines)
    self.assert_refused(f"classInd.txt, line {len(lines)}: .*; expected")

  @parameterized.parameters(
    ("Yoyo/v_YoYo_g02_c01.avi 3", "expected a class of classInd.txt"),
    ("YoYo/v_YoYo_g02_c01.avi 2", "the file and 3;"),
    ("YoYo 3", "expected a class of classInd.txt, '/', the file and 3;"),
    ("YoYo/v_YoYo_g02_c01.avi 3 4", "the file and 3;"),
  )
  def test_a_line_that_contradicts_the_list_of_classes_is_refused(self, line, expected):
    self.write_list("trainlist01", ["", line])
    self.assert_refused(f"trainlist01.txt, line 2: {line!r}; .*{expected}")

  def test_empty_and_unreadable_lists_are_refused(self):
    self.write_list("trainlist01", [])
    self.assert_refused("among the 0 that trainlist01.txt lists; left out: nothing")
    self.write_list("classInd", [])
    self.assert_refused("classInd.txt is empty")
    (self.lists / "classInd.txt").write_bytes(b"\xff\xfe1")
    self.assert_refused("classInd.txt cannot be read .it is not a text file")

  def test_a_list_cannot_lead_out_of_the_folder(self):
    write_video(self.folder / "secret.avi", 20, codec="mpeg4", b_frames=0)
    self.write_list("trainlist01", ["YoYo/../../secret.avi 3", file_name("YoYo", "01")])
    with self.assertLogs("absl", "WARNING"):
      source = self.source()
    self.assertEqual(self.names(source), [file_name("YoYo", "01")])
    self.assertEqual(source.skipped, ["YoYo/../../secret.avi: leads out of the folder"])


if __name__ == "__main__":
  absltest.main()
