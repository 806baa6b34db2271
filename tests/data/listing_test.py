"""Which files and folders are videos, what is passed over, and what lists name."""

import os
import pathlib
import socket
import unicodedata

from absl.testing import absltest, parameterized
from video_fixtures import FolderTestCase

from lamd_jax.data import listing


class ListVideosTest(FolderTestCase):
  def touch(self, *names):
    for name in names:
      path = self.folder / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.touch()

  def listed(self, *endings):
    values = (endings,) if endings else ()
    found, passed_over = listing.list_videos(self.folder, *values)
    return {name: list(frames) for name, frames in found}, passed_over

  @parameterized.parameters(
    *("m4v", "mpg", "mpeg", "wmv", "ts", "3gp", "ogv", "flv", "m2ts", "vob", "3g2"),
    *("asf", "mts", "f4v", "mxf", "MP4", "mov", "avi", "mkv", "webm", "gif"),
  )
  def test_what_ffmpeg_reads_is_a_video(self, ending):
    self.touch(f"a.{ending}")
    self.assertEqual(self.listed(), ({f"a.{ending}": []}, []))

  @parameterized.parameters(
    "m3u8", "mpd", "ffconcat", "sdp", "mp3", "m4a", "txt", "eps"
  )
  def test_what_is_none_is_passed_over_with_a_word(self, ending):
    self.touch(f"a.{ending}", f"b.{ending}", f"c.{ending.upper()}")
    line = f"a.{ending}: not looked at, by its ending (.{ending}, 3 files)"
    self.assertEqual(self.listed(), ({}, [line]))

  @parameterized.parameters("png", "jpg", "JPEG", "webp", "bmp", "tif", "tiff", "ppm")
  def test_a_folder_of_pictures_is_a_video_in_natural_order(self, ending):
    self.touch(*(f"a/{number}.{ending}" for number in (10, 2, 1)))
    frames = [f"{number}.{ending}" for number in (1, 2, 10)]
    self.assertEqual(self.listed(), ({"a": frames}, []))

  def test_pictures_next_to_videos_are_not_frames(self):
    self.touch("a.mp4", "b.mp4", "sheet.png", "thumb_1.jpg", "thumb_2.jpg")
    line = ".: 3 pictures, such as sheet.png, in a folder that holds videos"
    self.assertEqual(self.listed(), ({"a.mp4": [], "b.mp4": []}, [line]))

  def test_a_stray_picture_above_videos_is_not_a_video(self):
    self.touch("cats/a.mp4", "dogs/1/1.png", "dogs/1/2.png", "x.png", "dogs/y.png")
    found, passed_over = self.listed()
    self.assertEqual(found, {"cats/a.mp4": [], "dogs/1": ["1.png", "2.png"]})
    self.assertEqual(
      passed_over,
      [
        ".: 1 picture, such as x.png, in a folder that holds videos",
        "dogs: 1 picture, such as y.png, in a folder that holds videos",
      ],
    )

  def test_a_video_and_its_preview_count_once(self):
    self.touch("a.gif", "a.mp4", "b.gif", "c/1.png", "c.avi", "d.mkv", "d.webm")
    found, passed_over = self.listed()
    self.assertEqual(list(found), ["a.mp4", "b.gif", "c.avi", "d.mkv"])
    self.assertEqual(
      passed_over,
      [
        "a.gif: the twin of a.mp4",
        "c: 1 picture, such as 1.png, with the name of c.avi, its twin",
        "d.webm: the twin of d.mkv",
      ],
    )

  def test_files_of_one_name_in_two_folders_are_two_videos(self):
    self.touch("x/a.gif", "y/a.mp4")
    self.assertLen(self.listed()[0], 2)

  def test_frames_in_two_formats_count_once(self):
    self.touch("a/1.png", "a/2.png", "a/1.jpg", "a/3.png")
    found, passed_over = self.listed()
    self.assertEqual(found, {"a": ["1.png", "2.png", "3.png"]})
    self.assertEqual(passed_over, ["a/1.jpg: the twin of 1.png"])

  def test_where_frames_alone_are_looked_for_files_do_not_count(self):
    self.touch("a/1.png", "a/2.png", "a/preview.mp4")
    found, _ = listing.list_videos(self.folder, ())
    self.assertEqual(found, [("a", ("1.png", "2.png"))])

  def test_what_is_not_a_file_is_not_opened(self):
    os.mkfifo(self.folder / "pipe.mp4")
    server = self.enterContext(socket.socket(socket.AF_UNIX))
    server.bind(str(self.folder / "s.png"))
    lines = ["pipe.mp4: a named pipe, not a file", "s.png: a socket, not a file"]
    self.assertEqual(self.listed(), ({}, lines))

  def test_names_of_any_bytes_are_found_and_shown_escaped(self):
    name = os.fsdecode(b"caf\xe9\n.mp4")
    self.touch(name, os.fsdecode(b"\x1b[2J.txt"))
    line = r"\x1b[2J.txt: not looked at, by its ending (.txt, 1 file)"
    self.assertEqual(self.listed(), ({name: []}, [line]))

  def test_a_link_to_itself_ends(self):
    (self.folder / "a.mp4").symlink_to("a.mp4")
    (self.folder / "d").symlink_to("d")
    self.assertEqual(list(self.listed()[0]), ["a.mp4"])

  def test_hidden_files_are_not_mentioned(self):
    self.touch(".DS_Store", "._a.mp4", ".thumbs/1.png")
    self.assertEqual(self.listed(), ({}, []))


class FinderTest(FolderTestCase):
  def setUp(self):
    super().setUp()
    for name in ("a.mp4", "cats/Tom.mp4", "cats/1.png", "frames/2.jpg", "empty/x.txt"):
      path = self.folder / name
      path.parent.mkdir(exist_ok=True)
      path.touch()
    self.finder = listing.Finder(self.folder)

  @parameterized.parameters(
    ("a.mp4", ("a.mp4", ())),
    ("./cats/../cats/Tom.mp4", ("./cats/../cats/Tom.mp4", listing.OUTSIDE)),
    ("/etc/passwd", ("/etc/passwd", listing.OUTSIDE)),
    ("frames", ("frames", ("2.jpg",))),
    ("empty", "a folder without frames"),
    ("a", "not in the folder; a.mp4 is"),
    ("a.avi", "not in the folder; a.mp4 is"),
    ("cats/tom.MP4", "not in the folder; cats/Tom.mp4 is"),
    ("cats\\Tom.mp4", "not in the folder; with forward slashes, cats/Tom.mp4 is"),
    ("dogs/a.mp4", "not in the folder"),
    ("a.mp4/b", "not in the folder"),
    ("x" * 5000, "not in the folder"),
    ("a\0.mp4", "not in the folder"),
  )
  def test_a_name_is_found_or_it_is_said_why_not(self, name, expected):
    self.assertEqual(self.finder.find(name), expected)

  @parameterized.parameters("NFC", "NFD")
  def test_accents_may_be_written_in_either_way(self, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    there = unicodedata.normalize(form, "\u00e9t\u00e9/caf\u00e9.mp4")
    path = self.folder / there
    path.parent.mkdir()
    path.touch()
    for name in (there, unicodedata.normalize(other, there)):
      self.assertEqual(self.finder.find(name), (there, ()))

  def test_a_link_out_of_the_folder_is_outside(self):
    (self.folder / "out").symlink_to(self.folder.parent)
    self.assertEqual(self.finder.find("out"), ("out", listing.OUTSIDE))

  def test_each_folder_is_read_once_for_many_missing_names(self):
    read = []
    listdir = os.listdir
    self.enterContext(
      absltest.mock.patch.object(
        os, "listdir", lambda path: read.append(pathlib.Path(path)) or listdir(path)
      )
    )
    for number in range(100):
      self.finder.find(f"cats/{number}.mp4")
    self.assertLessEqual(len(read), 2)


if __name__ == "__main__":
  absltest.main()
