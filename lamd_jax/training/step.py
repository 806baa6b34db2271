"""One update: gradient, optimizer, moving average."""

from collections.abc import Callable, Mapping
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import optax

from lamd_jax.training.state import TrainState
from lamd_jax.types import Batch, LossFn, Metrics, PRNGKey, UserError


def ema_decay_at(step: Int[Array, ""], ema_decay: float) -> Float[Array, ""]:
  """Returns the decay that the moving average uses in the update after `step`.

  min(ema_decay, (1 + step) / (10 + step)): early on the average spans about a
  tenth of the steps made, so that a short run's average has forgotten its random
  start. The rule of `ExponentialMovingAverage(num_updates)` in TensorFlow.
  """
  step = step.astype(jnp.float32)
  return jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))


def make_train_step(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  ema_decay: float,
  learning_rate_fn: optax.Schedule | None = None,
) -> Callable[[TrainState, Batch, PRNGKey, Any], tuple[TrainState, Metrics]]:
  """Returns the update as a pure function; the caller jits and donates.

  Args:
    loss_fn: `(stage, params, batch, key) -> (loss, metrics)`, a mean over the
      batch.
    tx: The optimizer, with clipping and learning rate inside.
    ema_decay: Decay of the moving average, in [0, 1], once warmed up.
    learning_rate_fn: Step to learning rate, for the metrics only.

  Returns:
    `train_step(state, batch, root_key, stage) -> (state, metrics)`. `stage` is a
    PyTree whose leaves are frozen arrays, such as an earlier stage's parameters:
    as an argument they are inputs of the compiled program, closed over they would
    be constants inside it. Metrics are those of the loss and `loss`, `grad_norm`
    (before clipping) and `learning_rate`.
  """

  def train_step(state: TrainState, batch: Batch, root_key: PRNGKey, stage: Any):
    key = jax.random.fold_in(root_key, state.step)
    grad_fn = jax.value_and_grad(loss_fn, argnums=1, has_aux=True)
    (loss, metrics), grads = grad_fn(stage, state.params, batch, key)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = ema_decay_at(state.step, ema_decay)
    ema_params = optax.incremental_update(params, state.ema_params, 1.0 - decay)
    metrics = {**metrics, "loss": loss, "grad_norm": optax.tree.norm(grads)}
    if learning_rate_fn is not None:
      metrics["learning_rate"] = learning_rate_fn(state.step)
    state = TrainState(
      step=state.step + 1, params=params, ema_params=ema_params, opt_state=opt_state
    )
    return state, metrics

  return train_step


def check_finite(step: int, scalars: Mapping[str, Any]) -> None:
  """Stops a run whose loss or gradient is no longer a number.

  Args:
    step: Where it was seen, for the message.
    scalars: Metrics of the update, on the host.

  Raises:
    UserError: `loss` or `grad_norm` is infinite or not a number.
  """
  for name in ("loss", "grad_norm"):
    if not math.isfinite(scalars[name]):
      raise UserError(
        f"training diverged: {name} is {scalars[name]} at step {step}; lower"
        " learning_rate or clip_norm, or raise warmup_steps, and start the stage"
        " again (checkpoints already written are from before)"
      )
