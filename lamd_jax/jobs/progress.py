"""Progress of sampling: a bar on a terminal, lines now and then elsewhere."""

from collections.abc import Iterable, Iterator
import sys
import time
from typing import Any, TextIO, TypeVar

import tqdm

T = TypeVar("T")

QUIET_SECONDS = 30.0  # Between lines where there is no terminal.


class Progress:
  """Shows how far sampling has come; use it as a context manager.

  A bar counts the parts, batches or windows, and names the denoising step of the one
  that is under way. Where there is no terminal, a line now and then counts the parts
  alone: a program that calls back at each step cannot be kept by the compilation cache.

  Attributes:
    on_step: To be called with the number of each denoising step; None without a
      terminal.
  """

  def __init__(self, doing: str, total: int, stream: TextIO | None = None):
    """Shows nothing yet.

    Args:
      doing: Name of the work.
      total: Number of parts.
      stream: Text file to write to; stderr by default.
    """
    self._stream = stream or sys.stderr
    is_terminal = self._stream.isatty()
    self._doing, self._total = doing, total
    self._next_line = time.monotonic() + QUIET_SECONDS
    self._bar = tqdm.tqdm(
      desc=doing, total=total, file=self._stream, disable=not is_terminal
    )
    self.on_step = self._show_step if is_terminal else None

  def through(self, parts: Iterable[T]) -> Iterator[T]:
    """Yields parts, and shows when one is done."""
    started = time.monotonic()
    for done, part in enumerate(parts, 1):
      yield part
      self._bar.set_postfix_str("", refresh=False)
      self._bar.update()
      if self._bar.disable and time.monotonic() >= self._next_line:
        self._next_line = time.monotonic() + QUIET_SECONDS
        left = (time.monotonic() - started) / done * (self._total - done)
        print(
          f"{self._doing} {done}/{self._total}, {tqdm.tqdm.format_interval(left)} left",
          file=self._stream,
          flush=True,
        )

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *unused: Any) -> None:
    self._bar.close()

  def _show_step(self, step: Any) -> None:
    self._bar.set_postfix_str(f"step {int(step)}")
