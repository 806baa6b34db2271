"""Bilinear resizing, as the networks behind the measures were given their frames.

Libraries differ in where a new pixel takes its colour from, and scores differ with
them (Parmar et al. 2022, arXiv:2104.11222). Neither rule smooths before it makes a
frame smaller. A bilinear resize is linear along each axis, so it is a product with one
small matrix for the rows and one for the columns.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

Rule = Literal["half_pixel", "tf1"]


def bilinear(
  x: Float[Array, "*lead h w c"], size: tuple[int, int], rule: Rule
) -> Float[Array, "*lead h2 w2 c"]:
  """Resizes frames, each new pixel being a mean of its four nearest neighbours.

  Args:
    x: Frames in any range, with any leading axes.
    size: Height and width to get.
    rule: Where in a row of n pixels pixel i of m lies, counted in old pixels.
      "half_pixel": at (i + 1/2) n / m - 1/2, so that the outer edges meet; PyTorch's
      `interpolate(mode="bilinear", align_corners=False, antialias=False)`.
      "tf1": at i n / m, so that the first pixels meet and the picture shifts;
      TensorFlow 1's `resize_bilinear(align_corners=False)`.
      Beyond the first and the last pixel there are these two.

  Returns:
    Frames of the size; exactly `x` where that is its own.
  """
  *_, height, width, _ = x.shape
  rows = jnp.asarray(_matrix(height, size[0], rule), x.dtype)
  columns = jnp.asarray(_matrix(width, size[1], rule), x.dtype)
  # Accelerators would otherwise round the factors to fewer bits than pixels have.
  product = jax.lax.Precision.HIGHEST
  x = jnp.einsum("mh,...hwc->...mwc", rows, x, precision=product)
  return jnp.einsum("mw,...hwc->...hmc", columns, x, precision=product)


def _matrix(given: int, wanted: int, rule: Rule) -> Float[np.ndarray, "wanted given"]:
  """What each old pixel of a row counts for in each new one."""
  place = np.arange(wanted) * given / wanted
  if rule == "half_pixel":
    place += 0.5 * given / wanted - 0.5
  # The weight of a pixel falls to 0 at the distance of one pixel.
  place = np.clip(place, 0, given - 1)
  return np.maximum(1 - np.abs(place[:, None] - np.arange(given)), 0)
