"""Adam or Muon, and the learning rate, from plain values."""

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float
import optax
import optax.contrib

from lamd_jax.types import Params, UserError

OPTIMIZERS = ("adam", "muon")
# Muon's updates are scaled to the size that Adam's have in practice, so that one
# learning rate means the same for both: Liu et al. 2025 (arXiv:2502.16982).
MUON_RMS = 0.2
# Muon is for hidden layers: kernels that read or write pixels or latents, which have
# few channels, stay with Adam.
MUON_MIN_CHANNELS = 5
# Fraction of the training after warm-up, in [0, 1] -> fraction of the way down.
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
  """Returns the learning rate as a function of the step, counted from 0.

  Args:
    steps: Length of the training.
    learning_rate: The highest rate.
    warmup_steps: Updates over which the rate rises linearly; the first update
      uses `learning_rate / warmup_steps`, none uses zero.
    schedule: How it falls after the warm-up: "constant", "cosine" or "linear".
    end_fraction: What is left at `steps`, as a fraction of `learning_rate`.
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
  steps: int,
  learning_rate: float,
  *,
  optimizer: str = "adam",
  warmup_steps: int = 0,
  schedule: str = "constant",
  end_fraction: float = 0.0,
  weight_decay: float = 0.0,
  clip_norm: float = 1.0,
  b1: float = 0.9,
  b2: float = 0.999,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Returns the optimizer, behind a clipped gradient, and its learning rate.

  Args:
    steps: Length of the training, for the schedule.
    learning_rate: See `make_learning_rate`, as for `warmup_steps` and the next two.
    optimizer: "adam" is AdamW (Adam where `weight_decay` is 0). "muon" is Muon
      (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for kernels
      (`muon_matrices`), and for the rest Adam with Nesterov's momentum and without
      decay; its learning rates are of the size of Adam's.
    warmup_steps: See there.
    schedule: See there.
    end_fraction: See there.
    weight_decay: Per unit of learning rate, decoupled (Loshchilov & Hutter 2017,
      arXiv:1711.05101); not applied to biases and scales of norms.
    clip_norm: Largest norm of the gradient, over all parameters; 0 for no limit.
    b1: Decay of Adam's mean of gradients, in [0, 1).
    b2: Decay of Adam's mean of their squares, in [0, 1).

  Raises:
    UserError: A value that no training could use.
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
  """Returns how each kernel is a matrix for Muon, and None where Adam goes on.

  A kernel maps all its inputs (those of every tap of a convolution) to its outputs;
  one that makes queries, keys or values is one matrix for each head.
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
  """Returns True for each array that weight decay acts on.

  Those with two axes or more, unless named `bias` or `scale`: a vector shifts or
  scales features, and to pull it to zero would change what a layer is.
  """

  def is_decayed(path, x):
    name = getattr(path[-1], "key", None) if path else None
    return x.ndim >= 2 and name not in ("bias", "scale")

  return jax.tree_util.tree_map_with_path(is_decayed, params)
