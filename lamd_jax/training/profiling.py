"""A trace of a few steps, for xprof: what the devices did, and when."""

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
  """Returns the first and the last step of a range such as "10:20"; both are in it.

  Raises:
    UserError: It is no such range.
  """
  match = re.fullmatch(r"(\d+):(\d+)", text.strip())
  first, last = (int(match[1]), int(match[2])) if match else (0, 0)
  if not 1 <= first <= last:
    raise UserError(
      f"--profile_steps={text}: expected FIRST:LAST, steps from 1 on, as in 10:20"
    )
  return first, last


class Profiler:
  """Traces some steps of a stage into `<stage>/profile`; use it as a context manager.

  Open the folder with `xprof --logdir=<stage>/profile`, or TensorBoard's profile
  plugin. Traces of all processes go into the same folder.
  """

  def __init__(self, folder: str | os.PathLike[str], steps: tuple[int, int] | None):
    """Prepares; traces nothing yet.

    Args:
      folder: Of the stage.
      steps: The first and the last, from `parse_steps`; None traces nothing.
    """
    self._folder = pathlib.Path(folder) / PROFILE
    self._steps = steps
    self._is_running = self._is_done = False

  @contextlib.contextmanager
  def step(self, number: int) -> Iterator[None]:
    """Wraps an update; `number` counts it in."""
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
    """Ends the trace, if one is under way, and writes it."""
    if not self._is_running:
      return
    self._is_running, self._is_done = False, True
    jax.block_until_ready(jax.live_arrays())  # The devices are behind the host.
    with explain_full_disk(self._folder):
      jax.profiler.stop_trace()
    logging.info("wrote a trace for xprof to %s", self._folder)

  def __enter__(self) -> "Profiler":
    return self

  def __exit__(self, *unused) -> None:
    self.close()
    if self._steps and not self._is_done:
      logging.warning("no step of --profile_steps=%d:%d was trained", *self._steps)
