"""Job: look for mistakes in a configuration before anything is trained."""

from absl import logging
import jax
import jax.numpy as jnp

from lamd_jax.data import sources
from lamd_jax.experiment import batches, conditions, program, trained
from lamd_jax.experiment.run import Run
from lamd_jax.systems import stage as stage_lib
from lamd_jax.systems.table import bare_stage
from lamd_jax.training import health, sharding, step, wandb_run
from lamd_jax.types import Batch, Config, PRNGKey, UserError

# Keys of `config.run`: how to train, whatever is trained.
RUN_KEYS = ("remat", "on_nonfinite", "keep_best", "log_examples", "wandb")


def check(run: Run) -> None:
  """Raises a `UserError` for a value that no job could use; takes no time."""
  config = run.config
  if set(config.run) != set(RUN_KEYS):
    raise UserError(
      f"config.run has {', '.join(sorted(config.run))}; expected {', '.join(RUN_KEYS)}"
    )
  health.check_policy(config.run.on_nonfinite)
  wandb_run.check(config.run.wandb)
  trained.best_of(run, run.stages[-1])
  if not isinstance(config.run.log_examples, bool):
    raise UserError(
      f"run.log_examples={config.run.log_examples}: expected True or False"
    )
  for name in run.stages:
    bare_stage(config, name)  # Raises what no network or sampler could use.
    _check_training(run, name, config[name].train)
  _check_count(config.sample, "batch_size", 1, "sample")
  for key in ("num_clips", "samples_per_clip"):
    _check_count(config.evaluate, key, 1, "evaluate")


def rehearse(run: Run) -> None:
  """Raises a `UserError` for what training would stumble over, before it begins.

  Opens the data, and passes shapes through the loss of every stage.
  """
  looked_at = []  # Stages with the same data share it.
  for name in run.stages:
    if (data := run.data(name)) not in looked_at:
      looked_at.append(data)
      splits = (sources.make_source(data, split) for split in ("train", "eval"))
      conditions.check(run.conditions, *splits)
    # The stage is around shapes, but for weights that training will need: those are
    # read, so that it is said now if they are missing.
    trained.load_perceptual(run, name)
    stage = trained.make_stage(run, name, for_training=True, abstract=True)
    batch = batches.abstract_batch(run, name, run.config[name].train.batch_size)
    key = jax.eval_shape(jax.random.key, 0)
    try:
      jax.eval_shape(_init_and_loss, stage, key, batch)
    except (TypeError, ValueError) as e:
      if isinstance(e, UserError):
        raise
      logging.debug("", exc_info=True)
      raise UserError(
        f"config.{name} does not make a network ({str(e).partition(chr(10))[0]});"
        " --verbosity=1 shows where"
      ) from e


def _init_and_loss(stage: stage_lib.Stage, key: PRNGKey, batch: Batch):
  params = stage.init(key, batch)
  if isinstance(stage, stage_lib.AdversarialStage):
    critic = stage.init_critic(key, batch)
    *_, decoded = stage.gradients(params, critic, batch, key, jnp.zeros((), int))
    stage.critic_loss(critic, batch, decoded)
  return params, stage.loss(params, batch, key, train=True)


def _check_training(run: Run, name: str, values: Config) -> None:
  """Raises a `UserError` for what is wrong in the block `train` of a stage."""
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
  program.make_optimizer(name, values)
  sharding.check_batch_size(values.batch_size, run.mesh)
  step.check_accumulate(
    values.accumulate, values.batch_size, sharding.batch_parts(run.mesh)
  )


def _check_count(values: Config, key: str, least: int, where: str) -> None:
  value = values[key]
  if not isinstance(value, int) or value < least:
    raise UserError(f"{where}.{key}={value}: expected a whole number from {least} on")
