"""Checkpoints that cannot be read: what is used in their place, and where they go.

A finished checkpoint may still be damaged: cut off by a lost machine, or by a full or
failing disk. It is then passed over for an older one and set aside under another
name, so that its step can be saved again.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import gc
import os
import pathlib
import shutil
import sys
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import orbax.checkpoint as ocp

from lamd_jax.files.writing import is_full_disk
from lamd_jax.types import UserError

Folder = str | os.PathLike[str]
DAMAGED = ".damaged"
ABANDONED_READ = ("Event loop is closed", "error while reading array index")
ABANDONED_SECONDS = 0.2


class Found(NamedTuple):
  """A checkpoint that could be read.

  Attributes:
    content: The result of reading it.
    damaged: Steps tried before it that could not be read.
  """

  content: Any
  damaged: list[int]


def first_whole(
  folder: Folder, steps: Iterable[int], read_fn: Callable[[int], Any]
) -> Found | None:
  """Reads the first of some checkpoints that is whole.

  Args:
    folder: Folder of the checkpoints, for messages.
    steps: Steps to try, in this order.
    read_fn: Reads the checkpoint of a step; raises any exception if it is damaged.

  Returns:
    The first content, with a warning if earlier steps were damaged; None if there
    are no steps.

  Raises:
    UserError: There are steps, and none can be read.
  """
  damaged: list[int] = []
  reason, found = "", None
  for step in steps:
    try:
      found = Found(read_fn(step), damaged)
      break
    except Exception as e:  # Damage takes the form of any exception at all.
      reason = reason or _first_line(e)
      damaged.append(step)
  if damaged:
    _end_abandoned_reads()
  if found is None and damaged:
    raise UserError(
      f"no checkpoint in {os.fspath(folder)} can be read (step {damaged[0]}:"
      f" {reason}); restore it from a copy, or move that folder away, which starts"
      " this stage again"
    )
  if found is not None and damaged:
    logging.warning(
      "checkpoint of step %s in %s cannot be read (%s); using step %d instead",
      ", ".join(map(str, damaged)),
      os.fspath(folder),
      reason,
      step,
    )
  return found


def set_aside(folder: Folder, steps: Iterable[int]) -> None:
  """Renames checkpoints to `<step>.damaged`; all processes call it together."""
  if jax.process_index() == 0:
    for step in steps:
      path = pathlib.Path(folder) / str(step)
      aside = path.with_name(path.name + DAMAGED)
      if aside.exists():
        shutil.rmtree(aside)
      path.rename(aside)
  ocp.multihost.sync_global_processes("lamd_jax:set_aside")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Hides the tracebacks that orbax prints for errors its caller also gets.

  On a full disk each of its threads logs the error that saving then raises. When one
  array cannot be read, the reads of all others are abandoned: they end later, in
  threads of TensorStore or in the garbage collector, where nobody can catch what they
  raise and Python prints it.
  """
  logger, hook = logging.get_absl_logger(), sys.unraisablehook

  def is_news(record):
    error = record.exc_info[1] if record.exc_info else None
    is_expected = record.getMessage().startswith("Given directory is read only")
    return not is_expected and (error is None or not is_full_disk(error))

  def print_news(unraisable):
    text = str(unraisable.exc_value)
    if not any(words in text for words in ABANDONED_READ):
      hook(unraisable)

  logger.addFilter(is_news)
  sys.unraisablehook = print_news
  try:
    yield
  finally:
    logger.removeFilter(is_news)
    sys.unraisablehook = hook


def _end_abandoned_reads() -> None:
  """Lets abandoned reads fail here, where `quiet` still hides their errors."""
  time.sleep(ABANDONED_SECONDS)
  gc.collect()


def _first_line(error: BaseException) -> str:
  """Returns the root cause of an error in one line; TensorStore writes paragraphs."""
  while error.__cause__ is not None:
    error = error.__cause__
  text = str(error).strip().partition("\n")[0][:200].rstrip(" :.")
  return f"{type(error).__name__}: {text}" if text else type(error).__name__
