"""Job: look for mistakes in a configuration before anything is trained."""

from collections.abc import Iterator
import contextlib

from absl import logging
import jax
import jax.numpy as jnp

from lamd_jax.data import sources
from lamd_jax.experiment import batches, conditions, program, trained
from lamd_jax.experiment.run import Run
from lamd_jax.systems import stage as stage_lib
from lamd_jax.systems.table import bare_stage
from lamd_jax.training import sharding, step, wandb_run
from lamd_jax.types import Batch, Config, PRNGKey, UserError

MAX_REASON = 200  # Characters of an error of JAX or Flax in a message.


def check(run: Run) -> None:
  """Raises a `UserError` for values that do not go together; takes no time.

  Each by itself was checked when the run was made.
  """
  config = run.config
  wandb_run.check(config.run.wandb)
  trained.best_of(run, run.stages[-1])
  for name in run.stages:
    with _explained(name):
      bare_stage(config, name)  # Raises what no network or sampler could use.
    _check_training(run, name, config[name].train)


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
    # Shapes are enough, but for weights that training will need: those are read, so
    # that it is said now if they are missing.
    trained.load_perceptual(run, name)
  trace(run)


def trace(run: Run) -> None:
  """Passes shapes through the loss of every stage; opens and computes nothing.

  Raises:
    UserError: The values of a stage make no network, or one that clips do not fit.
  """
  for name in run.stages:
    with _explained(name):
      stage = trained.make_stage(run, name, for_training=True, abstract=True)
      batch = batches.abstract_batch(run, name, run.config[name].train.batch_size)
      key = jax.eval_shape(jax.random.key, 0)
      try:
        jax.eval_shape(_init_and_loss, stage, key, batch)
      except UserError as e:  # Of a network, which does not know where it stands.
        raise UserError(f"config.{name}: {e}") from e


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
  """Turns any error of the networks of a stage into one line that names its block."""
  try:
    yield
  except UserError:
    raise
  except Exception as e:  # What shapes do not fit shows as any error at all.
    reason = " ".join(str(e).partition("\n")[0].split())[:MAX_REASON]
    logging.debug("", exc_info=True)
    raise UserError(
      f"config.{name} does not make a network ({type(e).__name__}: {reason});"
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
  program.make_optimizer(name, values)
  sharding.check_batch_size(values.batch_size, run.mesh)
  step.check_accumulate(
    values.accumulate, values.batch_size, sharding.batch_parts(run.mesh)
  )
