"""A folder of somebody's videos, with everything that folders have in them."""

import os
import pathlib
import tempfile

from absl.testing import absltest, parameterized
import numpy as np
from PIL import Image
from video_fixtures import (
  FolderTestCase,
  break_frames,
  numbers_of,
  write_frames,
  write_video,
)

from lamd_jax.data import sources
from lamd_jax.data.sets import video_folder
from lamd_jax.types import UserError


class VideoFolderTest(FolderTestCase):
  def source(self, split="train", num_frames=4, frame_stride=2, **values):
    data = dict(
      name="video_folder", path=str(self.folder), num_frames=num_frames,
      frame_stride=frame_stride, resolution=16,
    )  # fmt: skip
    return sources.make_source(data | values, split)

  def write(self, name, num_frames=20, **values):
    return write_video(self.folder / name, num_frames, **values)

  def quiet_source(self, *args, **values):
    with self.assertLogs("absl", "WARNING"):
      return self.source(*args, **values)

  def test_all_kinds_of_videos_are_found_whatever_the_case_of_their_endings(self):
    self.write("a.mp4")
    self.write("deep/er/B.MP4", container="mp4")
    self.write("c.Mov", container="mov")
    self.write("d.mkv")
    self.write("e.WEBM", codec="libvpx-vp9", container="webm")
    self.write("f.avi", codec="mpeg4")
    self.write("g.GIF", codec="gif", pix_fmt="rgb8", container="gif")
    write_frames(self.folder / "frames", 20)
    (self.folder / "notes.txt").write_text("not looked at")
    (self.folder / ".hidden.mp4").write_text("not looked at")
    source = self.quiet_source()
    self.assertLen(source, 8)
    self.assertEqual(
      source.skipped, ["notes.txt: not looked at, by its ending (.txt, 1 file)"]
    )
    self.assertEqual(source.fps, 25.0)
    self.assertEqual(source.annotation(0), {})
    for index in range(8):
      self.assertEqual(source.read(index, 0, 4, 2).shape, (4, 16, 16, 3))

  def test_pictures_next_to_videos_and_twins_are_named_and_not_trained_on(self):
    self.write("a.mp4")
    self.write("a.gif", codec="gif", pix_fmt="rgb8")
    write_frames(self.folder, 1, pattern="sheet_{}")
    with self.assertLogs("absl", "WARNING") as logs:
      train, held_out = self.source(), self.source("eval")
    self.assertEqual([video.name for video in train._videos], ["a.mp4"])
    self.assertEqual([video.name for video in held_out._videos], ["a.mp4"])
    lines = [
      ".: 1 picture, such as sheet_0.png, in a folder that holds videos",
      "a.gif: the twin of a.mp4",
    ]
    self.assertEqual(train.skipped, lines)
    for line in lines:  # Once, not for each split.
      self.assertLen([x for x in logs.output if line in x], 1)

  def test_names_that_are_not_utf_8_are_divided_and_read(self):
    names = [os.fsdecode(b"caf\xe9_%d.mp4" % number) for number in range(12)]
    for name in names:
      self.write(name, num_frames=9)
    train, held_out = self.source(), self.source("eval")
    found = [video.name for source in (train, held_out) for video in source._videos]
    self.assertCountEqual(found, names)
    self.assertEqual(numbers_of(train.read(0, 0, 4, 2)), [0, 2, 4, 6])

  def test_a_name_with_escape_codes_is_not_printed_raw(self):
    self.write("a.mp4")
    (self.folder / "\x1b[31m\nred: 1.mp4").write_text("no video")
    with self.assertLogs("absl", "WARNING") as logs:
      source = self.source()
    self.assertStartsWith(source.skipped[0], r"\x1b[31m\nred: 1.mp4: Invalid data")
    self.assertTrue(all(line.isprintable() for line in logs.output))

  def test_a_colon_before_a_slash_is_no_protocol(self):
    self.write("http:/clip.mp4")
    self.write("concat:a|b.mp4")
    self.write("subfile,,start,0,end,9,,:c.mp4")
    self.write("%03d.mp4")
    source = self.source()
    self.assertLen(source, 4)
    for index in range(4):
      self.assertEqual(numbers_of(source.read(index, 0, 4, 2)), [0, 2, 4, 6])

  @parameterized.parameters(".png", ".JPG", ".webp")
  def test_frames_of_a_folder_come_in_the_order_people_count(self, ending):
    write_frames(self.folder / "f", 22, ending)  # frame_10 sorts before frame_2.
    source = self.quiet_source()
    self.assertEqual(numbers_of(source.read(0, 0, 4, 2)), [0, 2, 4, 6])
    self.assertEqual(numbers_of(source.read(0, 5, 3, 3)), [5, 8, 11])

  def test_the_folder_itself_may_hold_the_frames_of_one_video(self):
    write_frames(self.folder, 14, pattern="{:04d}")
    held_out = self.quiet_source("eval")
    self.assertEqual(numbers_of(held_out.read(0, 0, 4, 2)), [7, 9, 11, 13])

  def test_windows_are_read_where_they_were_asked_for(self):
    self.write("a.mp4", num_frames=50)
    source = self.source()
    for _ in range(2):  # Decoded, then from memory.
      self.assertEqual(numbers_of(source.read(0, 9, 4, 3)), [9, 12, 15, 18])
      self.assertEqual(numbers_of(source.read(0, 12, 3, 3)), [12, 15, 18])
      self.assertEqual(numbers_of(source.read(0, 0, 7, 1)), list(range(7)))

  def test_memory_for_decoded_frames_has_a_limit(self):
    self.write("a.mp4", num_frames=50)
    source = self.source(cache_bytes=5 * 16 * 16 * 3)
    source.read(0, 0, 8, 1)
    self.assertLen(source._cache, 5)
    self.assertEqual(numbers_of(source.read(0, 3, 4, 1)), [3, 4, 5, 6])

  def test_from_ten_videos_on_whole_videos_are_held_out(self):
    for number in range(12):
      write_frames(self.folder / f"v{number}", 9)
    train, held_out = self.quiet_source("train"), self.source("eval")
    names = [{video.name for video in s._videos} for s in (train, held_out)]
    self.assertEmpty(names[0] & names[1])
    self.assertLen(names[0] | names[1], 12)
    self.assertBetween(len(names[1]), 1, 3)
    # Nobody changes sides when one is added.
    write_frames(self.folder / "v99", 9)
    later = {video.name for video in self.quiet_source("eval")._videos}
    self.assertContainsSubset(names[1] - later, {min(names[1], key=video_folder._hash)})
    self.assertContainsSubset(later, names[1] | {"v99"})

  def test_about_one_name_in_ten_is_held_out_and_the_same_for_ever(self):
    share = np.mean([video_folder._hash(f"{i}.mp4") < 0.1 for i in range(4000)])
    self.assertBetween(share, 0.085, 0.115)
    self.assertAlmostEqual(video_folder._hash("a/b.mp4"), 0.68995, places=4)

  def test_of_few_videos_the_end_is_held_out(self):
    self.write("a.mp4", num_frames=50)
    self.write("b.mp4", num_frames=15)
    self.write("short.mp4", num_frames=9)
    train = self.source("train")
    with self.assertLogs("absl", "WARNING") as logs:
      held_out = self.source("eval")
    self.assertIn("the last part of 2 of them", logs.output[0])
    self.assertEqual([train.num_frames(i) for i in range(3)], [40, 8, 9])
    self.assertEqual([held_out.num_frames(i) for i in range(2)], [10, 7])
    self.assertEqual(numbers_of(held_out.read(0, 3, 4, 2)), [43, 45, 47, 49])
    self.assertEqual(numbers_of(held_out.read(1, 0, 4, 2)), [8, 10, 12, 14])
    with self.assertRaisesRegex(ValueError, "frames 34 to 40 of 40"):
      train.read(0, 34, 4, 2)  # It would look at what is held out.

  def test_without_room_for_two_windows_a_warning_says_what_evaluation_is_worth(self):
    self.write("a.mp4", num_frames=9)
    train = self.source("train")
    with self.assertLogs("absl", "WARNING") as logs:
      held_out = self.source("eval")
    self.assertIn("its figures say nothing about new ones", logs.output[0])
    np.testing.assert_array_equal(train.read(0, 1, 4, 2), held_out.read(0, 1, 4, 2))

  def test_what_cannot_be_used_is_named_once_with_the_reason(self):
    good = self.write("good.mp4", num_frames=30)
    (self.folder / "text.mp4").write_text("hello")
    (self.folder / "cut.mp4").write_bytes(good.read_bytes()[:2000])
    self.write("short.mkv", num_frames=6)
    write_frames(self.folder / "few", 3)
    broken = write_frames(self.folder / "broken", 9)
    (broken / "frame_0.png").write_bytes(b"no picture")
    with self.assertLogs("absl", "WARNING") as logs:
      train = self.source("train")
      held_out = self.source("eval")
    self.assertLen(train, 1)
    self.assertEqual(train.skipped, held_out.skipped)
    names = [line.partition(": ")[0] for line in train.skipped]
    self.assertEqual(names, ["broken", "cut.mp4", "few", "short.mkv", "text.mp4"])
    for line in train.skipped:
      self.assertLen([o for o in logs.output if line in o], 1, line)
    self.assertIn("short.mkv: too short, 6 frames of the 7 needed", train.skipped)
    self.assertIn("few: too short, 3 frames of the 7 needed", train.skipped)

  def test_links_are_followed_inside_the_folder_only(self):
    outside = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    write_video(outside / "secret.mp4", 9)
    self.write("sub/a.mp4", num_frames=30)
    (self.folder / "inside.mp4").symlink_to(self.folder / "sub" / "a.mp4")
    (self.folder / "sub" / "loop").symlink_to(self.folder)
    (self.folder / "link.mp4").symlink_to(outside / "secret.mp4")
    (self.folder / "dir").symlink_to(outside)
    (self.folder / "dangling.mp4").symlink_to(self.folder / "nothing.mp4")
    source = self.quiet_source()
    self.assertEqual([v.name for v in source._videos], ["inside.mp4", "sub/a.mp4"])
    self.assertLen(source.skipped, 3)
    self.assertEqual(source.skipped[0][:13], "dangling.mp4:")
    self.assertEqual(source.skipped[1], "dir: a link that leads out of the folder")
    self.assertEqual(source.skipped[2], "link.mp4: a link that leads out of the folder")

  def test_a_file_that_breaks_while_it_is_read_gives_way_to_another(self):
    self.write("a.mp4", num_frames=40, gop=10, b_frames=0)
    self.write("b.mp4", num_frames=30, gop=10, b_frames=0)
    break_frames(self.folder / "a.mp4", range(15, 20))
    source = self.source()  # 32 frames of a, 23 of b.
    self.assertEqual(numbers_of(source.read(0, 2, 4, 2)), [2, 4, 6, 8])
    with self.assertLogs("absl", "WARNING") as logs:
      window = source.read(0, 20 - 7, 4, 2)
      again = source.read(0, 20 - 7, 4, 2)
    self.assertEqual(numbers_of(window), [13, 15, 17, 19])  # Of b.
    np.testing.assert_array_equal(window, again)
    np.testing.assert_array_equal(window, source.read(1, 13, 4, 2))
    self.assertLen(logs.output, 1)
    self.assertLen(source.skipped, 1)
    self.assertStartsWith(source.skipped[0], "a.mp4: breaks while it is read (")
    # The same in a new process, to which nothing is known to be broken.
    np.testing.assert_array_equal(self.source().read(0, 20 - 7, 4, 2), window)
    # What is whole is read as before.
    self.assertEqual(numbers_of(source.read(0, 20, 4, 2)), [20, 22, 24, 26])

  def test_a_file_that_vanishes_gives_way_too(self):
    self.write("a.mp4", num_frames=30)
    frames = write_frames(self.folder / "b", 30)
    source = self.quiet_source()
    (frames / "frame_3.png").unlink()
    with self.assertLogs("absl", "WARNING"):
      self.assertEqual(numbers_of(source.read(1, 1, 4, 2)), [1, 3, 5, 7])
    self.assertIn("frame_3.png", source.skipped[0])

  def test_when_nothing_can_be_read_any_more_it_ends_with_the_reason(self):
    self.write("a.mp4", num_frames=30)
    source = self.source()
    (self.folder / "a.mp4").unlink()
    with (
      self.assertLogs("absl", "WARNING"),
      self.assertRaisesRegex(UserError, "no window of 7 frames .* a.mp4: No such file"),
    ):
      source.read(0, 0, 4, 2)

  @parameterized.parameters("missing", "empty", "file", "unset", "useless")
  def test_a_folder_without_videos_is_a_mistake_told_in_one_line(self, kind):
    path = self.folder / "clips"
    match kind:
      case "empty":
        path.mkdir()
      case "file":
        path.write_text("")
      case "useless":
        path.mkdir()
        (path / "notes.mp4").write_text("not a video")
    expected = {
      "missing": "clips' does not exist; expected a folder with videos",
      "empty": "no video of 7 frames or more in .*looked for mp4, mov",
      "file": "clips' is a file; expected a folder",
      "unset": "data.path is not set",
      "useless": "no video of 7 .*left out: notes.mp4: Invalid data",
    }[kind]
    with self.assertRaisesRegex(UserError, expected) as caught:
      self.source(path="" if kind == "unset" else str(path))
    self.assertNotIn("\n", str(caught.exception))

  def test_rates_far_apart_are_pointed_out(self):
    self.write("a.mp4", num_frames=30, fps=60)
    self.write("b.mp4", num_frames=30, fps=25)
    self.write("c.mp4", num_frames=30, fps=30)
    with self.assertLogs("absl", "WARNING") as logs:
      source = self.source()
    self.assertIn("25 to 60 frames per second", logs.output[0])
    self.assertEqual(source.fps, 30.0)

  def test_pictures_of_different_sizes_make_one_video(self):
    for number in range(8):
      Image.new("RGB", (20 + number, 30), (number,) * 3).save(
        self.folder / f"{number}.png"
      )
    source = self.quiet_source()
    self.assertEqual(source.read(0, 0, 4, 2)[:, 0, 0, 0].tolist(), [0, 2, 4, 6])


if __name__ == "__main__":
  absltest.main()
