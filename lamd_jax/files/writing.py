"""Files written whole or not at all, and disks that run full."""

from collections.abc import Iterator, Mapping
import contextlib
import errno
import json
import os
import pathlib
from typing import Any

import jax

from lamd_jax.types import UserError, causes, reason

FULL = {errno.ENOSPC, errno.EDQUOT}
# Libraries in C++ report the same in words.
FULL_WORDS = ("no space left on device", "disk quota exceeded")


def is_full_disk(error: BaseException) -> bool:
  """Returns whether an error, or one it was raised from, reports a full disk."""
  return any(
    (isinstance(e, OSError) and e.errno in FULL)
    or any(words in str(e).lower() for words in FULL_WORDS)
    for e in causes(error)
  )


@contextlib.contextmanager
def explain_full_disk(folder: str | os.PathLike[str]) -> Iterator[None]:
  """Turns the many reports of a full disk into one `UserError`."""
  try:
    yield
  except UserError:
    raise
  except Exception as e:
    if not is_full_disk(e):
      raise
    raise UserError(
      f"the disk is full: could not write to {os.fspath(folder)}; earlier"
      " checkpoints are intact. Free some space and run the same command again:"
      " it goes on from the last one"
    ) from e


def write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
  """Writes JSON, whole or not at all."""
  write_text(path, json.dumps(values, indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file, whole or not at all; only process 0 writes.

  Bytes of file names that are not UTF-8 are written as Python escapes them.

  Raises:
    UserError: The folder is not writable, or the disk is full.
  """
  if jax.process_index() != 0:
    return
  part = path.with_name(f".{path.name}.{os.getpid()}.part")
  try:
    with explain_full_disk(path.parent):
      path.parent.mkdir(parents=True, exist_ok=True)
      part.write_text(text, encoding="utf-8", errors="backslashreplace")
      os.replace(part, path)
  except OSError as e:
    raise UserError(f"cannot write {path} ({reason(e)}); choose another folder") from e
  finally:
    with contextlib.suppress(OSError):
      part.unlink()
