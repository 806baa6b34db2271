"""Files that are opened only if they are files."""

import os
import socket

from absl.testing import absltest
from video_fixtures import FolderTestCase

from lamd_jax.data import regular_files


class RegularFilesTest(FolderTestCase):
  def test_what_never_ends_is_not_opened(self):
    pipe, bound = self.folder / "pipe", self.folder / "socket"
    os.mkfifo(pipe)
    server = self.enterContext(socket.socket(socket.AF_UNIX))
    server.bind(str(bound))
    for path, kind in (
      (pipe, "a named pipe"),
      (bound, "a socket"),
      ("/dev/zero", "a device"),
    ):
      self.assertEqual(regular_files.irregular(path), kind)
      with self.assertRaisesRegex(OSError, f"{kind}, not a file"):
        regular_files.open_regular(path)
    self.assertEqual(regular_files.irregular(self.folder / "gone"), "")
    self.assertEqual(regular_files.irregular(self.folder), "")

  def test_a_link_to_a_pipe_is_one(self):
    os.mkfifo(self.folder / "pipe")
    (self.folder / "link").symlink_to("pipe")
    self.assertEqual(regular_files.irregular(self.folder / "link"), "a named pipe")

  def test_text_is_read(self):
    path = self.folder / "a.txt"
    path.write_bytes("caf\u00e9\r\nb".encode())
    self.assertEqual(regular_files.read_text(path), "caf\u00e9\nb")
    path.write_bytes(b"\xff")
    with self.assertRaises(UnicodeDecodeError):
      regular_files.read_text(path)
    self.assertEqual(regular_files.read_text(path, errors="replace"), "\ufffd")

  def test_a_name_that_no_file_can_have_is_that_of_none(self):
    with self.assertRaises(FileNotFoundError):
      regular_files.open_regular("a\0b")


if __name__ == "__main__":
  absltest.main()
