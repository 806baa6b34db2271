"""Optimizers (Adam, Muon) and learning rate schedules, from plain values."""

from collections.abc import Callable
import math
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float
import optax
import optax.contrib

from lamd_jax.schema import Count, Fraction, OneOf, Range, Weight
from lamd_jax.types import Params, UserError

OPTIMIZERS = ("adam", "muon")
# Scales Muon's updates to the size that Adam's have in practice, so that a learning
# rate means the same for both: Liu et al. 2025 (arXiv:2502.16982).
MUON_RMS = 0.2
# Muon is for hidden layers. Kernels that read or write pixels or latents, which have
# few channels, stay with Adam.
MUON_MIN_CHANNELS = 5
# Each maps progress after the warm-up, in [0, 1], to the fraction of the decay done.
DESCENTS: dict[str, Callable[[Array], Array]] = {
  "constant": lambda progress: jnp.zeros_like(progress),
  "cosine": lambda progress: 0.5 * (1.0 - jnp.cos(math.pi * progress)),
  "linear": lambda progress: progress,
}


def make_learning_rate(
  steps: int,
  learning_rate: float,
  *,
  warmup_steps: int = 0,
  schedule: str = "constant",
  end_fraction: float = 0.0,
) -> optax.Schedule:
  """Returns a learning rate schedule: a function of the step, counted from 0.

  Args:
    steps: Number of updates in the training.
    learning_rate: Peak learning rate.
    warmup_steps: Number of updates over which the rate rises linearly; the first
      update uses `learning_rate / warmup_steps`, none uses zero.
    schedule: Decay after the warm-up: "constant", "cosine" or "linear".
    end_fraction: Rate at `steps`, as a fraction of `learning_rate`.
  """
  if schedule not in DESCENTS:
    known = ", ".join(sorted(DESCENTS))
    raise UserError(f"unknown learning rate schedule {schedule!r}; known: {known}")
  if not 0 <= warmup_steps <= steps:
    raise UserError(
      f"warmup_steps={warmup_steps} does not fit into steps={steps}; choose"
      f" warmup_steps from 0 to {steps}"
    )

  def learning_rate_fn(step: ArrayLike) -> Float[Array, ""]:
    count = jnp.asarray(step, jnp.float32)
    rise = jnp.minimum(1.0, (count + 1.0) / max(warmup_steps, 1))
    progress = (count - warmup_steps) / max(steps - warmup_steps, 1)
    descent = DESCENTS[schedule](jnp.clip(progress, 0.0, 1.0))
    return learning_rate * rise * (1.0 - (1.0 - end_fraction) * descent)

  return learning_rate_fn


def make_optimizer(
  steps: Count,
  learning_rate: Annotated[float, Range(1e-12, 1)],
  *,
  optimizer: Annotated[str, OneOf(OPTIMIZERS)] = "adam",
  warmup_steps: Annotated[int, Range(0, 10**9)] = 0,
  schedule: Annotated[str, OneOf(DESCENTS)] = "constant",
  end_fraction: Fraction = 0.0,
  weight_decay: Weight = 0.0,
  clip_norm: Weight = 1.0,
  b1: Annotated[float, Range(0, 1 - 1e-9)] = 0.9,
  b2: Annotated[float, Range(0, 1 - 1e-9)] = 0.999,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Returns an optimizer with gradient clipping, and its learning rate schedule.

  Args:
    steps: Number of updates in the training, for the schedule.
    learning_rate: Peak learning rate.
    optimizer: "adam" is AdamW (Adam if `weight_decay` is 0). "muon" is Muon (Jordan
      et al. 2024, kellerjordan.github.io/posts/muon) for the kernels that
      `muon_matrices` selects, and Adam with Nesterov momentum and no weight decay for
      all other parameters; it takes learning rates of the same size as Adam.
    warmup_steps: Number of updates over which the rate rises linearly.
    schedule: Decay after the warm-up, as for `make_learning_rate`.
    end_fraction: Rate at `steps`, as a fraction of `learning_rate`.
    weight_decay: Decoupled weight decay per unit of learning rate (Loshchilov & Hutter
      2017, arXiv:1711.05101); not applied to biases and the scales of norms.
    clip_norm: Maximum global norm of the gradient; 0 for no limit.
    b1: Decay rate of Adam's mean of gradients, in [0, 1).
    b2: Decay rate of Adam's mean of squared gradients, in [0, 1).

  Raises:
    UserError: A value is out of range.
  """
  if optimizer not in OPTIMIZERS:
    raise UserError(f"unknown optimizer {optimizer!r}; known: {', '.join(OPTIMIZERS)}")
  for name, value, is_good, range_ in (
    ("steps", steps, steps >= 1, "at least 1"),
    ("learning_rate", learning_rate, 0 < learning_rate < 1, "between 0 and 1"),
    ("end_fraction", end_fraction, 0 <= end_fraction <= 1, "from 0 to 1"),
    ("weight_decay", weight_decay, weight_decay >= 0, "0 or more"),
    ("clip_norm", clip_norm, clip_norm >= 0, "0 (no limit) or more"),
    ("b1", b1, 0 <= b1 < 1, "from 0 to below 1"),
    ("b2", b2, 0 <= b2 < 1, "from 0 to below 1"),
  ):
    if not is_good:
      raise UserError(f"{name}={value}: expected {range_}")
  learning_rate_fn = make_learning_rate(
    steps,
    learning_rate,
    warmup_steps=warmup_steps,
    schedule=schedule,
    end_fraction=end_fraction,
  )
  if optimizer == "muon":
    tx = optax.contrib.muon(
      learning_rate_fn,
      adam_b1=b1,
      adam_b2=b2,
      weight_decay=weight_decay,
      weight_decay_mask=decay_mask,
      consistent_rms=MUON_RMS,
      muon_weight_dimension_numbers=muon_matrices,
    )
  else:
    tx = optax.adamw(
      learning_rate_fn, b1=b1, b2=b2, weight_decay=weight_decay, mask=decay_mask
    )
  clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
  return optax.chain(clip, tx), learning_rate_fn


def muon_matrices(params: Params) -> Params:
  """Returns, for each array, how Muon views it as a matrix; None leaves it to Adam.

  A kernel maps all its inputs (over every tap of a convolution) to its outputs. The
  kernel of queries, keys or values is one matrix per head.
  """

  def matrix(path, x):
    names = [getattr(entry, "key", None) for entry in path]
    if names[-1] != "kernel":
      return None
    is_per_head = x.ndim == 3 and names[-2] in ("query", "key", "value")
    inputs = (0,) if is_per_head else tuple(range(x.ndim - 1))
    if min(x.shape[inputs[-1]], x.shape[-1]) < MUON_MIN_CHANNELS:
      return None
    return optax.contrib.MuonDimensionNumbers(inputs, (x.ndim - 1,))

  return jax.tree_util.tree_map_with_path(matrix, params)


def decay_mask(params: Params) -> Params:
  """Returns a tree that is True where weight decay applies.

  It applies to arrays of two or more axes, unless named `bias` or `scale`. Those shift
  or scale features, and pulling them to zero would change what the layer does.
  """

  def is_decayed(path, x):
    name = getattr(path[-1], "key", None) if path else None
    return x.ndim >= 2 and name not in ("bias", "scale")

  return jax.tree_util.tree_map_with_path(is_decayed, params)
