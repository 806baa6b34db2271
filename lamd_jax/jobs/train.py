"""Job: train every stage of a configuration, in order. Read this first.

Each stage trains in its own folder of the work folder. One that has its last
checkpoint is not trained again; one that was interrupted goes on at the exact step,
with the same batches and the same random numbers: both derive from the seed and
the step, so the step is all the position there is.
"""

import contextlib
import functools
import pathlib
import signal
import time

from absl import logging
import jax
import jax.numpy as jnp
from jaxtyping import UInt8
import numpy as np

from lamd_jax.data import media, pipeline, sources
from lamd_jax.experiment import conditions, latent_cache, pretrained, program
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.files import writing
from lamd_jax.metrics import motion
from lamd_jax.systems import pixels
from lamd_jax.systems import stage as stage_lib
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
  step,
  wandb_run,
)
from lamd_jax.training import logging as training_log
from lamd_jax.types import Batch, Config, Params, PRNGKey, UserError

# Of `config.run`: how to train, whatever is trained.
RUN_KEYS = ("remat", "on_nonfinite", "keep_best", "log_examples", "wandb")
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
  """Raises a `UserError` for a value that no job could use; takes no time."""
  if not config.stages:
    raise UserError("config.stages is empty; name the stages to train, in order")
  mesh = sharding.make_mesh(config.mesh.to_dict())
  if set(config.run) != set(RUN_KEYS):
    raise UserError(
      f"config.run has {', '.join(sorted(config.run))}; expected {', '.join(RUN_KEYS)}"
    )
  health.check_policy(config.run.on_nonfinite)
  wandb_run.check(config.run.wandb)
  workdir_lib.best_of(config, config.stages[-1])
  if not isinstance(config.run.log_examples, bool):
    raise UserError(
      f"run.log_examples={config.run.log_examples}: expected True or False"
    )
  for i, name in enumerate(config.stages):
    stage_lib.make_stage(config, name, dict.fromkeys(config.stages[:i]))
    values = config[name].train
    for key in (*program.LOOP_KEYS, "steps", "learning_rate"):
      if key not in values:
        raise UserError(f"{name}.train.{key} is missing in the configuration")
    for key, least in (
      ("accumulate", 1),
      ("log_every", 1),
      ("checkpoint_every", 1),
      ("sample_every", 0),
    ):
      _check_count(values, key, least, f"{name}.train")
    if not 0 <= values.ema_decay <= 1:
      raise UserError(f"{name}.train.ema_decay={values.ema_decay}: expected 0 to 1")
    program.make_optimizer(config, name)
    sharding.check_batch_size(values.batch_size, mesh)
    step.check_accumulate(
      values.accumulate, values.batch_size, sharding.batch_parts(mesh)
    )
  _check_count(config.sample, "batch_size", 1, "sample")
  for key in ("num_clips", "samples_per_clip"):
    _check_count(config.evaluate, key, 1, "evaluate")


def rehearse(config: Config) -> None:
  """Raises a `UserError` for what training would stumble over, before it begins.

  Opens the data, and passes shapes through the loss of every stage.
  """
  splits = (sources.make_source(config.data.to_dict(), x) for x in ("train", "eval"))
  conditions.check(config, *splits)
  earlier: dict[str, Params] = {}
  key = jax.eval_shape(jax.random.key, 0)
  for name in config.stages:
    frozen = pretrained.perceptual_params(config, name)
    stage = stage_lib.make_stage(config, name, earlier | frozen)
    batch = workdir_lib.abstract_batch(config, config[name].train.batch_size)

    # The stage is an argument, because its leaves are shapes here.
    def init_and_loss(stage: stage_lib.Stage, key: PRNGKey, batch: Batch):
      params = stage.init(key, batch)
      if isinstance(stage, stage_lib.AdversarialStage):
        critic = stage.init_critic(key, batch)
        *_, decoded = stage.gradients(params, critic, batch, key, jnp.zeros((), int))
        stage.critic_loss(critic, batch, decoded)
      return params, stage.loss(params, batch, key, train=True)

    try:
      earlier[name], _ = jax.eval_shape(init_and_loss, stage, key, batch)
    except (TypeError, ValueError) as e:
      if isinstance(e, UserError):
        raise
      logging.debug("", exc_info=True)
      raise UserError(
        f"config.{name} does not make a network ({str(e).partition(chr(10))[0]});"
        " --verbosity=1 shows where"
      ) from e


def train(
  config: Config,
  workdir: pathlib.Path,
  profile_steps: tuple[int, int] | None = None,
) -> None:
  """Trains what is not trained yet.

  Args:
    config: The configuration.
    workdir: Where checkpoints and logs go, in a folder for each stage.
    profile_steps: The first and the last step of each stage to trace, if any.

  Raises:
    Stopped: After SIGTERM or Ctrl-C; the state is saved.
    UserError: The configuration or the data cannot be used.
  """
  mesh = sharding.make_mesh(config.mesh.to_dict())
  source = None
  earlier: dict[str, Params] = {}
  for name in config.stages:
    stage = stage_lib.make_stage(config, name, earlier)
    if not _is_trained(config, workdir, name, stage, mesh):
      source = source or sources.make_source(config.data.to_dict(), "train")
      frozen = pretrained.perceptual_params(config, name)
      stage = stage_lib.make_stage(config, name, earlier | frozen)
      train_stage(config, name, stage, source, workdir / name, mesh, profile_steps)
    if name != config.stages[-1]:
      earlier[name], _ = workdir_lib.load_params(config, workdir, name, stage, mesh)
  if source is not None:
    lines = "".join(f"{line}\n" for line in source.skipped)
    writing.write_text(workdir / "skipped_files.txt", lines)


def _is_trained(
  config: Config,
  workdir: pathlib.Path,
  name: str,
  stage: stage_lib.Stage,
  mesh: jax.sharding.Mesh,
) -> bool:
  """Whether a stage has its last checkpoint, and it can be read."""
  steps = config[name].train.steps
  latest = checkpoint.latest_step(workdir / name / workdir_lib.CHECKPOINTS) or 0
  if not processes.as_first_sees(latest >= steps):
    return False
  _, meta = workdir_lib.load_params(config, workdir, name, stage, mesh)
  if meta["step"] < steps:
    return False
  logging.info("stage %s is already trained (%d steps)", name, meta["step"])
  return True


def train_stage(
  config: Config,
  name: str,
  stage: stage_lib.Stage,
  source: sources.VideoSource,
  folder: pathlib.Path,
  mesh: jax.sharding.Mesh,
  profile_steps: tuple[int, int] | None = None,
) -> None:
  """Trains one stage from its last checkpoint, or from scratch, to its last step."""
  started = time.monotonic()
  values = config[name].train
  root_key = jax.random.fold_in(
    jax.random.key(config.seed), _stage_number(config, name)
  )
  init_key, step_key, sample_key = jax.random.split(root_key, 3)

  training = program.make_program(config, name, stage, mesh)
  abstract_state, abstract_batch, *_ = training.arguments
  everywhere = sharding.replicated(mesh)
  stage = sharding.put(stage, training.shardings[3])
  sample = jax.jit(
    lambda stage, *args: pixels.to_uint8(stage.sample(*args)), out_shardings=everywhere
  )

  def begin():
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_batch)
    run_init = jax.jit(
      training.init,
      out_shardings=training.shardings[0],
      compiler_options=INIT_OPTIONS.get(jax.default_backend()),
    )
    return run_init(stage, init_key, zeros)

  with checkpoint.open_manager(
    folder / workdir_lib.CHECKPOINTS,
    every=values.checkpoint_every,
    keep_best=config.run.keep_best,
  ) as manager:
    placed = sharding.place(mesh, abstract_state)
    restored = checkpoint.restore_latest(manager, placed)
    if restored is None:
      state = begin()
      first, passed_over, earlier_seconds = 0, 0, 0.0
    else:
      state, meta = restored
      first, earlier_seconds = int(state.step), meta["seconds"]
      passed_over = meta.get("passed_over", 0)
      logging.info("stage %s goes on at step %d of %d", name, first, values.steps)

    def save(at: int, state) -> None:
      spent = earlier_seconds + time.monotonic() - started
      meta = {
        "step": at,
        "passed_over": passed_over,  # Batches, by rollbacks.
        "seconds": spent,
        "num_parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "peak_memory_gb": memory.host_peak_gb(),
        "fps": source.fps / config.data.frame_stride,
      }
      checkpoint.save(manager, at, state, meta, log.scalars)

    cache = folder.parent / workdir_lib.FEATURES
    describe = conditions.describer(config, source, cache=cache)
    images = conditions.image_source(config, source, "train")
    rows = sharding.local_rows(mesh, values.batch_size)
    shapes = workdir_lib.abstract_batch(config, len(rows))
    open_batches = functools.partial(
      pipeline.batches,
      source,
      read=latent_cache.open_latents(config, name, stage, source, folder.parent, mesh),
      describe=describe,
      images=images,
      num_images=conditions.num_images(config),
      flip=config.augment.flip if "augment" in config else False,
      describe_image=(
        describe
        if images is source
        else conditions.describer(config, images, cache=cache)
      ),
      num_frames=config.data.num_frames,
      frame_stride=config.data.frame_stride,
      batch_size=values.batch_size,
      seed=config.seed,
      rows=rows,
      prefetch=pipeline.read_ahead(shapes, values.steps - first),
    )
    grid_source = sources.make_source(config.data.to_dict(), "eval")
    drawn, _ = workdir_lib.eval_batch(config, grid_source, GRID_CLIPS, cache)

    find_module = stage_lib.make_probe()

    def locate(bad: int) -> str:
      """Names the module that a bad step's loss comes from, by its batch again."""
      at = bad - 1 + passed_over
      once = open_batches(start_step=at, num_threads=1, prefetch=1)
      with contextlib.closing(once):
        again = next(once)
      batch = sharding.shard_batch(again, mesh)
      key = jax.random.fold_in(step_key, bad - 1)
      return find_module(stage, state.params, batch, key)

    peak = flops.peak(jax.devices()[0].device_kind)
    watch = health.Watch(name, config.run.on_nonfinite, state, locate)
    with (
      training_log.Log(
        folder,
        total_steps=values.steps,
        log_every=values.log_every,
        batch_size=values.batch_size,
        start_step=first,
        seconds=earlier_seconds,
        wandb=config.run.wandb,
      ) as log,
      examples.Log(folder, rows, is_on=config.run.log_examples) as seen,
      profiling.Profiler(folder, profile_steps) as profiler,
      preemption.stop_on_signals() as stop,
      contextlib.ExitStack() as reading,
    ):
      batches = open_batches(start_step=first + passed_over)
      reading.callback(lambda: batches.close())
      number = first
      while number < values.steps:
        number += 1
        with log.waiting():
          part = next(batches)
        seen.write(number, part["index"])
        watch.saw(number, part["index"])
        batch = sharding.shard_batch(part, mesh)
        with profiler.step(number):
          state, metrics = training.step(state, batch, step_key, stage)
        if number == first + 1:  # Now the shapes are known.
          log.work(program.model_flops(training, batch), peak and peak.flops)
        is_last = number == values.steps
        is_stop = stop.after_update()  # Once: a signal may come at any time.
        is_save = is_last or is_stop or number % values.checkpoint_every == 0
        is_drawn = is_last or number % (values.sample_every or values.steps) == 0
        is_logged = log.step(number, metrics, now=is_save or is_drawn) is not None
        # Before it could be saved: what is not finite ends the run, or takes it back to
        # a checkpoint, and on with the batches after the bad one.
        if is_logged and (bad := watch.look(log.window)) is not None:
          restored = checkpoint.restore_before(
            manager, placed, bad, values.checkpoint_every, in_place_of=state
          )
          state = restored[0] if restored else begin()
          number = int(state.step)
          passed_over += bad - number
          batches.close()
          batches = open_batches(start_step=number + passed_over)
          log.rewind(number)
          continue
        if is_drawn:
          # One compilation for all: the same clips, the same shapes.
          key = jax.random.fold_in(sample_key, number)
          given = sharding.put_batch(drawn, mesh)
          video = np.asarray(sample(stage, state.ema_params, given, key))
          _write_grid(folder, number, drawn["video"], video, log)
          log.extra(number, motion.compared(video, drawn["video"]))
        if is_save:
          save(number, state)
        if is_stop:
          break
    checkpoint.finish(manager)
  if stop:
    raise Stopped(
      f"{stop.signal_name}: stage {name} saved at step {int(state.step)} of"
      f" {values.steps};"
      " the same command goes on from there",
      exit_status=128 + signal.Signals[stop.signal_name],
    )


def _check_count(values: Config, key: str, least: int, where: str) -> None:
  value = values[key]
  if not isinstance(value, int) or value < least:
    raise UserError(f"{where}.{key}={value}: expected a whole number from {least} on")


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
  with writing.explain_full_disk(folder):
    media.contact_sheet(rows, path)
  log.image(number, "clips_and_model", media.read_image(path))
