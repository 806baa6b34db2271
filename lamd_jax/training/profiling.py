"""Profiler traces of a few steps, for xprof."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import re

from absl import logging
import jax

from lamd_jax.files.writing import explain_full_disk
from lamd_jax.types import UserError

PROFILE = "profile"


def parse_steps(text: str) -> tuple[int, int]:
  """Parses a range of steps such as "10:20", both ends included.

  Raises:
    UserError: The text is not such a range.
  """
  match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text.strip())
  first, last = (int(match[1]), int(match[2])) if match else (0, 0)
  if not 1 <= first <= last:
    raise UserError(
      f"--profile_steps={text}: expected FIRST:LAST, steps from 1 on, such as 10:20"
    )
  return first, last


class Profiler:
  """Tracer of some steps of a stage, to be used as a context manager.

  It writes to `<stage>/profile`, for all processes. Open that folder with
  `xprof --logdir=<stage>/profile` or TensorBoard's profile plugin.
  """

  def __init__(self, folder: str | os.PathLike[str], steps: tuple[int, int] | None):
    """Prepares; traces nothing yet.

    Args:
      folder: Folder of the stage.
      steps: First and last step to trace, from `parse_steps`; None for no trace.
    """
    self._folder = pathlib.Path(folder) / PROFILE
    self._steps = steps
    self._is_running = self._is_done = False

  @contextlib.contextmanager
  def step(self, number: int) -> Iterator[None]:
    """Traces the update in its `with` block, if `number` (from 1) is in the range."""
    first, last = self._steps or (0, -1)
    if self._is_done or not first <= number <= last:
      yield
      return
    if not self._is_running:
      with explain_full_disk(self._folder):
        jax.profiler.start_trace(self._folder)
      self._is_running = True
    with jax.profiler.StepTraceAnnotation("train", step_num=number):
      yield
    if number == last:
      self.close()

  def close(self) -> None:
    """Ends the trace and writes it, if one is running."""
    if not self._is_running:
      return
    self._is_running, self._is_done = False, True
    jax.block_until_ready(jax.live_arrays())  # The devices lag behind the host.
    with explain_full_disk(self._folder):
      jax.profiler.stop_trace()
    logging.info("wrote a trace for xprof to %s", self._folder)

  def __enter__(self) -> "Profiler":
    return self

  def __exit__(self, *unused) -> None:
    self.close()
    if self._steps and not self._is_done:
      logging.warning("no step of --profile_steps=%d:%d was trained", *self._steps)
