"""A csv of labels and captions beside a folder of videos, and what is wrong in it."""

import pathlib
import tempfile
import unicodedata

from absl.testing import absltest, parameterized
import numpy as np
from video_fixtures import FolderTestCase, numbers_of, write_frames, write_video

from lamd_jax.data import sources
from lamd_jax.types import UserError

HEADER = "id,clip,action,text,part"
ROWS = (
  "0,b/swim.mp4,swimming,a man swims,train",
  '1,a.mp4,archery,"an archer, far away",train',
  "2,dance.mp4,dancing,two people dance,train",
  "3,b/swim2.mp4,swimming,a dog swims,val",
  "4,a2.mp4,archery,an arrow flies,val",
)
LENGTHS = {"b/swim": 20, "a": 21, "dance": 22, "b/swim2": 23, "a2": 24}


class VideoCsvTest(FolderTestCase):
  def setUp(self):
    super().setUp()
    self.clips = self.folder / "clips"
    for name, length in LENGTHS.items():
      write_video(self.clips / f"{name}.mp4", length)
    self.csv = self.write_csv("all.csv", *ROWS)

  def write_csv(self, name, *rows, header=HEADER):
    path = self.folder / name
    path.write_text("\n".join([header, *rows, ""]))
    return path

  def source(self, split="train", **values):
    data = dict(
      name="video_csv", path=str(self.clips), csv=str(self.csv), path_column="clip",
      label_column="action", caption_column="text", split_column="part",
      num_frames=4, frame_stride=2, resolution=16,
    )  # fmt: skip
    return sources.make_source(data | values, split)

  def assert_refused(self, expected, split="train", **values):
    with self.assertRaisesRegex(UserError, expected) as caught:
      self.source(split, **values)
    self.assertNotIn("\n", str(caught.exception))

  def known(self, source):
    """Annotations by name; several of one name are a list."""
    found = {}
    for index, video in enumerate(source._videos):
      found.setdefault(video.name, []).append(source.annotation(index))
    return {name: x[0] if len(x) == 1 else x for name, x in found.items()}

  def test_each_video_has_what_its_row_says(self):
    train, held_out = self.source("train"), self.source("eval")
    self.assertIsInstance(train, sources.VideoSource)
    self.assertEqual(
      self.known(train),
      {
        "a.mp4": dict(label=0, class_name="archery", caption="an archer, far away"),
        "b/swim.mp4": dict(label=2, class_name="swimming", caption="a man swims"),
        "dance.mp4": dict(label=1, class_name="dancing", caption="two people dance"),
      },
    )
    # Classes are those of training, though none dances here.
    self.assertEqual(
      self.known(held_out),
      {
        "a2.mp4": dict(label=0, class_name="archery", caption="an arrow flies"),
        "b/swim2.mp4": dict(label=2, class_name="swimming", caption="a dog swims"),
      },
    )
    self.assertEqual((train.num_classes, held_out.num_classes), (3, 3))
    self.assertEqual((train.fps, train.skipped), (25.0, []))

  def test_a_video_is_read_at_both_ends_and_is_the_one_of_its_row(self):
    source = self.source()
    for index, video in enumerate(source._videos):
      length = LENGTHS[video.name.removesuffix(".mp4")]
      self.assertEqual(source.num_frames(index), length)
      window = source.read(index, 0, 4, 2)
      self.assertEqual((window.shape, window.dtype), ((4, 16, 16, 3), np.uint8))
      self.assertEqual(numbers_of(window), [0, 2, 4, 6])
      last = source.read(index, length - 7, 4, 2)
      self.assertEqual(numbers_of(last), list(range(length - 7, length, 2)))

  def test_what_has_no_column_is_not_known(self):
    source = self.source(label_column=None)
    self.assertIsNone(source.num_classes)
    self.assertEqual(self.known(source)["a.mp4"], dict(caption="an archer, far away"))
    source = self.source(caption_column=None)
    self.assertEqual(
      self.known(source)["dance.mp4"], dict(label=1, class_name="dancing")
    )
    source = self.source(caption_column=None, label_column=None)
    self.assertEqual(self.known(source)["dance.mp4"], {})

  def test_labels_that_are_numbers_keep_their_order(self):
    rows = [
      row.replace("swimming", "10").replace("archery", "9").replace("dancing", "0")
      for row in ROWS
    ]
    source = self.source(csv=str(self.write_csv("n.csv", *rows)))
    labels = {
      name: (x["label"], x["class_name"]) for name, x in self.known(source).items()
    }
    self.assertEqual(
      labels, {"dance.mp4": (0, "0"), "a.mp4": (1, "9"), "b/swim.mp4": (2, "10")}
    )

  def numbered(self, labels, **values):
    """The number and the name of the class of each label, by video."""
    rows = [
      row.replace("swimming", labels[0]).replace("archery", labels[1]) for row in ROWS
    ]
    rows = [row.replace("dancing", labels[2]) for row in rows]
    source = self.source(csv=str(self.write_csv("n.csv", *rows)), **values)
    return {
      name.removesuffix(".mp4"): (x["label"], x["class_name"])
      for name, x in self.known(source).items()
    }

  @parameterized.parameters(
    ("10.0", "2.0", "0.0"),
    ("1e1", "+2", "-3"),
    ("10.5", "9.75", "-0.5"),
    ("1" * 5000, "9" * 4999, "-" + "1" * 5001),
    ("0.1000000000000000000001", "0.1", ".09"),
  )
  def test_numbers_are_ordered_as_numbers_however_written(self, *labels):
    self.assertEqual(
      self.numbered(labels),
      {"b/swim": (2, labels[0]), "a": (1, labels[1]), "dance": (0, labels[2])},
    )

  def test_one_number_written_in_two_ways_is_one_class(self):
    rows = [row.replace("archery", "1").replace("swimming", "2.0") for row in ROWS]
    rows = [row.replace("dancing", "0.0") for row in rows]
    rows[3] = rows[3].replace("2.0", "2")
    file = str(self.write_csv("n.csv", *rows))
    train, held_out = self.source(csv=file), self.source("eval", csv=file)
    self.assertEqual(train.num_classes, 3)
    swim = dict(label=2, class_name="2.0")
    self.assertContainsSubset(swim, self.known(train)["b/swim.mp4"])
    self.assertContainsSubset(swim, self.known(held_out)["b/swim2.mp4"])

  def test_one_label_that_is_no_number_makes_all_of_them_names(self):
    found = self.numbered(["10", "9", "unknown"])
    self.assertEqual(
      found, {"b/swim": (0, "10"), "a": (1, "9"), "dance": (2, "unknown")}
    )

  def test_the_log_says_which_label_has_which_number(self):
    with self.assertLogs("absl", "INFO") as logs:
      self.numbered(["10.0", "2.0", "0.0"])
    self.assertIn("labels: 0.0 is 0, 2.0 is 1, 10.0 is 2", "".join(logs.output))

  def test_names_with_accents_are_found_and_read_however_they_are_composed(self):
    there = unicodedata.normalize("NFD", "caf\u00e9.mp4")
    write_video(self.clips / there, 20)
    listed = unicodedata.normalize("NFC", there)
    rows = [*ROWS, f"5,{listed},archery,coffee,train", f"6,{there},archery,tea,val"]
    source = self.source(csv=str(self.write_csv("nfc.csv", *rows)))
    self.assertEmpty(source.skipped)
    index = [video.name for video in source._videos].index(there)
    self.assertEqual(source.annotation(index)["caption"], "coffee")
    self.assertEqual(numbers_of(source.read(index, 1, 4, 2)), [1, 3, 5, 7])
    held_out = self.source("eval", csv=str(self.write_csv("nfc.csv", *rows)))
    self.assertEqual(self.known(held_out)[there]["caption"], "tea")

  def test_a_clip_listed_in_both_spellings_is_evaluated_once(self):
    there = unicodedata.normalize("NFD", "caf\u00e9.mp4")
    write_video(self.clips / there, 20)
    other = unicodedata.normalize("NFC", there)
    rows = [*ROWS, f"5,{other},archery,coffee,val", f"6,{there},archery,tea,val"]
    held_out = self.source("eval", csv=str(self.write_csv("nfc.csv", *rows)))
    self.assertLen(held_out, 3)

  @parameterized.parameters("part", None)
  def test_a_row_may_name_a_folder_of_frames(self, split_column):
    write_frames(self.clips / "walk", 20)
    rows = [*ROWS, "5,walk,archery,a man walks,train"]
    file = str(self.write_csv("frames.csv", *rows))
    with self.assertLogs("absl", "WARNING"):
      source = self.source(csv=file, split_column=split_column)
    index = [video.name for video in source._videos].index("walk")
    self.assertEqual(source.annotation(index)["caption"], "a man walks")
    self.assertEqual(numbers_of(source.read(index, 1, 4, 2)), [1, 3, 5, 7])

  def test_what_is_missing_comes_with_a_hint(self):
    rows = ["0,dance,x,y,train", "1,b\\swim.mp4,x,y,train", "2,a.mp4,x,y,train"]
    rows.append(ROWS[4].replace("archery", "x"))
    with self.assertLogs("absl", "WARNING"):
      source = self.source(csv=str(self.write_csv("hints.csv", *rows)))
    self.assertEqual(
      source.skipped,
      [
        "dance: not in the folder; dance.mp4 is",
        r"b\swim.mp4: not in the folder; with forward slashes, b/swim.mp4 is",
      ],
    )

  def test_a_second_file_may_list_what_is_held_out(self):
    train = str(self.write_csv("train.csv", *ROWS[:3]))
    held_out = str(self.write_csv("eval.csv", *ROWS[3:]))
    files = dict(csv=train, eval_csv=held_out, split_column=None)
    for split in ("train", "eval"):
      self.assertEqual(
        self.known(self.source(split, **files)), self.known(self.source(split))
      )
    self.assertEqual(self.source("eval", **files).annotation(0)["label"] % 2, 0)
    self.assert_refused("both say what is held out", csv=train, eval_csv=held_out)

  def test_one_of_several_values_has_to_be_chosen_for_evaluation(self):
    rows = [*ROWS[:4], ROWS[4].replace("val", "test")]
    file = dict(csv=str(self.write_csv("three.csv", *rows)))
    self.assert_refused("eval_value is not set; .* the values 'test', 'val'", **file)
    self.assert_refused("eval_value is 'tset';", eval_value="tset", **file)
    self.assert_refused("eval_value is 'train';", eval_value="train", **file)
    source = self.source("eval", eval_value="test", **file)
    self.assertEqual(list(self.known(source)), ["a2.mp4"])
    self.assertLen(self.source("train", eval_value="test", **file), 3)
    self.assert_refused("needs data.split_column", eval_value="a", split_column=None)

  def test_values_without_training_or_without_evaluation_are_refused(self):
    file = str(self.write_csv("t.csv", *ROWS[:3]))
    self.assert_refused("has the values 'train'; expected 'train' and", csv=file)
    rows = [row.replace("train", "training") for row in ROWS]
    file = str(self.write_csv("t.csv", *rows))
    self.assert_refused("has the values 'training', 'val'; expected 'train'", csv=file)

  def test_without_a_word_on_splits_some_are_held_out_by_name(self):
    rows = [f"0,v{i}.avi,{i % 2},clip {i},?" for i in range(12)]
    for i in range(12):
      write_video(self.clips / f"v{i}.avi", 9, codec="mpeg4", b_frames=0)
    values = dict(csv=str(self.write_csv("x.csv", *rows)), split_column=None)
    train = self.known(self.source("train", **values))
    held_out = self.known(self.source("eval", **values))
    self.assertEmpty(set(train) & set(held_out))
    self.assertLen(train | held_out, 12)
    self.assertBetween(len(held_out), 1, 4)
    for name, annotation in (train | held_out).items():
      self.assertEqual(annotation["caption"], f"clip {name[1:-4]}")

  def test_of_few_videos_the_end_is_held_out(self):
    with self.assertLogs("absl", "WARNING") as logs:
      held_out = self.source("eval", split_column=None)
    self.assertIn("5 videos are too few", logs.output[0])
    lengths = {v.name: v.num_frames for v in held_out._videos}
    self.assertEqual(lengths, {f"{name}.mp4": 7 for name in LENGTHS})
    index = [v.name for v in held_out._videos].index("a.mp4")
    self.assertEqual(numbers_of(held_out.read(index, 0, 4, 2)), [14, 16, 18, 20])
    self.assertEqual(held_out.annotation(index)["class_name"], "archery")
    train = self.source(split_column=None)
    self.assertEqual(train.num_frames(index), 14)

  def test_a_video_with_several_captions_is_trained_on_with_each(self):
    rows = [*ROWS, "5,a.mp4,archery,a bow,train", "6,./a2.mp4,archery,a quiver,val"]
    file = str(self.write_csv("more.csv", *rows))
    train = self.known(self.source(csv=file))
    captions = {annotation["caption"] for annotation in train["a.mp4"]}
    self.assertEqual(captions, {"an archer, far away", "a bow"})
    held_out = self.source("eval", csv=file)
    self.assertLen(held_out, 2)
    self.assertEqual(self.known(held_out)["a2.mp4"]["caption"], "an arrow flies")

  def test_a_video_on_both_sides_is_pointed_out(self):
    rows = [*ROWS, "5,a.mp4,archery,a bow,val"]
    file = str(self.write_csv("both.csv", *rows))
    with self.assertNoLogs("absl", "WARNING"):
      self.source(csv=file)
    with self.assertLogs("absl", "WARNING") as logs:
      self.source("eval", csv=file)
    self.assertIn("1 of the 3 videos for evaluation are trained on", logs.output[0])

  def test_rows_without_a_usable_video_are_named_and_counted(self):
    (self.clips / "a.mp4").unlink()
    (self.clips / "text.mp4").write_text("no video")
    rows = [
      *ROWS,
      "5,gone.mp4,archery,gone,train",
      "6,text.mp4,archery,text,train",
      f"7,{'long' * 100}.mp4,archery,no name of a file,train",
    ]
    file = str(self.write_csv("gaps.csv", *rows))
    with self.assertLogs("absl", "WARNING") as logs:
      source = self.source(csv=file)
    self.assertEqual(sorted(self.known(source)), ["b/swim.mp4", "dance.mp4"])
    self.assertEqual(source.skipped[0], "a.mp4: not in the folder")
    self.assertEqual(source.skipped[1], "gone.mp4: not in the folder")
    self.assertStartsWith(source.skipped[2], "longlong")
    self.assertStartsWith(source.skipped[3], "text.mp4: Invalid data")
    self.assertLen(source.skipped, 4)
    self.assertLen(logs.output, 2)
    self.assertIn("left out: 3 of the 6 videos that", logs.output[0])
    self.assertIn("gaps.csv lists; the first: a.mp4: not in", logs.output[0])
    # The class of a video that is gone keeps its number.
    self.assertEqual(source.num_classes, 3)

  def test_when_no_video_can_be_used_it_says_so(self):
    self.assert_refused(
      "no video of 1999 frames or more among the 3 that .*all.csv lists; left out: "
      "b/swim.mp4: too short, .* .and 2 more.; expected column 'clip' to name files in",
      num_frames=1000,
    )
    self.assert_refused("left out: swimming: not in", path_column="action")

  def test_paths_stay_in_the_folder(self):
    outside = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())).resolve()
    secret = write_video(outside / "secret.mp4", 20)
    (self.clips / "link.mp4").symlink_to(secret)
    (self.clips / "dir").symlink_to(outside)
    (self.clips / "inside.mp4").symlink_to(self.clips / "a.mp4")
    paths = [
      f"../../{outside.name}/secret.mp4", str(secret), "link.mp4", "dir/secret.mp4",
      "b/../a.mp4", "inside.mp4", str(self.clips / "dance.mp4"),
    ]  # fmt: skip
    rows = [f"0,{path},x,y,train" for path in paths] + [ROWS[4].replace("archery", "x")]
    with self.assertLogs("absl", "WARNING"):
      source = self.source(csv=str(self.write_csv("paths.csv", *rows)))
    self.assertEqual(sorted(self.known(source)), ["dance.mp4", "inside.mp4"])
    self.assertEqual(
      source.skipped,
      [
        f"{paths[0]}: leads out of the folder",
        f"{secret}: leads out of the folder",
        "link.mp4: a link that leads out of the folder",
        "dir/secret.mp4: leads out of the folder",
        "b/../a.mp4: leads out of the folder",
      ],
    )

  def test_a_label_unknown_to_training_is_named(self):
    rows = [*ROWS, "5,a.mp4,fishing,a fish,val"]
    for split in ("train", "eval"):
      self.assert_refused(
        "'a.mp4' is for evaluation .* 'fishing', .* 3 labels, such as 'archery'",
        split,
        csv=str(self.write_csv("u.csv", *rows)),
      )

  def test_empty_captions_are_counted_unless_they_are_allowed(self):
    rows = [*ROWS, "5,a.mp4,archery, ,train", "6,a2.mp4,archery,,val", "7,x.mp4,,,no"]
    values = dict(csv=str(self.write_csv("e.csv", *rows)), eval_value="val")
    for split in ("train", "eval"):
      self.assert_refused(
        "caption_column='text' is empty in 2 of 7 rows, the first is that of 'a.mp4';"
        ".*config.data.empty_captions=True",
        split,
        **values,
      )
    captions = [
      x["caption"]
      for x in self.known(self.source(empty_captions=True, **values))["a.mp4"]
    ]
    self.assertEqual(sorted(captions), ["", "an archer, far away"])
    self.assertLen(self.source(caption_column=None, **values), 4)

  def test_empty_labels_and_paths_are_refused(self):
    file = str(self.write_csv("l.csv", *ROWS, "5,dance.mp4,,a text,train"))
    self.assert_refused(
      "label_column='action' is empty in 1 of 6 rows, .* 'dance.mp4'", csv=file
    )
    file = str(self.write_csv("p.csv", *ROWS, "5,,archery,a text,train"))
    self.assert_refused("p.csv', line 7: nothing in column 'clip'", csv=file)

  @parameterized.parameters("path", "label", "caption", "split")
  def test_a_column_that_there_is_not_is_answered_with_those_there_are(self, key):
    self.assert_refused(
      rf"all.csv' has no column 'Clip' \(data.{key}_column\); its columns are: "
      "id, clip, action, text, part",
      **{f"{key}_column": "Clip"},
    )

  def test_two_columns_of_one_name_are_refused(self):
    file = self.write_csv("two.csv", *ROWS, header="clip,clip,action,text,part")
    self.assert_refused("has several columns 'clip'", csv=str(file))

  @parameterized.parameters(
    (b"", "has no column 'clip' .*; its columns are: $"),
    (HEADER.encode(), "no rows below its header"),
    (HEADER.encode() + b"\n\n1,a.mp4,x,a, b,train", "line 3: 6 values, the header has"),
    (HEADER.encode() + b'\n1,a.mp4,x,"a" b,train', "cannot be read as a csv"),
    (HEADER.encode() + b"\n1,a.mp4,x,\xff,train", "cannot be read as a csv in UTF-8"),
    (HEADER.replace(",", ";").encode(), "columns are: id;clip;action"),
  )
  def test_a_file_that_is_no_csv_is_refused(self, content, expected):
    self.csv.write_bytes(content)
    self.assert_refused(expected)

  def test_a_csv_of_excel_is_read(self):
    header = "clip,id,action,text,part"
    rows = ["{1},{0},{2}".format(*row.split(",", 2)) for row in ROWS]
    text = "\r\n".join([header, *rows])
    self.csv.write_text(text, encoding="utf-8-sig", newline="")
    self.assertLen(self.source(), 3)

  def test_files_that_are_not_there_are_named(self):
    self.assert_refused("data.csv='no.csv' is not a file", csv="no.csv")
    self.assert_refused("data.csv='' is not a file", csv="")
    self.assert_refused(
      "data.eval_csv='no.csv' is not a file", eval_csv="no.csv", split_column=None
    )
    self.assert_refused("data.path='no' does not exist; expected a folder", path="no")

  def test_for_a_video_that_breaks_comes_one_of_its_label_and_caption_or_a_word(self):
    source = self.source(caption_column=None)
    index = [v.name for v in source._videos].index("dance.mp4")
    (self.clips / "dance.mp4").unlink()
    with self.assertLogs("absl", "WARNING") as logs:
      window = source.read(index, 2, 4, 2)
    self.assertEqual(numbers_of(window), [2, 4, 6, 8])
    self.assertIn("a clip with another label or caption takes", logs.output[0])


if __name__ == "__main__":
  absltest.main()
