"""Job: train every stage of a configuration, in order. Read this first.

Each stage trains in its own folder of the work folder. One that has its last
checkpoint is not trained again; one that was interrupted goes on at the exact step,
with the same batches and the same random numbers: both derive from the seed and
the step, so the step is all the position there is.
"""

import inspect
import pathlib
import signal
import time

from absl import logging
import jax
from jaxtyping import UInt8
import numpy as np

from lamd_jax import workdir as workdir_lib
from lamd_jax.data import pipeline, sources, video_io
from lamd_jax.systems import pixels
from lamd_jax.systems import stage as stage_lib
from lamd_jax.training import checkpoint, disk, optimizer, preemption, sharding, step
from lamd_jax.training import logging as training_log
from lamd_jax.training.state import init_state
from lamd_jax.types import Batch, Config, Params, PRNGKey, UserError

# Keys of a stage's `train` block that the loop reads; the rest is the optimizer's.
LOOP_KEYS = ("batch_size", "ema_decay", "log_every", "checkpoint_every", "sample_every")
GRID_CLIPS = 4
# A fresh state is computed once: on CPU, optimizing that program takes far longer
# than running it.
INIT_OPTIONS = {"cpu": {"xla_backend_optimization_level": 0}}


class Stopped(Exception):  # noqa: N818  It is no error.
  """Training was asked to stop, and has saved where it is.

  Attributes:
    exit_status: What a shell expects after the signal.
  """

  def __init__(self, message: str, exit_status: int):
    super().__init__(message)
    self.exit_status = exit_status


def check(config: Config) -> None:
  """Raises a `UserError` for what would fail later: before any file is written."""
  mesh = sharding.make_mesh(config.mesh)
  for name in config.stages:
    stage_lib.make_stage(config, name, dict.fromkeys(config.stages))
    _make_optimizer(config, name)
    sharding.check_batch_size(config[name].train.batch_size, mesh)


def train(config: Config, workdir: pathlib.Path) -> None:
  """Trains what is not trained yet.

  Args:
    config: The configuration.
    workdir: Where checkpoints and logs go, in a folder for each stage.

  Raises:
    Stopped: After SIGTERM or Ctrl-C; the state is saved.
    UserError: The configuration or the data cannot be used.
  """
  mesh = sharding.make_mesh(config.mesh)
  source = None
  for name in config.stages:
    folder = workdir / name
    steps = config[name].train.steps
    done = checkpoint.latest_step(folder / workdir_lib.CHECKPOINTS) or 0
    if done >= steps:
      logging.info("stage %s is already trained (%d steps)", name, done)
      continue
    source = source or sources.make_source(config.data, "train")
    stage = workdir_lib.load_stage(config, workdir, name, mesh)
    train_stage(config, name, stage, source, folder, mesh)
  if source is not None:
    lines = "".join(f"{line}\n" for line in source.skipped)
    workdir_lib.write_text(workdir / "skipped_files.txt", lines)


def train_stage(
  config: Config,
  name: str,
  stage: stage_lib.Stage,
  source: sources.VideoSource,
  folder: pathlib.Path,
  mesh: jax.sharding.Mesh,
) -> None:
  """Trains one stage from its last checkpoint, or from scratch, to its last step."""
  started = time.monotonic()
  values = config[name].train
  tx, learning_rate_fn = _make_optimizer(config, name)
  root_key = jax.random.fold_in(
    jax.random.key(config.seed), _stage_number(config, name)
  )
  init_key, step_key, sample_key = jax.random.split(root_key, 3)

  def init(key: PRNGKey, batch: Batch):
    return init_state(stage.init(key, batch), tx)

  def loss_fn(stage: stage_lib.Stage, params: Params, batch: Batch, key: PRNGKey):
    return stage.loss(params, batch, key, train=True)

  # Shapes first, shardings from shapes, then arrays: none is ever in a wrong place.
  abstract_batch = workdir_lib.abstract_batch(config, values.batch_size)
  abstract_state = jax.eval_shape(init, init_key, abstract_batch)
  state_sharding = sharding.state_sharding(mesh, abstract_state)
  everywhere = sharding.replicated(mesh)
  stage = jax.device_put(stage, everywhere)
  train_step = jax.jit(
    step.make_train_step(loss_fn, tx, values.ema_decay, learning_rate_fn),
    in_shardings=(
      state_sharding,
      sharding.batch_sharding(mesh),
      everywhere,
      everywhere,
    ),
    out_shardings=(state_sharding, everywhere),
    donate_argnums=0,
  )
  sample = jax.jit(lambda stage, *args: pixels.to_uint8(stage.sample(*args)))

  with checkpoint.open_manager(folder / workdir_lib.CHECKPOINTS) as manager:
    restored = checkpoint.restore_latest(manager, sharding.place(mesh, abstract_state))
    if restored is None:
      zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_batch)
      run_init = jax.jit(
        init,
        out_shardings=state_sharding,
        compiler_options=INIT_OPTIONS.get(jax.default_backend()),
      )
      state = run_init(init_key, zeros)
      first, earlier_seconds = 0, 0.0
    else:
      state, meta = restored
      first, earlier_seconds = int(state.step), meta["seconds"]
      logging.info("stage %s goes on at step %d of %d", name, first, values.steps)

    def save(at: int, state) -> None:
      spent = earlier_seconds + time.monotonic() - started
      meta = {
        "seconds": spent,
        "num_parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "peak_memory_gb": workdir_lib.peak_memory_gb(),
        "fps": source.fps / config.data.frame_stride,
      }
      checkpoint.save(manager, at, state, meta)

    batches = pipeline.batches(
      source,
      num_frames=config.data.num_frames,
      frame_stride=config.data.frame_stride,
      batch_size=values.batch_size,
      seed=config.seed,
      start_step=first,
    )
    grid_source = sources.make_source(config.data, "eval")
    clips = pipeline.eval_clips(
      grid_source, GRID_CLIPS, config.data.num_frames, config.data.frame_stride
    )
    with (
      training_log.Log(
        folder,
        total_steps=values.steps,
        log_every=values.log_every,
        start_step=first,
        seconds=earlier_seconds,
      ) as log,
      preemption.stop_on_signals() as stop,
    ):
      for number in range(first + 1, values.steps + 1):
        batch = sharding.shard_batch(next(batches), mesh)
        state, metrics = train_step(state, batch, step_key, stage)
        is_last = number == values.steps
        is_save = is_last or bool(stop) or number % values.checkpoint_every == 0
        scalars = log.step(number, metrics, now=is_save)
        if scalars is not None:
          step.check_finite(number, scalars)  # Before it could be saved.
        if is_save:
          save(number, state)
        if is_last or (values.sample_every and number % values.sample_every == 0):
          # One compilation for all: the same clips, the same shapes.
          key = jax.random.fold_in(sample_key, number)
          video = sample(stage, state.ema_params, {"video": clips}, key)
          _write_grid(folder, number, clips, np.asarray(video), log)
        if stop and not is_last:
          checkpoint.finish(manager)
          raise Stopped(
            f"{stop.signal_name}: stage {name} saved at step {number} of"
            f" {values.steps}; the same command goes on from there",
            exit_status=128 + signal.Signals[stop.signal_name],
          )
    checkpoint.finish(manager)


def _make_optimizer(config: Config, name: str):
  values = config[name].train
  options = {k: v for k, v in values.items() if k not in LOOP_KEYS}
  known = inspect.signature(optimizer.make_optimizer).parameters
  for key in options:
    if key not in known:
      raise UserError(
        f"{name}.train.{key} means nothing to training; known:"
        f" {', '.join([*LOOP_KEYS, *known])}"
      )
  return optimizer.make_optimizer(**options)


def _stage_number(config: Config, name: str) -> int:
  return list(config.stages).index(name)


def _write_grid(
  folder: pathlib.Path,
  number: int,
  clips: UInt8[np.ndarray, "n f h w 3"],
  video: UInt8[np.ndarray, "n f h w 3"],
  log: training_log.Log,
) -> None:
  """Writes clips and what the model makes of them, one above the other."""
  if jax.process_index() != 0:
    return
  rows = np.stack([clips, video], axis=1).reshape(-1, *clips.shape[1:])
  path = folder / f"grid_{number}.png"
  with disk.explain_full_disk(folder):
    video_io.contact_sheet(rows, path)
  log.image(number, "clips_and_model", video_io.read_image(path))
