"""Norms, residual blocks and changes of resolution, for videos and for images.

Every function and module takes `b f h w c` or `b h w c`: an image is a video without
the frame axis, and its kernels have two sizes instead of three.
"""

from collections.abc import Callable, Sequence
import functools
import math

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lamd_jax.nn.conv import Conv
from lamd_jax.types import UserError

# Makes a norm from `dtype` and `name`: `Norm`, or a partial of it with other fields.
MakeNorm = Callable[..., Callable[[Array], Array]]


def num_groups(channels: int) -> int:
  """Returns the default number of groups: at most 32, with 4 or more channels each."""
  fits = [g for g in range(1, 33) if channels % g == 0 and channels // g >= 4]
  return max(fits, default=1)


class Norm(nn.Module):
  """Group normalization with a learned scale and shift; statistics are in float32.

  Attributes:
    over: Axes that share statistics, with the channels of a group: "frame" is height
      and width, so frames stay independent; "clip" adds the frames; "time" is the
      frames of a single pixel, as in LVDM's temporal attention.
    groups: Number of groups, such as the 32 of published U-Nets; None for the rule of
      `num_groups`.
    epsilon: Added to the variance.
    dtype: Dtype of the result.
  """

  over: str = "frame"
  groups: int | None = None
  epsilon: float = 1e-6
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "b *fhw c"]) -> Float[Array, "b *fhw c"]:
    """Normalizes x."""
    axes = {"frame": (-3, -2, -1), "clip": tuple(range(1, x.ndim)), "time": (1, -1)}
    if self.over not in axes:
      raise UserError(f"Norm.over is {self.over!r}; known: {', '.join(axes)}")
    if self.over == "time" and x.ndim != 5:
      raise UserError(
        f"Norm.over='time' was given {x.ndim} axes; expected a video, b f h w c"
      )
    channels = x.shape[-1]
    groups = self.groups or num_groups(channels)
    if channels % groups:
      raise UserError(
        f"Norm.groups={groups} does not divide {channels} channels; choose a divisor"
      )
    norm = nn.GroupNorm(
      groups,
      epsilon=self.epsilon,
      reduction_axes=axes[self.over],
      dtype=self.dtype,
      name="norm",
    )
    return norm(x)


class ResBlock(nn.Module):
  """Residual block: norm, SiLU and convolution, once per kernel.

  The last convolution starts at zero, so a fresh block is its skip connection.
  With kernels `(1, 3, 3), (3, 1, 1)` the block is factorized over space and time;
  with `(3, 3, 3)` twice it is an ordinary 3D block; `(3, 3)` twice is for images.

  Attributes:
    features: Number of output channels.
    kernels: Kernel sizes, one per convolution.
    dropout_rate: Dropout rate before the last convolution, as in Ho et al. 2020.
    dtype: Dtype of the computation.
    scale_shift: Whether the embedding scales and shifts the output of the second norm
      (FiLM, Perez et al. 2018, arXiv:1709.07871) instead of being added before it.
    norm: Constructor of the norms, such as `functools.partial(Norm, groups=32)`.
    padding: Padding mode of the convolutions; see `Conv`.
  """

  features: int
  kernels: Sequence[Sequence[int]]
  dropout_rate: float = 0.0
  dtype: DTypeLike | None = None
  scale_shift: bool = False
  norm: MakeNorm = Norm
  padding: str = "zeros"

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b *fhw c"],
    embedding: Float[Array, "b *f d"] | None = None,
    *,
    train: bool = False,
  ) -> Float[Array, "b *fhw features"]:
    """Applies the block.

    Args:
      x: Input features.
      embedding: Embedding of the noise level, for example, one per example or per
        frame; it enters after the first convolution.
      train: Whether dropout is on.

    Returns:
      Output features, with `features` channels.
    """
    conv = functools.partial(
      Conv, self.features, padding=self.padding, dtype=self.dtype
    )
    projected = None
    if embedding is not None:
      width = self.features * (2 if self.scale_shift else 1)
      dense = nn.Dense(width, dtype=self.dtype, name="embedding")
      projected = dense(nn.silu(embedding))
      # b c or b f c, expanded to as many axes as x.
      ones = (1,) * (x.ndim - projected.ndim)
      projected = projected.reshape(*projected.shape[:-1], *ones, width)
    h = x
    for i, kernel in enumerate(self.kernels):
      last = i == len(self.kernels) - 1
      h = self.norm(dtype=self.dtype, name=f"norm_{i}")(h)
      if i == 1 and projected is not None and self.scale_shift:
        scale, shift = jnp.split(projected, 2, axis=-1)
        h = h * (1 + scale) + shift
      h = nn.silu(h)
      if last:
        h = nn.Dropout(self.dropout_rate, deterministic=not train)(h)
      init = nn.initializers.zeros if last else nn.initializers.lecun_normal()
      h = conv(kernel, kernel_init=init, name=f"conv_{i}")(h)
      if i == 0 and projected is not None and not self.scale_shift:
        h += projected
    if x.shape[-1] != self.features:
      x = conv((1,) * (x.ndim - 2), name="skip")(x)
    return x + h


def upsample_space(
  x: Float[Array, "b *fhw c"], factor: int = 2
) -> Float[Array, "b *fhw2 c"]:
  """Repeats every pixel `factor` times along height and width."""
  *lead, h, w, c = x.shape
  x = x.reshape(*lead, h, 1, w, 1, c)
  x = jnp.broadcast_to(x, (*lead, h, factor, w, factor, c))
  return x.reshape(*lead, h * factor, w * factor, c)


def interpolate_frames(
  x: Float[Array, "b f h w c"], num_frames: int
) -> Float[Array, "b f2 h w c"]:
  """Interpolates linearly over frames; a frame sits in the middle of its interval."""
  given = x.shape[1]
  if given == num_frames:
    return x
  place = (jnp.arange(num_frames) + 0.5) * (given / num_frames) - 0.5
  place = jnp.clip(place, 0, given - 1)
  before = jnp.floor(place).astype(jnp.int32)
  after = jnp.minimum(before + 1, given - 1)
  weight = (place - before).astype(x.dtype)[:, None, None, None]
  return x[:, before] * (1 - weight) + x[:, after] * weight


def doubling_lengths(num_frames: int) -> list[int]:
  """Returns lengths from 1 to `num_frames`, each at most twice the previous one.

  For 16 frames: 1, 2, 4, 8, 16; for 10 frames: 1, 2, 3, 5, 10.
  """
  n = math.ceil(math.log2(num_frames))
  return [math.ceil(num_frames / 2 ** (n - i)) for i in range(n + 1)]
