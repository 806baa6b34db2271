"""The training of a stage as a program: its inputs, where they live, the update.

Nothing here holds an array or compiles: `train` runs the program, `plan` asks the
compiler about it.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax

from lamd_jax.experiment import batches
from lamd_jax.experiment.blocks import LOOP_KEYS, TRAIN
from lamd_jax.experiment.run import Run
from lamd_jax.schema import check_block
from lamd_jax.systems import stage as stage_lib
from lamd_jax.training import flops, optimizer, sharding, step
from lamd_jax.training.state import init_adversarial_state, init_state
from lamd_jax.types import Batch, Config, PRNGKey, UserError

# On CPU, the compiler spreads work over cores at the cost of memory: what is computed
# again would be so early, and save nothing.
MEMORY_FIRST = {
  "cpu": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
}


class Program(NamedTuple):
  """The compiled parts of a training.

  Attributes:
    init: `(stage, key, batch) -> state`.
    update: `(state, batch, key, stage) -> (state, metrics)`.
    step: The update as a jitted function; the state is donated.
    arguments: Shapes of the arguments of `step`. A batch may have other arrays, where
      latents are kept, and lies as `sharding.shard_batch` puts it.
    shardings: Shardings of these arguments.
  """

  init: Callable[..., Any]
  update: Callable[..., Any]
  step: Any
  arguments: tuple[Any, ...]
  shardings: tuple[Any, ...]


def make_program(run: Run, name: str, stage: stage_lib.Stage) -> Program:
  """Builds the training program of a stage.

  Args:
    run: The experiment.
    name: Name of the stage.
    stage: The stage, around arrays or around shapes.
  """
  values, mesh = run.config[name].train, run.mesh
  tx, learning_rate_fn = make_optimizer(name, values)
  make_step = functools.partial(
    step.make_train_step,
    lambda stage, params, batch, key: stage.loss(params, batch, key, train=True),
  )
  if isinstance(stage, stage_lib.AdversarialStage):
    make_step = step.make_adversarial_step

  def init(stage: stage_lib.Stage, key: PRNGKey, batch: Batch):
    params = stage.init(key, batch)
    if not isinstance(stage, stage_lib.AdversarialStage):
      return init_state(params, tx)
    critic = stage.init_critic(jax.random.fold_in(key, 1), batch)
    return init_adversarial_state(params, critic, tx)

  # Shapes first, shardings from shapes, then arrays: none is ever in a wrong place.
  key = jax.eval_shape(jax.random.key, 0)
  batch = batches.abstract_batch(run, name, values.batch_size)
  state = jax.eval_shape(init, stage, key, batch)
  of_state, of_stage = sharding.state_sharding(mesh, (state, stage))
  of_batch = sharding.batch_sharding(mesh, batch)
  batch = {
    k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=of_batch[k])
    for k, x in batch.items()
  }
  everywhere = sharding.replicated(mesh)
  is_remat = run.config.run.remat != "none"
  update = make_step(tx, values.ema_decay, learning_rate_fn, values.accumulate)
  train_step = jax.jit(
    update,
    in_shardings=(of_state, None, everywhere, of_stage),
    out_shardings=(of_state, everywhere),
    donate_argnums=0,
    compiler_options=MEMORY_FIRST.get(jax.default_backend()) if is_remat else None,
  )
  shardings = (of_state, of_batch, everywhere, of_stage)
  return Program(init, update, train_step, (state, batch, key, stage), shardings)


def model_flops(training: Program, batch: Batch | None = None) -> float:
  """Returns the floating-point operations of an update, to measure utilisation by.

  Recomputation by rematerialisation does not count: it is no use by itself.

  Args:
    training: The program; traced if it was not called yet, never compiled.
    batch: A batch whose shapes to count with; by default those of the arguments.
  """
  state, shapes, key, stage = training.arguments
  step = training.step  # Which need not be traced again.
  model: Any = getattr(stage, "model", None)
  if getattr(model, "remat", "none") != "none":
    step = training.update
    stage = dataclasses.replace(stage, model=model.clone(remat="none"))
  return flops.count_flops(step, state, batch or shapes, key, stage)


def make_optimizer(name: str, values: Config):
  """Returns a stage's optimizer and learning rate; see `optimizer.make_optimizer`.

  Args:
    name: Name of the stage, for messages.
    values: Its block `train`.

  Raises:
    UserError: A key of the stage's `train` block is unknown, or a value impossible.
  """
  found = check_block(values, TRAIN, f"{name}.train")
  options = {k: v for k, v in found.items() if k not in LOOP_KEYS}
  try:
    return optimizer.make_optimizer(**options)
  except UserError as e:
    raise UserError(f"{name}.train: {e}") from e
