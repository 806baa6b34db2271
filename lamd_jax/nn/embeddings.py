"""Embeddings of numbers and positions as vectors."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def sinusoidal(
  x: Float[Array, "*b"], features: int, max_period: float = 10_000.0
) -> Float[Array, "*b d"]:
  """Returns cosines and sines of x at frequencies from 1 down to 1 / max_period.

  Vaswani et al. 2017 (arXiv:1706.03762), section 3.5, in the order of LDM: all
  cosines, then all sines.

  Args:
    x: Numbers, for example diffusion steps in [0, 1000).
    features: Number of features, even.
    max_period: Period of the slowest wave, divided by 2 pi.
  """
  half = features // 2
  frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half) / half)
  angles = x.astype(jnp.float32)[..., None] * frequencies
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def logsnr_sinusoidal(
  logsnr: Float[Array, "*b"], features: int
) -> Float[Array, "*b d"]:
  """Embeds a log-SNR in nats as sinusoids of its angle, from 0 (data) to 1000 (noise).

  The angle atan(sigma / alpha) is the time of a cosine schedule, so noise levels drawn
  by a cosine schedule are embedded at equal distances. It is finite for any log-SNR.
  """
  angle = jnp.atan(jnp.exp(-0.5 * logsnr.astype(jnp.float32)))
  return sinusoidal(1000.0 * angle / (0.5 * math.pi), features)


def grid_positions(height: int, width: int, features: int) -> Float[Array, "n d"]:
  """Encodes positions on a grid, row by row: half the features for rows, then columns.

  The fixed 2D variant of Dosovitskiy et al. 2021, as MAE uses it (arXiv:2111.06377).
  `features` must be divisible by 4.
  """
  rows = sinusoidal(jnp.arange(height, dtype=jnp.float32), features // 2)
  columns = sinusoidal(jnp.arange(width, dtype=jnp.float32), features // 2)
  rows = jnp.broadcast_to(rows[:, None], (height, width, features // 2))
  columns = jnp.broadcast_to(columns[None], (height, width, features // 2))
  return jnp.concatenate([rows, columns], axis=-1).reshape(height * width, features)
