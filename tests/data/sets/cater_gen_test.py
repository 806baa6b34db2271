"""CATER-GEN as MAGE's links give it, in small: videos, and four files of captions."""

import json
import shutil

from absl.testing import absltest, parameterized
import numpy as np
from video_fixtures import FolderTestCase, numbers_of, write_video

from lamd_jax.data import sources
from lamd_jax.data.vocabulary import VOCABULARIES
from lamd_jax.types import UserError

# Frames of each video, by which they are told apart.
VIDEOS = {"train": {2: 21, 0: 13, 5: 3}, "test": {1: 17, 4: 9}}
CAPTIONS = {
  "explicit": " the small gray metal cone is sliding to (-1, {}). the large gold metal"
  " snitch is rotating.",
  "ambiguous": " the metal cone is sliding to the {} quadrant. the snitch is rotating.",
}
QUADRANTS = ("first", "second", "third", "fourth", "first", "second")


def name_of(number):
  return f"videos/CLEVR_new_{number:06d}.avi"


class CaterGenTest(FolderTestCase):
  def setUp(self):
    super().setUp()
    for part, videos in VIDEOS.items():
      for number, length in videos.items():
        path = self.folder / name_of(number)
        write_video(path, length, codec="mpeg4", b_frames=0, fps=24, size=(64, 64))
      for captions in CAPTIONS:
        entries = {
          str(i): dict(video=name_of(number), caption=self.caption(captions, number))
          for i, number in enumerate(videos)
        }
        self.write(f"{part}_{captions}", entries)

  def caption(self, captions, number):
    place = 1 + number % 3 if captions == "explicit" else QUADRANTS[number]
    return CAPTIONS[captions].format(place)

  def write(self, name, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (self.folder / f"{name}.json").write_text(text)

  def source(self, split="train", **values):
    data = dict(
      name="cater_gen", path=str(self.folder), captions="explicit", num_frames=5,
      resolution=16,
    )  # fmt: skip
    return sources.make_source(data | values, split)

  def assert_refused(self, expected, split="train", **values):
    with self.assertRaisesRegex(UserError, expected) as caught:
      self.source(split, **values)
    self.assertNotIn("\n", str(caught.exception))

  def find(self, source, number):
    return [video.name for video in source._videos].index(name_of(number))

  @parameterized.parameters("explicit", "ambiguous")
  def test_each_split_is_that_of_its_file_with_its_captions(self, captions):
    for split, part in (("train", "train"), ("eval", "test")):
      source = self.source(split, captions=captions)
      self.assertIsInstance(source, sources.VideoSource)
      self.assertEqual(
        {video.name for video in source._videos}, set(map(name_of, VIDEOS[part]))
      )
      self.assertIsNone(source.num_classes)
      for number in VIDEOS[part]:
        expected = self.caption(captions, number).strip()
        note = source.annotation(self.find(source, number))
        self.assertEqual(note, {"caption": expected})

  def test_its_vocabulary_has_the_words_of_its_captions(self):
    known = VOCABULARIES["cater_gen_v2"]
    for captions in CAPTIONS:
      for split in ("train", "eval"):
        source = self.source(split, captions=captions)
        texts = [source.annotation(i)["caption"] for i in range(len(source))]
        self.assertEqual(known.encode(texts).shape, (len(source), 38))

  def test_a_clip_is_evenly_spaced_over_its_video(self):
    source = self.source()
    for number, expected in (
      (2, [0, 5, 10, 15, 20]),
      (0, [0, 3, 6, 9, 12]),
      (5, [0, 1, 2, 2, 2]),
    ):
      index = self.find(source, number)
      self.assertEqual(source.num_frames(index), 5)
      clip = source.read(index, 0, 5, 1)
      self.assertEqual((clip.shape, clip.dtype), ((5, 16, 16, 3), np.uint8))
      self.assertEqual(numbers_of(clip), expected)
    # At 4/20, 4/12 and all of the frames, the median.
    self.assertAlmostEqual(source.fps, 24 / 3)

  def test_windows_are_at_the_stride_asked_for_as_in_mage(self):
    source = self.source(sampling="window", frame_stride=3)
    self.assertLen(source, 2)
    index = self.find(source, 2)
    self.assertEqual(numbers_of(source.read(index, 0, 5, 3)), [0, 3, 6, 9, 12])
    self.assertEqual(numbers_of(source.read(index, 8, 5, 3)), [8, 11, 14, 17, 20])
    self.assertEqual(source.fps, 24.0)
    self.assertIn("too short, 3 frames of the 13 needed", source.skipped[0])

  def test_a_video_with_two_captions_is_there_with_both(self):
    entries = {
      str(i): dict(video=name_of(2), caption=f" the cone is {what}.")
      for i, what in enumerate(("rotating", "sliding"))
    }
    self.write("train_explicit", entries)
    source = self.source()
    captions = [source.annotation(i)["caption"] for i in range(len(source))]
    self.assertEqual(captions, ["the cone is rotating.", "the cone is sliding."])

  def test_videos_that_cannot_be_used_are_named(self):
    (self.folder / name_of(0)).unlink()
    (self.folder / name_of(5)).write_text("not a video")
    with self.assertLogs("absl", "WARNING") as logs:
      source = self.source()
    self.assertLen(source, 1)
    self.assertEqual(source.skipped[0], f"{name_of(0)}: not in the folder")
    self.assertStartsWith(source.skipped[1], f"{name_of(5)}: Invalid data")
    self.assertIn("1 of the 3 videos that train_explicit.json lists", logs.output[0])

  def test_a_list_cannot_lead_out_of_the_folder(self):
    write_video(self.folder / "secret.avi", 9, codec="mpeg4", b_frames=0)
    entries = {"0": dict(video="../secret.avi", caption=""),
               "1": dict(video="videos/a.avi", caption="")}  # fmt: skip
    inner = self.folder / "inner"
    shutil.copytree(self.folder / "videos", inner / "videos")
    shutil.copy(self.folder / name_of(2), inner / "videos" / "a.avi")
    (inner / "train_explicit.json").write_text(json.dumps(entries))
    with self.assertLogs("absl", "WARNING"):
      source = self.source(path=str(inner))
    self.assertEqual([video.name for video in source._videos], ["videos/a.avi"])
    self.assertEqual(source.skipped, ["../secret.avi: leads out of the folder"])

  def test_the_captions_have_to_be_chosen(self):
    for captions in ("Explicit", "both", ""):
      self.assert_refused(
        "data.captions='.*'; known: explicit, ambiguous", captions=captions
      )
    data = dict(name="cater_gen", path=str(self.folder), num_frames=5)
    with self.assertRaisesRegex(UserError, "data.captions is missing"):
      sources.make_source(data, "train")

  def test_folders_and_files_that_are_not_there_are_named_with_where_to_get_them(self):
    url = "https://github.com/Youncy-Hu/MAGE"
    self.assert_refused(
      "data.path is not set; give the folder with videos/.*avi and "
      f"{{train,test}}_explicit.json of CATER-GEN, from {url}", path=""
    )  # fmt: skip
    self.assert_refused(f"'no' does not exist; expected a folder .*{url}", path="no")
    (self.folder / "test_explicit.json").unlink()
    self.assert_refused(f"test_explicit.json cannot be read .No such .*{url}", "eval")
    self.source("eval", captions="ambiguous")
    shutil.rmtree(self.folder / "videos")
    self.assert_refused(
      "no video of 1 frames or more among the 3 that train_explicit.json lists; left "
      "out: videos/.*: not in the folder .and 2 more.; expected in data.path=.*videos/"
    )

  @parameterized.parameters(
    ("{", "is not JSON .*; get it again"),
    ("[]", "holds no object with entries; expected .'0': .'video': ..., 'caption'"),
    ("{}", "holds no object with entries"),
    ('{"0": {"video": "a.avi"}}', "entry '0': .*; expected a 'video' and a 'caption'"),
    ('{"0": {"video": 3, "caption": "a"}}', "entry '0': "),
    ('{"7": "a.avi"}', "entry '7': 'a.avi'; expected"),
  )
  def test_a_file_of_captions_that_is_none_is_refused(self, text, expected):
    self.write("train_explicit", text)
    self.assert_refused(f"train_explicit.json.* {expected}")

  @parameterized.parameters(
    (dict(sampling="even"), "data.sampling='even'; known: uniform, window"),
    (dict(frame_stride=3), "data.frame_stride=3 means nothing"),
  )
  def test_a_choice_that_there_is_not_is_refused(self, change, expected):
    self.assert_refused(expected, **change)


if __name__ == "__main__":
  absltest.main()
