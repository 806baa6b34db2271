"""Bilinear resizing by the rules of the libraries behind the measures.

Libraries place the new pixels differently, and scores change with them (Parmar et al.
2022, arXiv:2104.11222). Neither rule here smooths before downscaling. Bilinear resizing
is linear along each axis, so it is a product with one small matrix for rows and one for
columns.
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
  """Resizes frames; each new pixel is a weighted mean of its four nearest neighbours.

  Args:
    x: Frames in any range, with any leading axes.
    size: New height and width.
    rule: Position of new pixel i, if n pixels become m, in units of old pixels.
      "half_pixel": (i + 1/2) n / m - 1/2, which aligns the outer edges; PyTorch's
      `interpolate(mode="bilinear", align_corners=False, antialias=False)`.
      "tf1": i n / m, which aligns the first pixels and shifts the picture; TensorFlow
      1's `resize_bilinear(align_corners=False)`.
      Positions beyond the first and last pixel are clamped.

  Returns:
    Resized frames; exactly `x` if the size does not change.
  """
  *_, height, width, _ = x.shape
  rows = jnp.asarray(_matrix(height, size[0], rule), x.dtype)
  columns = jnp.asarray(_matrix(width, size[1], rule), x.dtype)
  # Accelerators multiply by default with fewer bits than pixels have.
  product = jax.lax.Precision.HIGHEST
  x = jnp.einsum("mh,...hwc->...mwc", rows, x, precision=product)
  return jnp.einsum("mw,...hwc->...hmc", columns, x, precision=product)


def _matrix(given: int, wanted: int, rule: Rule) -> Float[np.ndarray, "wanted given"]:
  """Returns the weight of each old pixel of a row in each new one."""
  place = np.arange(wanted) * given / wanted
  if rule == "half_pixel":
    place += 0.5 * given / wanted - 0.5
  # The weight of a pixel falls to 0 at a distance of one pixel.
  place = np.clip(place, 0, given - 1)
  return np.maximum(1 - np.abs(place[:, None] - np.arange(given)), 0)
