"""The batches of a training, in order, from a position that a rollback may move.

Batch n of a stage is a function of the seed and n alone. An update normally uses the
batch of its own number; after rollbacks the numbers differ by the batches that were
passed over, so a position is both: updates made, and batches passed over so far.
"""

from collections.abc import Callable, Mapping
import contextlib
from typing import Any, Protocol, runtime_checkable

import numpy as np

HostBatch = Mapping[str, np.ndarray]


@runtime_checkable
class Batches(Protocol):
  """Endless batches, read ahead of time until they are closed."""

  def __next__(self) -> HostBatch: ...

  def close(self) -> None:
    """Stops reading."""
    ...


class Reader:
  """Gives each update its batch; use it as an iterator and a context manager.

  Attributes:
    step: Number of the update that the last batch was for; before the first, the
      updates made by earlier runs.
    passed_over: Number of batches that rollbacks have left out, to be saved with the
      state.
  """

  def __init__(
    self,
    open_batches: Callable[..., Batches],
    start_step: int = 0,
    passed_over: int = 0,
  ):
    """Opens the batches; reads none.

    Args:
      open_batches: Opens them from a position on: `data.pipeline.batches` without its
        arguments `start_step`, `num_threads` and `prefetch`, of which the last two
        have defaults.
      start_step: Number of updates already made.
      passed_over: Number of batches left out by the rollbacks of earlier runs.
    """
    self.step, self.passed_over = start_step, passed_over
    self._open_batches = open_batches
    self._first = start_step  # Updates from here on have used consecutive batches.
    self._batches: Batches | None = self._open()

  def __iter__(self) -> "Reader":
    return self

  def __next__(self) -> HostBatch:
    """Returns the batch of the next update, waiting until it has been read."""
    batch = next(self._opened())
    self.step += 1
    return batch

  def seek(self, step: int, *, after: int | None = None) -> None:
    """Moves to where `step` updates are made.

    Args:
      step: Number of updates made; the next batch is for the update after it.
      after: Update whose batch, and all before it, must not come again, such as a bad
        one: the next batch is the one that followed it. None passes over nothing.
    """
    self._opened().close()
    self._batches = None
    self.passed_over += 0 if after is None else after - step
    self.step = self._first = step
    self._batches = self._open()

  def again(self, step: int) -> HostBatch:
    """Reads the batch of an earlier update once more; the position stays.

    Args:
      step: Number of an update that has got its batch since the last `seek`.
    """
    self._opened()
    if not self._first < step <= self.step:
      raise ValueError(
        f"step {step} got no batch from here; expected {self._first + 1} to {self.step}"
      )
    position = step - 1 + self.passed_over
    once = self._open_batches(start_step=position, num_threads=1, prefetch=1)
    with contextlib.closing(once):
      return next(once)

  def close(self) -> None:
    """Stops reading; a closed reader gives no more batches."""
    if self._batches is not None:
      self._batches.close()
      self._batches = None

  def __enter__(self) -> "Reader":
    return self

  def __exit__(self, *unused: Any) -> None:
    self.close()

  def _open(self) -> Batches:
    return self._open_batches(start_step=self.step + self.passed_over)

  def _opened(self) -> Batches:
    if self._batches is None:
      raise ValueError("the reader of batches is closed")
    return self._batches
