"""Training logs: a progress bar, a file of scalars, TensorBoard, wandb.

In addition to the scalars of the loss, each logged step records how fast training runs
and what slows it down, over the steps since the previous one, saving and drawing
included:

steps_per_second
examples_per_second_per_device
data_wait          fraction of the time the loop spent waiting for its next batch
flops_per_second   model FLOPs per second over all devices, if they have been counted
mfu                the same as a fraction of the devices' peak, if that is known
device_memory_gb   peak memory of this process's devices so far; if devices do not
                   report theirs (CPU), host_memory_gb, the peak of the process
compile_seconds    time of the first update of a run, in its first line only
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import math
import os
import pathlib
import sys
import time
from typing import Any, TextIO

from absl import logging
import jax
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (
  Event,  # pyright: ignore[reportAttributeAccessIssue]
  SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
import tqdm

from lamd_jax.files.reading import parse_json
from lamd_jax.files.writing import explain_full_disk
from lamd_jax.training import memory, wandb_run

Folder = str | os.PathLike[str]
SCALARS = "scalars.jsonl"
TENSORBOARD = "tensorboard"
MADE = range(2**53)  # Numbers of updates; others are damage.
NOTABLE_WAIT = 0.1  # Fraction of waiting from which the progress mentions it.


class Log:
  """Log of one stage's training, to be used as a context manager.

  Metrics stay on the devices until a step is logged, which happens only after the next
  update has been dispatched: the devices are busy while the host writes. A logged
  scalar is the mean over the updates since the previous logged step. Progress is a bar
  on a terminal, and an occasional line elsewhere (in a file, in a batch job). Only the
  first of several processes writes.

  Attributes:
    scalars: Scalars of the last logged step, on the host; empty before the first.
    window: Number and metrics of each update that the last call of `step` logged.
  """

  def __init__(
    self,
    folder: Folder,
    *,
    total_steps: int,
    log_every: int,
    batch_size: int = 1,
    start_step: int = 0,
    seconds: float = 0.0,
    wandb: str = "",
    quiet_seconds: float = 30.0,
    stream: Any = None,
  ):
    """Opens the files.

    Args:
      folder: Folder of the stage; its name appears in the progress.
      total_steps: Number of updates in the whole training.
      log_every: Updates between logged steps; the last update is always logged.
      batch_size: Examples per update, over all devices.
      start_step: Number of updates made by earlier runs.
      seconds: Seconds spent by earlier runs, from the checkpoint.
      wandb: Project at Weights and Biases to log to as well; empty for none.
      quiet_seconds: Seconds between lines of progress without a terminal.
      stream: Text file for the progress; stderr by default.
    """
    self.scalars: dict[str, float] = {}
    self.window: list[tuple[int, Mapping[str, Any]]] = []
    self._total_steps = total_steps
    self._log_every = log_every
    self._quiet_seconds = quiet_seconds
    self._stream = stream or sys.stderr
    self._earlier_seconds = seconds
    self._start = self._window_start = time.monotonic()
    self._next_line = self._start
    self._waited = 0.0  # Seconds, in this window.
    self._pending: list[tuple[int, Mapping[str, Any]]] = []
    self._is_due = False  # Whether to log the pending updates.
    self._sent = self._start, 0.0  # Time of the last update, and `_waited` then.
    self._batch_size = batch_size
    self._flops_per_step, self._peak_flops = 0.0, None
    self._step = start_step
    self._has_stepped = False
    self._compile_seconds: float | None = None
    self._name = pathlib.Path(folder).name
    self._is_writer = jax.process_index() == 0
    self._folder = pathlib.Path(folder)
    self._file = self._tensorboard = self._wandb = None
    if self._is_writer:
      if wandb:
        self._wandb = wandb_run.WandbRun(wandb, self._folder)
      with explain_full_disk(self._folder):
        self._file = open_to_append(self._folder / SCALARS)
        self._tensorboard = _TensorBoard(self._folder / TENSORBOARD, start_step)
    is_terminal = self._is_writer and self._stream.isatty()
    self._bar = tqdm.tqdm(
      desc=self._name,
      total=total_steps,
      initial=start_step,
      unit="step",
      dynamic_ncols=True,
      file=self._stream,
      disable=not is_terminal,
    )

  @property
  def seconds(self) -> float:
    """Wall time spent on this training, over all runs."""
    return self._earlier_seconds + time.monotonic() - self._start

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the time spent in the `with` block as waiting for data."""
    begun = time.monotonic()
    try:
      yield
    finally:
      self._waited += time.monotonic() - begun

  def work(self, flops_per_step: float, peak_flops: float | None) -> None:
    """Sets the cost of an update, so that FLOPs per second are logged too.

    Args:
      flops_per_step: Floating-point operations per update, over all devices.
      peak_flops: Peak FLOPs per second of one device; None if unknown.
    """
    self._flops_per_step = flops_per_step
    self._peak_flops = peak_flops and peak_flops * jax.device_count()

  def step(
    self, step: int, metrics: Mapping[str, Any], *, now: bool = False
  ) -> dict[str, float] | None:
    """Records one update; to be called once it has been dispatched to the devices.

    Args:
      step: Number of updates made, this one included.
      metrics: Metrics on devices. Scalars are recorded; vectors, such as the norms of
        the gradient's arrays, are only kept in `window`.
      now: Whether to log this step regardless of its number and wait for it, for
        example before a checkpoint.

    Returns:
      Scalars on the host if a step was logged, this one or the one before; otherwise
      None.
    """
    self.window = []
    if not self._has_stepped:
      self._has_stepped = True
      # Compilation is over; it must not count in the pace.
      begun, self._window_start = self._window_start, time.monotonic()
      self._compile_seconds = self._window_start - begun - self._waited
      self._waited = 0.0
    self._bar.update(step - self._step)
    self._step = step
    if self._is_due:
      self._log_pending()
    self._pending.append((step, metrics))
    self._sent = time.monotonic(), self._waited
    self._is_due = step % self._log_every == 0
    if now or step >= self._total_steps:
      self._log_pending()
    return dict(self.scalars) if self.window else None

  def extra(self, step: int, values: Mapping[str, float]) -> None:
    """Adds scalars to the last logged step, such as measures of its sample clips.

    Args:
      step: Number of the last logged step.
      values: Finite numbers by name.
    """
    if values:
      self.scalars |= values
      self._write(step, values)  # The new line replaces the previous one.

  def rewind(self, step: int) -> None:
    """Goes back to an earlier step; what is logged next replaces all later steps."""
    self._bar.update(step - self._step)
    self._step, self._pending, self._is_due = step, [], False
    if self._tensorboard:
      with explain_full_disk(self._folder):
        self._tensorboard.forget_after(step)

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Adds an image to TensorBoard and wandb.

    Args:
      step: Number of updates made.
      name: Title of the image.
      image: Pixels, uint8 `h w 3`.
    """
    if self._tensorboard:
      with explain_full_disk(self._folder):
        self._tensorboard.write(step, summary.image(name, image, dataformats="HWC"))
    if self._wandb:
      self._wandb.image(step, name, image)

  def message(self, text: str) -> None:
    """Prints a line without disturbing the progress bar."""
    if self._is_writer:
      self._bar.write(text, file=self._stream)

  def close(self) -> None:
    """Closes the progress bar and the files."""
    self._bar.close()
    with explain_full_disk(self._folder), contextlib.ExitStack() as stack:
      for file in filter(None, (self._tensorboard, self._file, self._wandb)):
        stack.callback(file.close)  # Each one, even if another fails.

  def __enter__(self) -> "Log":
    return self

  def __exit__(self, error_type, *unused) -> None:
    try:
      if self._is_due and error_type is None:  # Devices may not finish after an error.
        self._log_pending()
    finally:
      self.close()

  def _log_pending(self) -> None:
    """Fetches, shows and writes the metrics of all pending updates."""
    is_behind = not all(
      x.is_ready()  # pyright: ignore[reportAttributeAccessIssue]
      for x in jax.tree.leaves(self._pending)
      if isinstance(x, jax.Array)
    )
    window = jax.device_get(self._pending)  # Waits for the devices.
    # Devices that had to wait for the host finished soon after the last dispatch.
    end, waited = (time.monotonic(), self._waited) if is_behind else self._sent
    count, elapsed = len(window), max(end - self._window_start, 1e-9)
    if self._compile_seconds is not None:  # Timed from the first dispatch on.
      if count == 1:
        elapsed += self._compile_seconds
      elif not is_behind:
        count -= 1
    step, last = window[-1]
    self.scalars = {
      name: float(np.mean([metrics[name] for _, metrics in window], dtype=float))
      for name, value in last.items()
      if np.ndim(value) == 0
    }
    self.scalars |= self._pace(count, elapsed, waited)
    self.window += window
    self._pending, self._is_due = [], False
    self._window_start, self._waited = end, self._waited - waited
    self._write(step, self.scalars)
    self._show(step)

  def _pace(self, count: int, elapsed: float, waited: float) -> dict[str, float]:
    """Returns the throughput of `count` steps over `elapsed` seconds, and memory."""
    rate = count / elapsed
    pace = {
      "steps_per_second": rate,
      "examples_per_second_per_device": rate * self._batch_size / jax.device_count(),
      "data_wait": min(waited / elapsed, 1.0),
      **memory.peak(),
    }
    if self._flops_per_step:
      pace["flops_per_second"] = rate * self._flops_per_step
      if self._peak_flops:
        pace["mfu"] = pace["flops_per_second"] / self._peak_flops
    if self._compile_seconds is not None:
      pace["compile_seconds"], self._compile_seconds = self._compile_seconds, None
    return pace

  def _write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the line of a step, and its new values to TensorBoard and wandb."""
    if not (self._file and self._tensorboard):
      return
    line = {"step": step, "seconds": round(self.seconds, 3)}
    # JSON has no infinities and no NaN.
    line |= {k: v if math.isfinite(v) else None for k, v in self.scalars.items()}
    with explain_full_disk(self._folder):
      self._file.write(json.dumps(line, allow_nan=False) + "\n")
      self._file.flush()
      for name, value in values.items():
        self._tensorboard.write(step, summary.scalar(name, value))
      self._tensorboard.flush()
    if self._wandb:
      self._wandb.scalars(step, values)

  def _show(self, step: int) -> None:
    loss = f"{self.scalars.get('loss', math.nan):.4g}"
    self._bar.set_postfix_str(f"loss {loss}{self._remarks()}", refresh=False)
    is_due = time.monotonic() >= self._next_line or step >= self._total_steps
    if not (self._is_writer and self._bar.disable and is_due):
      return
    self._next_line = time.monotonic() + self._quiet_seconds
    rate = self.scalars["steps_per_second"]
    left = self._bar.format_interval((self._total_steps - step) / rate)
    print(
      f"{self._name} step {step}/{self._total_steps}, loss {loss},"
      f" {rate:.3g} steps/s{self._remarks()}, {left} left",
      file=self._stream,
      flush=True,
    )

  def _remarks(self) -> str:
    """Returns the parts of the pace that are worth showing in the progress."""
    remarks = ""
    if (mfu := self.scalars.get("mfu")) is not None:
      remarks += f", {mfu:.0%} of the devices' peak"
    if (wait := self.scalars["data_wait"]) >= NOTABLE_WAIT:
      remarks += f", {wait:.0%} waiting for data"
    return remarks


def read_scalars(path: Folder) -> list[dict[str, Any]]:
  """Reads a file of scalars; returns one dict per logged step, in ascending order.

  A run that was killed and resumed logs some steps again: a line replaces all earlier
  lines of the same or a later step. A line truncated or damaged is ignored. Values
  that were not finite are NaN.

  Args:
    path: File `scalars.jsonl`, or the folder with it. A missing file counts as empty.
  """
  path = pathlib.Path(path)
  path = path / SCALARS if path.is_dir() else path
  if not path.is_file():
    return []
  lines: list[dict[str, Any]] = []
  for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
    try:
      line = dict(parse_json(text))
      step = int(line["step"])
    except (ValueError, TypeError, KeyError, OverflowError):
      continue
    if step not in MADE:
      continue
    while lines and lines[-1]["step"] >= step:
      lines.pop()
    line = {k: math.nan if v is None else v for k, v in line.items()}
    lines.append(line | {"step": step})
  return lines


class _TensorBoard:
  """TensorBoard event file, written in the calling thread.

  The `SummaryWriter` of tensorboardX writes in a thread of its own. When that thread
  dies of a full disk, later scalars wait for it forever.
  """

  def __init__(self, folder: pathlib.Path, start_step: int):
    folder.mkdir(parents=True, exist_ok=True)
    # The name has the time in whole seconds, which is not unique across quick restarts.
    self._writer = EventsWriter(str(folder / "events"), f".{start_step}")
    if start_step:
      self.forget_after(start_step)

  def forget_after(self, step: int) -> None:
    """Tells TensorBoard to discard everything after this step."""
    start = SessionLog(status=SessionLog.START)
    self._write(Event(step=step, session_log=start))

  def write(self, step: int, value: Any) -> None:
    self._write(Event(step=step, summary=value))

  def flush(self) -> None:
    self._writer.flush()

  def close(self) -> None:
    self._writer.close()

  def _write(self, event: Any) -> None:
    event.wall_time = time.time()
    self._writer.write_event(event)


def open_to_append(path: pathlib.Path) -> TextIO:
  """Opens a file of lines to append to, and ends a last line that a kill truncated."""
  path.parent.mkdir(parents=True, exist_ok=True)
  file = path.open("a+", encoding="utf-8")
  if file.tell():
    file.seek(0)
    if not file.read().endswith("\n"):
      logging.info("the last line of %s is truncated; it will be ignored", path)
      file.write("\n")
  return file
