"""Files that are opened only if they are files.

A folder of somebody's data may hold named pipes, which never end, sockets and devices.
"""

import errno
import os
import pathlib
import stat
from typing import BinaryIO

_KINDS = {
  stat.S_IFIFO: "a named pipe",
  stat.S_IFSOCK: "a socket",
  stat.S_IFCHR: "a device",
  stat.S_IFBLK: "a device",
}


def irregular(path: str | os.PathLike[str]) -> str:
  """Returns "a named pipe", for example; "" for files, folders and what is missing."""
  try:
    return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "")
  except (OSError, ValueError):
    return ""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
  """Opens a file for reading.

  Raises:
    OSError: There is no such file, it cannot be read, or it is not a regular file.
  """
  if "\0" in os.fspath(path):
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
  if kind := irregular(path):
    raise OSError(errno.EINVAL, f"{kind}, not a file")
  return open(path, "rb")


def read_text(path: pathlib.Path, errors: str = "strict") -> str:
  """Reads a text file.

  Raises:
    OSError: There is no such file, it cannot be read, or it is not a regular file.
    UnicodeDecodeError: It is not text in UTF-8.
  """
  with open_regular(path) as file:
    return file.read().decode("utf-8", errors).replace("\r\n", "\n")
