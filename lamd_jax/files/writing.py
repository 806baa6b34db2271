"""Files that are written whole or not at all, and disks that run full."""

from collections.abc import Iterator
import contextlib
import errno
import os

from lamd_jax.types import UserError

FULL = {errno.ENOSPC, errno.EDQUOT}
# Libraries in C++ report the same in words.
FULL_WORDS = ("no space left on device", "disk quota exceeded")


def is_full_disk(error: BaseException) -> bool:
  """Whether an error, or one that it was raised from, says that a disk is full."""
  seen = set()
  pending: list[BaseException | None] = [error]
  while pending:
    e = pending.pop()
    if e is None or id(e) in seen:
      continue
    seen.add(id(e))
    if isinstance(e, OSError) and e.errno in FULL:
      return True
    if any(words in str(e).lower() for words in FULL_WORDS):
      return True
    if isinstance(e, BaseExceptionGroup):
      pending.extend(e.exceptions)
    pending.extend((e.__cause__, e.__context__))
  return False


@contextlib.contextmanager
def explain_full_disk(folder: str | os.PathLike[str]) -> Iterator[None]:
  """Turns the many ways to report a full disk into one `UserError`."""
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
