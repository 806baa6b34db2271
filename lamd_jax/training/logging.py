"""The record of a training: a progress bar, a file of scalars, TensorBoard, wandb.

Beside what the loss gives, each logged step says how fast it goes and what holds it
up (over the steps since the one before, saving and drawing included):

steps_per_second
examples_per_second_per_device
data_wait          fraction of the time in which the loop waited for its next batch
flops_per_second   of the model, over all devices; where their number is known
mfu                the same as a fraction of what the devices can do, where it is known
device_memory_gb   the most in use on a device of this process so far; where devices do
                   not tell (CPU), host_memory_gb, of the process
compile_seconds    of the first update of a run, in its first line only
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

from lamd_jax.files.writing import explain_full_disk
from lamd_jax.training import memory, wandb_run

Folder = str | os.PathLike[str]
SCALARS = "scalars.jsonl"
TENSORBOARD = "tensorboard"
NOTABLE_WAIT = 0.1  # Fraction of the time that is worth a word on the screen.


class Log:
  """Shows and records how one stage's training goes, in the stage's folder.

  Metrics stay on the devices until a step is logged, and that is when the next one is
  on its way: while the host writes, the devices have work. A logged scalar is the mean
  over the updates since the last logged step. On a terminal there is a progress bar,
  elsewhere (a file, a batch system) a plain line now and then. Use it as a context
  manager. Of several processes only the first writes.

  Attributes:
    scalars: The last logged step's, on the host; empty before the first.
    window: Number and metrics of each update that the last call logged.
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
    """Opens the files; see `Log`.

    Args:
      folder: The stage's folder; its name is shown with the progress.
      total_steps: Updates in the whole training.
      log_every: Updates between logged steps; the last one is always logged.
      batch_size: Examples in an update, over all devices.
      start_step: Updates made by earlier runs.
      seconds: Spent by earlier runs, from the checkpoint.
      wandb: Project of Weights and Biases that gets scalars and pictures too.
      quiet_seconds: Between lines where there is no terminal.
      stream: Text file that progress goes to; stderr by default.
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
    self._waited = 0.0  # In this window.
    self._pending: list[tuple[int, Mapping[str, Any]]] = []
    self._is_due = False  # To log what is pending.
    self._sent = self._start, 0.0  # When the last update was, and `_waited` then.
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
    """Wall time spent on this training, in all runs together."""
    return self._earlier_seconds + time.monotonic() - self._start

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts what happens inside as waiting for data."""
    begun = time.monotonic()
    try:
      yield
    finally:
      self._waited += time.monotonic() - begun

  def work(self, flops_per_step: float, peak_flops: float | None) -> None:
    """Says what an update takes, so that the pace is also one of arithmetic.

    Args:
      flops_per_step: Floating-point operations, over all devices.
      peak_flops: What a device can do in a second, if that is known.
    """
    self._flops_per_step = flops_per_step
    self._peak_flops = peak_flops and peak_flops * jax.device_count()

  def step(
    self, step: int, metrics: Mapping[str, Any], *, now: bool = False
  ) -> dict[str, float] | None:
    """Records one update; call it when that is on its way to the devices.

    Args:
      step: Updates made, this one included.
      metrics: On devices. Scalars are recorded; vectors, such as the norm of each
        array of the gradient, are only kept in `window`.
      now: Log this step whatever its number, and wait for it, as before a checkpoint.

    Returns:
      Scalars on the host if a step was logged: this one, or the one before; otherwise
      None.
    """
    self.window = []
    if not self._has_stepped:
      self._has_stepped = True
      # Compiling is over: it says nothing of the pace.
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
    """Adds scalars to a step that was logged, such as figures of what it drew.

    Args:
      step: The last logged one.
      values: Finite numbers.
    """
    if values:
      self.scalars |= values
      self._write(step, values)  # The line takes the place of the one before.

  def rewind(self, step: int) -> None:
    """Goes back to an earlier step: what is logged next replaces what came after it."""
    self._bar.update(step - self._step)
    self._step, self._pending, self._is_due = step, [], False
    if self._tensorboard:
      with explain_full_disk(self._folder):
        self._tensorboard.forget_after(step)

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Adds a picture to TensorBoard, and to wandb.

    Args:
      step: Updates made.
      name: Its title.
      image: uint8, `h w 3`.
    """
    if self._tensorboard:
      with explain_full_disk(self._folder):
        self._tensorboard.write(step, summary.image(name, image, dataformats="HWC"))
    if self._wandb:
      self._wandb.image(step, name, image)

  def message(self, text: str) -> None:
    """Prints a line without tearing the progress bar apart."""
    if self._is_writer:
      self._bar.write(text, file=self._stream)

  def close(self) -> None:
    """Closes bar and files."""
    self._bar.close()
    with explain_full_disk(self._folder), contextlib.ExitStack() as stack:
      for file in filter(None, (self._tensorboard, self._file, self._wandb)):
        stack.callback(file.close)  # Each, even where the other fails.

  def __enter__(self) -> "Log":
    return self

  def __exit__(self, error_type, *unused) -> None:
    try:
      if self._is_due and error_type is None:  # After an error none may be there.
        self._log_pending()
    finally:
      self.close()

  def _log_pending(self) -> None:
    """Fetches, shows and writes what the updates since the last time gave."""
    is_behind = not all(
      x.is_ready()  # pyright: ignore[reportAttributeAccessIssue]
      for x in jax.tree.leaves(self._pending)
      if isinstance(x, jax.Array)
    )
    window = jax.device_get(self._pending)  # Waits for the devices.
    # Devices that have had to wait were done soon after they got the last update.
    end, waited = (time.monotonic(), self._waited) if is_behind else self._sent
    count, elapsed = len(window), max(end - self._window_start, 1e-9)
    if self._compile_seconds is not None:  # The clock runs since the first was sent.
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
    """How fast so many steps went in so many seconds, and what they took."""
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
    """Writes the line of a step; to TensorBoard and wandb what is new in it."""
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
    """What of the pace is worth a look while it runs."""
    remarks = ""
    if (mfu := self.scalars.get("mfu")) is not None:
      remarks += f", {mfu:.0%} of the devices' peak"
    if (wait := self.scalars["data_wait"]) >= NOTABLE_WAIT:
      remarks += f", {wait:.0%} waiting for data"
    return remarks


def read_scalars(path: Folder) -> list[dict[str, Any]]:
  """Reads a file of scalars: one dict per logged step, by rising step.

  A run that was killed and resumed logs some steps again. Its line for a step
  replaces all earlier lines from that step on. A line cut off by the kill is left
  out. Values that were not finite are NaN.

  Args:
    path: `scalars.jsonl`, or the folder that holds it. A missing file is empty.
  """
  path = pathlib.Path(path)
  path = path / SCALARS if path.is_dir() else path
  if not path.exists():
    return []
  lines: list[dict[str, Any]] = []
  for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
    try:
      line = json.loads(text)
      step = int(line["step"])
    except (ValueError, TypeError, KeyError):
      continue
    while lines and lines[-1]["step"] >= step:
      lines.pop()
    lines.append({k: math.nan if v is None else v for k, v in line.items()})
  return lines


class _TensorBoard:
  """An event file, written in the calling thread.

  tensorboardX's `SummaryWriter` writes in a thread of its own; when that dies of a
  full disk, the next scalars wait for it forever.
  """

  def __init__(self, folder: pathlib.Path, start_step: int):
    folder.mkdir(parents=True, exist_ok=True)
    # The name holds the time in seconds: too little for two starts in one second.
    self._writer = EventsWriter(str(folder / "events"), f".{start_step}")
    if start_step:
      self.forget_after(start_step)

  def forget_after(self, step: int) -> None:
    """Tells TensorBoard to forget what came after this step."""
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
  """Opens a file of lines; a last one that a kill cut off is ended."""
  path.parent.mkdir(parents=True, exist_ok=True)
  file = path.open("a+", encoding="utf-8")
  if file.tell():
    file.seek(0)
    if not file.read().endswith("\n"):
      logging.info("the last line of %s is cut off; it is left out", path)
      file.write("\n")
  return file
