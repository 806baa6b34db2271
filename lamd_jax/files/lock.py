"""Locks between processes: one writer of a folder at a time.

The kernel holds the lock, not the file: it ends with the process, however that ends,
and on NFS with the machine. So nothing has to be cleaned up after a kill. The file says
who holds it.
"""

from collections.abc import Iterator
import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import shlex
import socket
import sys

from absl import logging

from lamd_jax.types import UserError, reason

FILE = ".lock"


@contextlib.contextmanager
def only_writer(folder: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a folder, which is made if need be.

  Args:
    folder: The folder.

  Raises:
    UserError: Another process holds it, and which; or the folder is not writable.
  """
  fd = _take(folder)
  try:
    with contextlib.suppress(OSError):  # A full disk; the lock does not need the text.
      os.ftruncate(fd, 0)
      os.pwrite(fd, _this_process().encode(), 0)
    yield
  finally:
    with contextlib.suppress(OSError):
      (folder / FILE).unlink()
    os.close(fd)


@contextlib.contextmanager
def waiting(folder: pathlib.Path) -> Iterator[None]:
  """Waits for the lock of a folder, which is made if need be, and holds it.

  Some file systems have no locks; there it holds none.
  """
  fd = _open(folder)
  try:
    with contextlib.suppress(OSError):
      fcntl.flock(fd, fcntl.LOCK_EX)
    yield
  finally:
    os.close(fd)


def _take(folder: pathlib.Path) -> int:
  """Returns the lock file of a folder, opened and locked."""
  while True:
    try:
      fd = _open(folder)
    except OSError as e:
      raise UserError(
        f"cannot write to {folder} ({reason(e)}); choose another folder"
      ) from e
    try:
      fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      who = _holder(fd)
      os.close(fd)
      raise UserError(
        f"{folder} is in use by {who}; wait until it has ended, or choose another"
        " folder"
      ) from e
    except OSError as e:  # The file system has no locks.
      logging.warning(
        "%s cannot be locked (%s): make sure that no other process writes there",
        *(folder, reason(e)),
      )
      return fd
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(fd), os.stat(folder / FILE)):
        return fd
    os.close(fd)  # Its last holder has removed the file meanwhile.


def _open(folder: pathlib.Path) -> int:
  """Opens the lock file to write, without which NFS gives no lock."""
  folder.mkdir(parents=True, exist_ok=True)
  return os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _this_process() -> str:
  """Returns a line of JSON that says which process this is."""
  now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
  who = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
  return json.dumps(who | {"command": shlex.join(sys.argv)}) + "\n"


def _holder(fd: int) -> str:
  """Returns which process holds a lock, in words."""
  try:
    who = json.loads(os.pread(fd, 1 << 16, 0))
    return (
      f"process {who['pid']} on {who['host']} since {who['since']} ({who['command']})"
    )
  except (OSError, ValueError, TypeError, KeyError, RecursionError):
    # It is about to write it.
    return "another process"
