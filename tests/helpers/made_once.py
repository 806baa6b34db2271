"""Folders that take long to make: once a run of tests, by the worker that asks first.

A test that changes such a folder works on a copy.
"""

from collections.abc import Callable
import contextlib
import fcntl
import os
import pathlib
import shutil
import tempfile

# All workers have the same one, from tests/conftest.py, which removes it in the end.
SHARED = "LAMD_JAX_TESTS"


def made_once(name: str, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
  """Returns a folder of this run of tests, and makes it if no process has.

  Args:
    name: Name of the folder.
    make: Fills a folder that does not exist yet. Whoever asks meanwhile waits; if it
      fails, the next one tries again.
  """
  shared = pathlib.Path(os.environ.setdefault(SHARED, tempfile.gettempdir()))
  folder = shared / name
  with _alone(shared / f"{name}.lock"):
    if not folder.exists():
      part = shared / f"{name}.part"
      shutil.rmtree(part, ignore_errors=True)
      make(part)
      part.rename(folder)
  return folder


@contextlib.contextmanager
def _alone(path: pathlib.Path):
  """Holds a lock; the system takes it from a process that ends."""
  with path.open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield
