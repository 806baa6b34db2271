"""Job: train every stage of a configuration, in order. Read this first.

Each stage trains in its own folder of the work folder. One that has its last
checkpoint is not trained again; one that was interrupted goes on at the exact step,
with the same batches and the same random numbers: both derive from the seed and
the step, so the step is all the position there is.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import signal
import time
from typing import Any

from absl import logging
import jax
from jaxtyping import UInt8
import numpy as np

from lamd_jax.data import media, sources
from lamd_jax.experiment import batches, program, statistics, trained
from lamd_jax.experiment.run import Run
from lamd_jax.experiment.workdir import CHECKPOINTS, FEATURES
from lamd_jax.files import writing
from lamd_jax.metrics import motion
from lamd_jax.systems import pixels
from lamd_jax.systems.stage import MeasuredStage, Stage, make_probe
from lamd_jax.training import (
  checkpoint,
  examples,
  flops,
  health,
  memory,
  preemption,
  processes,
  profiling,
  sharding,
)
from lamd_jax.training import logging as training_log
from lamd_jax.training.reader import Reader
from lamd_jax.training.state import TrainState
from lamd_jax.types import Batch, Metrics, Params, PRNGKey, printable

GRID_CLIPS = 4
# A fresh state is computed once: on CPU, optimizing that program takes far longer
# than running it.
INIT_OPTIONS = {"cpu": {"xla_backend_optimization_level": 0}}


class Stopped(Exception):  # noqa: N818  It is no error.
  """Training was asked to stop, and has saved its state.

  Attributes:
    exit_status: Exit status that a shell expects after the signal.
  """

  def __init__(self, message: str, exit_status: int):
    super().__init__(message)
    self.exit_status = exit_status


def train(run: Run, profile_steps: tuple[int, int] | None = None) -> None:
  """Trains every stage that is not trained yet.

  Args:
    run: The experiment; checkpoints and logs go into a folder for each stage.
    profile_steps: The first and the last step of each stage to trace, if any.

  Raises:
    Stopped: After SIGTERM or Ctrl-C; the state is saved.
    UserError: The configuration or the data cannot be used.
  """
  opened: dict[str, sources.VideoSource] = {}  # Stages with the same data share it.
  for name in run.stages:
    is_there = processes.as_first_sees(trained.is_trained(run, name))
    if is_there and trained.is_readable(run, name):
      steps = run.config[name].train.steps
      logging.info("stage %s is already trained (%d steps)", name, steps)
      continue
    data = run.data(name)
    if str(data) not in opened:
      opened[str(data)] = sources.make_source(data, "train")
    train_stage(run, name, opened[str(data)], profile_steps)
  if opened:
    skipped = dict.fromkeys(line for x in opened.values() for line in x.skipped)
    lines = "".join(f"{printable(line)}\n" for line in skipped)
    writing.write_text(run.folder / "skipped_files.txt", lines)


def train_stage(
  run: Run,
  name: str,
  source: sources.VideoSource,
  profile_steps: tuple[int, int] | None = None,
) -> None:
  """Trains one stage from its last checkpoint, or from scratch, to its last step."""
  values = run.config[name].train
  with _open(run, name, source, profile_steps) as (session, state):
    first = number = int(state.step)
    while number < values.steps:
      number += 1
      batch = session.next_batch(number)
      with session.profiler.step(number):
        state, metrics = session.update(state, batch)
      if number == first + 1:
        session.measure_work(batch)  # Now the shapes are known.
      is_last = number == values.steps
      is_stop = session.stop.after_update()  # Once: a signal may come at any time.
      is_save = is_last or is_stop or number % values.checkpoint_every == 0
      is_drawn = is_last or number % (values.sample_every or values.steps) == 0
      session.log.step(number, metrics, now=is_save or is_drawn)
      # Before it could be saved: what is not finite ends the run, or takes it back to
      # a checkpoint, and on with the batches after the bad one.
      if (bad := session.find_bad(state.params)) is not None:
        state = session.roll_back(state, bad)
        number = int(state.step)
        continue
      if is_drawn:
        session.draw(number, state.ema_params)
      if is_save:
        session.save(number, state)
      if is_stop:
        break
    if number == values.steps:
      session.measure(state.ema_params)
  if session.stop:
    raise Stopped(
      f"{session.stop.signal_name}: stage {name} saved at step {number} of"
      f" {values.steps}; the same command goes on from there",
      exit_status=128 + signal.Signals[session.stop.signal_name],
    )


@dataclasses.dataclass(frozen=True)
class _Session:
  """One stage in training: what is open for it, and what is done between updates.

  Where it is, the reader and the log know themselves.
  """

  run: Run
  name: str
  stage: Stage
  needs: Mapping[str, str]
  training: program.Program
  step_key: PRNGKey
  begin: Callable[[], TrainState]
  manager: checkpoint.Manager
  open_batches: Callable[..., Any]
  reader: Reader
  log: training_log.Log
  seen: examples.Log
  watch: health.Watch
  profiler: profiling.Profiler
  stop: preemption.StopRequest
  sample: Callable[[int, Params], UInt8[np.ndarray, "n f h w 3"]]
  drawn: UInt8[np.ndarray, "n f h w 3"]
  fps: float

  def next_batch(self, number: int) -> Batch:
    """Returns the batch of an update, on the devices."""
    with self.log.waiting():
      part = next(self.reader)
    self.seen.write(number, part["index"])
    self.watch.saw(number, part["index"])
    return sharding.shard_batch(part, self.run.mesh)

  def update(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Makes one update; the state given is used up."""
    return self.training.step(state, batch, self.step_key, self.stage)

  def measure_work(self, batch: Batch) -> None:
    """Tells the log how many FLOPs an update takes."""
    peak = flops.peak(jax.devices()[0].device_kind)
    self.log.work(program.model_flops(self.training, batch), peak and peak.flops)

  def find_bad(self, params: Params) -> int | None:
    """Returns the first bad update just logged, if the run has to go back before it."""
    return self.watch.look(self.log.window, params) if self.log.window else None

  def roll_back(self, state: TrainState, bad: int) -> TrainState:
    """Returns the last regular state before a bad update; the one given is used up."""
    placed = sharding.place(self.run.mesh, self.training.arguments[0])
    every = self.run.config[self.name].train.checkpoint_every
    restored = checkpoint.restore_before(
      self.manager, placed, bad, every, in_place_of=state
    )
    state = restored[0] if restored else self.begin()
    number = int(state.step)
    self.reader.seek(number, after=bad)
    self.log.rewind(number)
    return state

  def draw(self, number: int, params: Params) -> None:
    """Draws held-out clips, and what the model makes of them, one above the other."""
    video = self.sample(number, params)
    if jax.process_index() == 0:
      rows = np.stack([self.drawn, video], axis=1).reshape(-1, *video.shape[1:])
      folder = self.run.stage_folder(self.name)
      path = folder / f"grid_{number}.png"
      with writing.explain_full_disk(folder):
        media.contact_sheet(rows, path)
      self.log.image(number, "clips_and_model", media.read_image(path))
    self.log.extra(number, motion.compared(video, self.drawn))

  def save(self, number: int, state: TrainState) -> None:
    """Starts to write a checkpoint."""
    meta = {
      "step": number,
      "passed_over": self.reader.passed_over,  # Batches, by rollbacks.
      "seconds": self.log.seconds,
      "num_parameters": sum(x.size for x in jax.tree.leaves(state.params)),
      "peak_memory_gb": memory.host_peak_gb(),
      "fps": self.fps,
      "needs": self.needs,  # Digests of the stages that it is trained around.
    }
    checkpoint.save(self.manager, number, state, meta, self.log.scalars)

  def measure(self, params: Params) -> None:
    """Measures the latents of a stage that asks for it, after its last update."""
    if isinstance(self.stage, MeasuredStage):
      statistics.measure(self.run, self.name, self.stage, params, self.open_batches)


@contextlib.contextmanager
def _open(
  run: Run,
  name: str,
  source: sources.VideoSource,
  profile_steps: tuple[int, int] | None,
) -> Iterator[tuple[_Session, TrainState]]:
  """Yields a session and the state it begins with; closes everything at the end."""
  started = time.monotonic()
  config, values, folder = run.config, run.config[name].train, run.stage_folder(name)
  parts = trained.load_parts(run, name, for_training=True)
  made = trained.make_stage(run, name, parts=parts)
  needs = trained.digests(run, parts)
  training = program.make_program(run, name, made)
  stage = sharding.put(made, training.shardings[3])
  init_key, step_key, sample_key = jax.random.split(run.key(name), 3)

  def begin() -> TrainState:
    batch = training.arguments[1]
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), batch)
    run_init = jax.jit(
      training.init,
      out_shardings=training.shardings[0],
      compiler_options=INIT_OPTIONS.get(jax.default_backend()),
    )
    return run_init(stage, init_key, zeros)

  with contextlib.ExitStack() as stack:
    manager = stack.enter_context(
      checkpoint.open_manager(
        folder / CHECKPOINTS,
        every=values.checkpoint_every,
        keep_best=config.run.keep_best,
      )
    )
    placed = sharding.place(run.mesh, training.arguments[0])
    restored = checkpoint.restore_latest(manager, placed)
    state, meta = restored if restored else (begin(), {})
    first = int(state.step)
    if restored:
      logging.info("stage %s goes on at step %d of %d", name, first, values.steps)
      trained.check_needs(name, meta, needs)
    if first < values.steps:
      statistics.forget(run, name)
    open_batches = batches.training_batches(
      run, name, stage, source, values.steps - first
    )
    held_out = sources.make_source(run.data(name), "eval")
    cache = run.folder / FEATURES
    drawn, _ = batches.eval_batch(run, name, held_out, GRID_CLIPS, cache)
    draw = jax.jit(
      lambda stage, *args: pixels.to_uint8(stage.sample(*args)),
      out_shardings=sharding.replicated(run.mesh),
    )

    def sample(number: int, params: Params) -> UInt8[np.ndarray, "n f h w 3"]:
      # One compilation for all: the same clips, the same shapes.
      given = sharding.put_batch(drawn, run.mesh)
      key = jax.random.fold_in(sample_key, number)
      return np.asarray(draw(stage, params, given, key))

    log = stack.enter_context(
      training_log.Log(
        folder,
        total_steps=values.steps,
        log_every=values.log_every,
        batch_size=values.batch_size,
        start_step=first,
        seconds=meta.get("seconds", 0.0) + time.monotonic() - started,
        wandb=config.run.wandb,
      )
    )
    rows = sharding.local_rows(run.mesh, values.batch_size)
    seen = stack.enter_context(
      examples.Log(folder, rows, is_on=config.run.log_examples)
    )
    profiler = stack.enter_context(profiling.Profiler(folder, profile_steps))
    stop = stack.enter_context(preemption.stop_on_signals())
    reader = stack.enter_context(
      Reader(open_batches, first, meta.get("passed_over", 0))
    )
    locate = health.Locator(make_probe(), stage, reader, run.mesh, step_key)
    session = _Session(
      run=run,
      name=name,
      stage=stage,
      needs=needs,
      training=training,
      step_key=step_key,
      begin=begin,
      manager=manager,
      open_batches=open_batches,
      reader=reader,
      log=log,
      seen=seen,
      watch=health.Watch(name, config.run.on_nonfinite, state, locate),
      profiler=profiler,
      stop=stop,
      sample=sample,
      drawn=drawn["video"],
      fps=source.fps / run.clip(name).frame_stride,
    )
    yield session, state
    checkpoint.finish(manager)
