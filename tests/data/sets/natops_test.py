"""NATOPS as its script leaves it, in small: long videos and one text file."""

import itertools
import shutil
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import numpy as np
from video_fixtures import FolderTestCase, numbered_frames, numbers_of, write_video

from lamd_jax.data import media, sources
from lamd_jax.data.sets import natops
from lamd_jax.types import UserError

# Persons 3 and 20 are for training, 2 for evaluation, 1 for nothing.
SUBJECTS, GESTURES = (1, 2, 3, 20), (1, 4, 24)
# First and last frame of the repetitions, counted from 1, in every video.
REPETITIONS = ((3, 12), (20, 31), (33, 35))


def segmentation(num_subjects=20, num_gestures=24, repetitions=REPETITIONS):
  """The file, with lines that mean nothing and the line ends of Windows."""
  lines = ["// Ground truth", "// subject,gesture,repetitions"]
  for subject in range(1, num_subjects + 1):
    lines += ["", f"// Subject {subject}"]
    for gesture in range(1, num_gestures + 1):
      lines.append(f"{subject},{gesture},{len(repetitions)}")
      lines += [f"{i}:{a},{b}" for i, (a, b) in enumerate(repetitions, 1)]
  return "".join(f"{line}\r\n" for line in lines)


class NatopsTest(FolderTestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.numbered = write_video(
      f"{folder}/a.avi", 40, codec="mpeg4", b_frames=0, fps=20, size=(240, 320)
    )

  def setUp(self):
    super().setUp()
    self.write_segmentation(segmentation())
    self.write_videos(self.numbered, SUBJECTS)

  def write_videos(self, file, subjects):
    for subject in subjects:
      for gesture in GESTURES:
        self.video(subject, gesture).parent.mkdir(exist_ok=True)
        shutil.copy(file, self.video(subject, gesture))

  def video(self, subject, gesture):
    name = f"gesture{gesture:02d}/g{gesture:02d}s{subject:02d}.avi"
    return self.folder / name

  def write_segmentation(self, text):
    (self.folder / "segmentation.txt").write_bytes(text.encode())

  def source(self, split="train", **values):
    data = dict(name="natops", path=str(self.folder), num_frames=5, resolution=26)
    with self.assertLogs("absl", "WARNING") as logs:
      source = sources.make_source(data | values, split)
    self.logs = logs.output
    return source

  def assert_refused(self, expected, split="train", **values):
    with self.assertRaisesRegex(UserError, expected) as caught:
      self.source(split, **values)
    self.assertNotIn("\n", str(caught.exception))

  def find(self, source, subject, gesture, repetition):
    """The number of a clip; repetitions are told apart by where they begin."""
    videos = source._videos
    name = str(self.video(subject, gesture).relative_to(self.folder))
    first = REPETITIONS[repetition - 1][0] - 1
    return [(v.name, v.first) for v in videos].index((name, first))

  def middle(self, clip):
    """Frames without the black bars."""
    return clip[:, 4:-4]

  def test_no_person_is_on_both_sides_and_the_first_on_none(self):
    train, held_out = self.source(), self.source("eval")
    found = []
    for source, subjects in ((train, {3, 20}), (held_out, {2})):
      self.assertIsInstance(source, sources.VideoSource)
      self.assertLen(source, len(subjects) * len(GESTURES) * len(REPETITIONS))
      notes = [source.annotation(i) for i in range(len(source))]
      found.append({note["subject"] for note in notes})
      self.assertEqual(found[-1], subjects)
      self.assertEqual({video.name.split("s")[-1] for video in source._videos},
                       {f"{subject:02d}.avi" for subject in subjects})  # fmt: skip
      self.assertEqual(source.num_classes, 24)
    self.assertTrue(found[0].isdisjoint(found[1]))

  def test_the_whole_set_has_the_numbers_of_clips_that_lfdm_tells(self):
    train, held_out = (set(natops.SUBJECTS[split]) for split in ("train", "eval"))
    self.assertEqual(len(train) * 24 * 20, 4800)
    self.assertEqual(train | held_out, set(range(2, 21)))
    self.assertTrue(train.isdisjoint(held_out))

  def test_labels_count_gestures_from_0_and_captions_name_them(self):
    source = self.source()
    expected = {
      1: (0, "I have command"),
      4: (3, "spread wings"),
      24: (23, "cut engine"),
    }
    for gesture, (label, caption) in expected.items():
      for subject in (3, 20):
        note = source.annotation(self.find(source, subject, gesture, 2))
        self.assertEqual(note, {"label": label, "caption": caption, "subject": subject})
    self.assertLen(set(natops.GESTURES), 24)

  def test_a_clip_is_evenly_spaced_over_its_repetition(self):
    source = self.source()
    # Frames 3 to 12 are 2 to 11 from 0; 20 to 31 are 19 to 30; of 3 the last repeats.
    for repetition, expected in (
      (1, [2, 4, 6, 8, 11]),
      (2, [19, 21, 24, 27, 30]),
      (3, [32, 33, 34, 34, 34]),
    ):
      index = self.find(source, 3, 4, repetition)
      self.assertEqual(source.num_frames(index), 5)
      clip = source.read(index, 0, 5, 1)
      self.assertEqual((clip.shape, clip.dtype), ((5, 26, 26, 3), np.uint8))
      self.assertEqual(numbers_of(self.middle(clip)), expected)
    # One alone, as for joint training with images; and once more, from memory.
    clip = source.read(self.find(source, 3, 4, 1), 4, 1, 1)
    self.assertEqual(numbers_of(self.middle(clip)), [11])

  def test_windows_stay_inside_their_repetition(self):
    source = self.source(sampling="window", frame_stride=2)
    self.assertLen(source, 2 * 3 * 2)  # The repetition of three frames is too short.
    lines = [line for line in source.skipped if "repetition 3: too short, 3 fr" in line]
    self.assertLen(lines, 2 * 3)
    self.assertIn("left out: 6 of 18 repetitions: gesture01/g01s03.avi, ", self.logs[1])
    index = self.find(source, 20, 1, 2)
    self.assertEqual(source.num_frames(index), 12)
    self.assertEqual(
      numbers_of(self.middle(source.read(index, 3, 5, 2))), [22, 24, 26, 28, 30]
    )
    with self.assertRaises(ValueError):
      source.read(index, 4, 5, 2)

  def test_the_rate_is_that_at_which_the_median_clip_runs_naturally(self):
    self.assertEqual(self.source(sampling="window", num_frames=3).fps, 20.0)
    # 5 frames in place of 10, of 12 and of 3: 20 * 4 / 9, 20 * 4 / 11 and 20.
    self.assertAlmostEqual(self.source().fps, 80 / 9)

  def test_the_box_is_cut_out_exactly(self):
    frames = numbered_frames(40, 240, 320)
    frames[..., 0] = np.arange(320) // 2
    frames[..., 1] = np.arange(240)[:, None]
    # Without loss.
    file = write_video(
      self.folder / "a.avi", 40, codec="png", pix_fmt="rgb24", video=frames
    )
    self.write_videos(file, (3, 20))
    source = self.source(resolution=260)
    clip = source.read(self.find(source, 3, 24, 1), 0, 5, 1)
    # Rows 10 to 238 and columns 30 to 289, between bars of 15 and 16 rows.
    numbers = [2, 4, 6, 8, 11]
    np.testing.assert_array_equal(clip[:, 15:244], frames[numbers, 10:239, 30:290])
    self.assertEqual(clip[:, :15].max() + clip[:, 244:].max(), 0)
    # Or the centre of it, 229 pixels wide.
    clip = self.source(resolution=229, fit="crop").read(0, 0, 5, 1)
    self.assertEqual(clip[0, :, 0, 1].tolist(), list(range(10, 239)))
    self.assertBetween(clip[0, 100, 0, 0], 45 // 2, 46 // 2)

  def test_the_first_clips_are_of_several_gestures_and_persons(self):
    source = self.source()
    notes = [source.annotation(i) for i in range(6)]
    self.assertGreater(len({note["label"] for note in notes}), 1)
    self.assertGreater(len({note["subject"] for note in notes}), 1)
    names = [video.name for video in source._videos]
    runs = sum(a != b for a, b in itertools.pairwise(names))
    self.assertGreater(runs, 8)  # Grouped by file there would be 5 changes.
    self.assertEqual(source._videos, self.source()._videos)

  def test_videos_that_are_not_there_are_counted(self):
    source = self.source()
    self.assertIn(
      "left out: 234 of the 240 videos that the split lists; the first: "
      "gesture01/g01s04.avi: not in the folder", self.logs[0]
    )  # fmt: skip
    self.assertLen(source.skipped, 234)

  def test_a_repetition_that_the_video_has_not_is_named(self):
    self.write_segmentation(segmentation(repetitions=((3, 12), (30, 41))))
    source = self.source("eval")
    self.assertLen(source, 3)
    line = "gesture01/g01s02.avi, repetition 2: ends with frame 41, the video has 40"
    self.assertIn(line, source.skipped)
    self.assertIn(f"left out: 3 of 6 repetitions: {line}", self.logs[1])

  def test_the_same_gesture_of_another_person_takes_the_place_of_what_breaks(self):
    source = self.source()
    index = self.find(source, 3, 4, 2)
    self.video(3, 4).unlink()
    with (
      mock.patch.object(media, "read_frames", wraps=media.read_frames) as read,
      self.assertLogs("absl", "WARNING") as logs,
    ):
      source.read(index, 0, 5, 1)
    self.assertEqual(read.call_args.args[0].name, "g04s20.avi")
    self.assertIn("another clip takes the place of gesture04/g04s03", logs.output[0])

  def test_frames_that_are_too_small_are_refused_with_what_was_expected(self):
    file = write_video(self.folder / "a.avi", 40, codec="mpeg4", b_frames=0)
    self.write_videos(file, (2,))
    source = self.source("eval")
    with (
      self.assertLogs("absl", "WARNING"),
      self.assertRaisesRegex(UserError, "frames of 64x48; expected 290x239 or more"),
    ):
      source.read(0, 0, 5, 1)

  def test_folders_that_are_not_there_are_named_with_where_to_get_them(self):
    url = "https://github.com/yalesong/natops"
    self.assert_refused(f"data.path is not set; .*{url}.*config.data.path=", path="")
    self.assert_refused("'no' does not exist; expected a folder with segm", path="no")
    (self.folder / "segmentation.txt").unlink()
    self.assert_refused(f"segmentation.txt cannot be read .No such .*{url}")

  def test_a_folder_without_videos_of_the_split_says_what_it_expected(self):
    for gesture in GESTURES:
      self.video(2, gesture).unlink()
    self.assert_refused(
      "no video of 1 frames or more among the 216 that the split lists; .*expected in "
      "data.path=.*segmentation.txt and gesture01/g01s01.avi", "eval"
    )  # fmt: skip

  @parameterized.parameters(
    (segmentation(19), "has 19 sections '// Subject', 24 gestures in the last; expec"),
    (segmentation() + "// Subject 21\r\n", "has 21 sections '// Subject', 0 gestures"),
    (segmentation(num_gestures=23), "line 98: 23 gestures in the section above, exp"),
    ("1:3,12", "line 1: '1:3,12'; expected, below a line of three numbers"),
    ("// Subject 1\n1,1,2\n1:12,3", "line 3: '1:12,3'; expected"),
    ("// Subject 1\n1,1,2\n1:0,3", "line 3: '1:0,3'; .*frames counted from 1; get it"),
    ("", "has 0 sections '// Subject', 0 gestures in the last; expected 20 of 24"),
  )
  def test_a_segmentation_that_is_none_is_refused(self, text, expected):
    self.write_segmentation(text)
    self.assert_refused(f"segmentation.txt.* {expected}")

  def test_a_segmentation_without_repetitions_leaves_no_clip(self):
    self.write_segmentation(segmentation(repetitions=()))
    self.assert_refused(
      "no video of 1 frames or more in segmentation.txt; left out: no"
    )

  @parameterized.parameters(
    (dict(sampling="even"), "data.sampling='even'; known: uniform, window"),
    (dict(fit="squash"), "data.fit='squash'; known: crop, stretch, pad"),
    (dict(frame_stride=2), "data.frame_stride=2 means nothing"),
    (dict(subject=3), "data.subject means nothing to data.name='natops'; "),
  )
  def test_a_choice_that_there_is_not_is_refused(self, change, expected):
    self.assert_refused(expected, **change)


if __name__ == "__main__":
  absltest.main()
