"""Pixels as they are stored, uint8, and as networks see them, in [-1, 1]."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def from_uint8(pixels: UInt8[Array, "*s"]) -> Float[Array, "*s"]:
  """Returns float32 in [-1, 1]."""
  return pixels.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(pixels: Float[Array, "*s"]) -> UInt8[Array, "*s"]:
  """Returns the nearest of 256 levels; what is outside [-1, 1] is clipped."""
  pixels = jnp.round((jnp.clip(pixels, -1.0, 1.0) + 1.0) * 127.5)
  return pixels.astype(jnp.uint8)
