"""The training step: gradient of a batch, optimizer update, moving average.

An update whose loss or gradient is not finite changes nothing: parameters, moving
average and optimizer state stay as they were, and only `step` advances. The device
decides this by itself; `training.health` finds out from the metrics when they are
logged.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, TypeVar

from einops import rearrange
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import optax

from lamd_jax.training.state import AdversarialState, TrainState
from lamd_jax.types import Batch, LossFn, Metrics, Params, PRNGKey, UserError

State = TypeVar("State", TrainState, AdversarialState)


def ema_decay_at(step: Int[Array, ""], ema_decay: float) -> Float[Array, ""]:
  """Returns the decay of the moving average in the update that follows `step` others.

  It is min(ema_decay, (1 + step) / (10 + step)), the rule of TensorFlow's
  `ExponentialMovingAverage(num_updates)`: early on the average spans about a tenth of
  the updates made, so that even a short run's average forgets its random start.
  """
  step = step.astype(jnp.float32)
  return jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))


def make_train_step(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  ema_decay: float,
  learning_rate_fn: optax.Schedule | None = None,
  accumulate: int = 1,
) -> Callable[[TrainState, Batch, PRNGKey, Any], tuple[TrainState, Metrics]]:
  """Returns the training step as a pure function; the caller jits and donates.

  Args:
    loss_fn: Function `(stage, params, batch, key) -> (loss, metrics)` that averages
      over the batch.
    tx: Optimizer, with clipping and learning rate included.
    ema_decay: Decay of the moving average, in [0, 1], once warmed up.
    learning_rate_fn: Schedule to report in the metrics; not used otherwise.
    accumulate: Number of parts in which the batch passes through the network, one
      after another. The update uses the mean gradient, and metrics are means.

  Returns:
    `train_step(state, batch, root_key, stage) -> (state, metrics)`. `stage` is a
    PyTree whose leaves are frozen arrays, such as an earlier stage's parameters. As an
    argument they are inputs of the compiled program; in a closure they would become
    constants inside it. The metrics are those of the loss plus `loss`, `grad_norm`
    (before clipping), `learning_rate`, and `grad_norms`, a vector with the norm of
    each array of the gradient.
  """

  def train_step(state: TrainState, batch: Batch, root_key: PRNGKey, stage: Any):
    key = jax.random.fold_in(root_key, state.step)

    def gradients(batch, key):
      grad_fn = jax.value_and_grad(loss_fn, argnums=1, has_aux=True)
      return grad_fn(stage, state.params, batch, key), ()

    ((loss, metrics), grads), _ = _by_parts(gradients, batch, key, accumulate)
    metrics = {**metrics, "loss": loss, **_norms(grads)}
    metrics |= _learning_rate(learning_rate_fn, state)
    is_finite = _is_finite(loss, metrics)
    return _updated(state, grads, tx, ema_decay, is_finite), metrics

  return train_step


def make_adversarial_step(
  tx: optax.GradientTransformation,
  ema_decay: float,
  learning_rate_fn: optax.Schedule | None = None,
  accumulate: int = 1,
) -> Callable[
  [AdversarialState, Batch, PRNGKey, Any], tuple[AdversarialState, Metrics]
]:
  """Returns the training step of an autoencoder together with its discriminator.

  The discriminator judges the reconstruction that the autoencoder made in the same
  update. Both learn from it from step `stage.critic_start` on; before that, the
  discriminator is not trained.

  Args:
    tx: Optimizer for both networks.
    ema_decay: Decay of the moving average, in [0, 1], once warmed up.
    learning_rate_fn: Schedule to report in the metrics; not used otherwise.
    accumulate: Number of parts of the batch, as for `make_train_step`. Both networks
      learn from all parts as they were before the update; an adaptive weight of the
      adversarial loss is computed per part.

  Returns:
    `train_step(state, batch, root_key, stage) -> (state, metrics)`, where `stage`
    provides `gradients` and `critic_loss` of `systems.stage.AdversarialStage`.
  """

  def train_step(state: AdversarialState, batch: Batch, root_key: PRNGKey, stage: Any):
    key = jax.random.fold_in(root_key, state.step)

    def gradients(batch, key):
      *means, decoded = stage.gradients(
        state.params, state.critic_params, batch, key, state.step
      )
      return tuple(means), decoded

    means, decoded = _by_parts(gradients, batch, key, accumulate)
    loss, metrics, grads = means

    def update_critic(critic):
      params, opt_state = critic

      def critic_gradients(rows, key):
        del key
        grad_fn = jax.value_and_grad(stage.critic_loss, has_aux=True)
        return grad_fn(params, *rows), ()

      rows = (batch, decoded)
      ((loss, metrics), grads), _ = _by_parts(critic_gradients, rows, key, accumulate)
      updates, opt_state = tx.update(grads, opt_state, params)
      updated = optax.apply_updates(params, updates), opt_state
      norms = _norms(grads)
      metrics |= {f"critic_{name}": norm for name, norm in norms.items()}
      return _either(_is_finite(loss, norms), updated, critic), loss, metrics

    critic = (state.critic_params, state.critic_opt_state)
    found = jax.eval_shape(update_critic, critic)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found[1:])
    critic, critic_loss, critic_metrics = jax.lax.cond(
      state.step >= stage.critic_start, update_critic, lambda c: (c, *zeros), critic
    )
    metrics = {**metrics, **critic_metrics, "critic_loss": critic_loss}
    metrics |= {"loss": loss, **_norms(grads)}
    metrics |= _learning_rate(learning_rate_fn, state)
    state = _updated(state, grads, tx, ema_decay, _is_finite(loss, metrics))
    params, opt_state = critic
    state = dataclasses.replace(state, critic_params=params, critic_opt_state=opt_state)
    return state, metrics

  return train_step


def _by_parts(
  fn: Callable[[Any, PRNGKey], tuple[Any, Any]], batch: Any, key: PRNGKey, count: int
) -> tuple[Any, Any]:
  """Calls a function on the parts of a batch, one after another.

  Row r of the batch belongs to part r % count, so that every device splits its own
  rows and none has to move.

  Args:
    fn: Function of a batch and a key; returns arrays to average, and arrays with one
      row per example.
    batch: Arrays with one row per example.
    key: Random key of the batch. Part i gets `fold_in(key, i)`; a single part gets the
      key itself.
    count: Number of parts.

  Returns:
    The averaged arrays, and the rows of all parts in the order of the batch.
  """
  if count == 1:
    return fn(batch, key)
  split = lambda x: rearrange(x, "(b k) ... -> k b ...", k=count)
  join = lambda x: rearrange(x, "k b ... -> (b k) ...")
  parts = jax.tree.map(split, batch)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))

  def add(total, part):
    means, rows = fn(*part)
    return jax.tree.map(jnp.add, total, means), rows

  first = jax.tree.map(lambda x: x[0], (parts, keys))
  means, _ = jax.eval_shape(fn, *first)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), means)
  total, rows = jax.lax.scan(add, zeros, (parts, keys))
  return jax.tree.map(lambda x: x / count, total), jax.tree.map(join, rows)


def _learning_rate(
  learning_rate_fn: optax.Schedule | None, state: TrainState | AdversarialState
) -> Metrics:
  """Returns the rate at the optimizer's own count, which leaves out skipped updates."""
  if learning_rate_fn is None:
    return {}
  is_schedule = lambda path, _: (
    getattr(path[-1], "tuple_name", "") == optax.ScaleByScheduleState.__name__
  )
  found = optax.tree.get_all_with_path(state.opt_state, "count", is_schedule)
  # Muon has two counts, which agree; an optimizer without a schedule has none.
  count = found[0][1] if found else state.step
  return {"learning_rate": jnp.asarray(learning_rate_fn(count))}


def _norms(grads: Params) -> dict[str, Array]:
  """Returns the norm of the gradient, and the norm of each of its arrays."""
  squares = [jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(grads)]
  norms = jnp.sqrt(jnp.stack(squares))
  return {"grad_norm": jnp.sqrt(sum(squares)), "grad_norms": norms}


def _is_finite(loss: Float[Array, ""], norms: Mapping[str, Array]) -> Bool[Array, ""]:
  return jnp.isfinite(loss) & jnp.isfinite(norms["grad_norm"])


def _either(condition: Bool[Array, ""], a: Any, b: Any) -> Any:
  """Selects one of two trees of equal structure."""
  return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _updated(
  state: State,
  grads: Params,
  tx: optax.GradientTransformation,
  ema_decay: float,
  is_finite: Bool[Array, ""],
) -> State:
  """Returns the state after an update, or unchanged but for `step` if not finite."""
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  decay = ema_decay_at(state.step, ema_decay)
  updated = dataclasses.replace(
    state,
    params=params,
    ema_params=optax.incremental_update(params, state.ema_params, 1.0 - decay),
    opt_state=opt_state,
  )
  kept = _either(is_finite, updated, state)
  return dataclasses.replace(kept, step=state.step + 1)


def check_accumulate(accumulate: int, batch_size: int, shards: int) -> None:
  """Raises a `UserError` unless every device can split its rows into equal parts.

  Args:
    accumulate: Number of parts.
    batch_size: Global batch size, over all devices and processes.
    shards: Number of devices that the rows of a batch are spread over.
  """
  rows = batch_size // shards
  if rows % accumulate == 0:
    return
  fits = [k for k in range(1, rows + 1) if rows % k == 0]
  below = max((k for k in fits if k < accumulate), default=1)
  above = min((k for k in fits if k > accumulate), default=below)
  nearest = f"{below} or {above}" if below < above else f"{below}"
  raise UserError(
    f"accumulate={accumulate} does not divide the {rows} of {batch_size} examples on"
    f" each device; nearest: {nearest}"
  )
