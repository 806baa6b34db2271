"""One process writes to a folder at a time; one that is gone holds no lock."""

import errno
import fcntl
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
from unittest import mock

from absl.testing import absltest

from lamd_jax.files import lock
from lamd_jax.types import UserError

HOLD = """
import pathlib, sys
from lamd_jax.files import lock
with lock.only_writer(pathlib.Path(sys.argv[1])):
  print("held", flush=True)
  sys.stdin.read()
"""
ROOT = pathlib.Path(__file__).resolve().parents[2]


class LockTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    temporary = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = temporary / "runs" / "one"

  def test_the_second_is_told_who_the_first_is(self):
    with lock.only_writer(self.folder):
      with (
        self.assertRaises(UserError) as caught,
        lock.only_writer(self.folder),
      ):
        self.fail()
      who = f"process {os.getpid()} on {socket.gethostname()} since 2"
      self.assertIn(f"{self.folder} is in use by {who}", str(caught.exception))
      self.assertIn(pathlib.Path(sys.argv[0]).name, str(caught.exception))
    self.assertEqual([*self.folder.iterdir()], [])
    with lock.only_writer(self.folder):
      pass

  def test_a_file_that_its_holder_removes_is_no_lock(self):
    flock, seen = fcntl.flock, []

    def late(*args):
      if not seen:  # Between opening the file and locking it, its holder ends.
        seen.append(args)
        (self.folder / lock.FILE).unlink()
      flock(*args)

    with (
      mock.patch.object(fcntl, "flock", late),
      lock.only_writer(self.folder),
      self.assertRaisesRegex(UserError, f"in use by process {os.getpid()}"),
      lock.only_writer(self.folder),
    ):
      self.fail()

  def test_two_folders_have_two_locks(self):
    with lock.only_writer(self.folder), lock.only_writer(self.folder.parent):
      pass

  def test_the_lock_of_a_killed_process_is_taken_over(self):
    with subprocess.Popen(
      [sys.executable, "-c", HOLD, str(self.folder)],
      cwd=ROOT,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
    ) as process:
      assert process.stdout is not None
      self.assertEqual(process.stdout.readline(), b"held\n")
      with (
        self.assertRaisesRegex(UserError, f"in use by process {process.pid} on "),
        lock.only_writer(self.folder),
      ):
        self.fail()
      process.send_signal(signal.SIGKILL)
    with lock.only_writer(self.folder):
      self.assertIn(str(os.getpid()), (self.folder / lock.FILE).read_text())

  def test_a_damaged_lock_file_still_locks(self):
    with lock.only_writer(self.folder):
      for text in ("", "[1]", "{", "[" * 100_000):
        (self.folder / lock.FILE).write_text(text)
        with (
          self.assertRaisesRegex(UserError, "is in use by another process; wait"),
          lock.only_writer(self.folder),
        ):
          self.fail()

  def test_a_folder_that_cannot_be_written_is_named(self):
    self.folder.parent.mkdir()
    self.folder.write_text("mine")
    for folder in (self.folder, self.folder / "below"):
      with (
        self.assertRaisesRegex(UserError, f"cannot write to {folder} .*another folder"),
        lock.only_writer(folder),
      ):
        self.fail()

  def test_a_file_system_without_locks_is_a_warning(self):
    none = OSError(errno.ENOLCK, "No locks available")
    with (
      mock.patch.object(fcntl, "flock", side_effect=none),
      self.assertLogs("absl", "WARNING") as logs,
      lock.only_writer(self.folder),
    ):
      pass
    self.assertRegex(logs.output[0], "cannot be locked .No locks available.: make sure")


if __name__ == "__main__":
  absltest.main()
