"""Frames and pictures as a player shows them: opaque, upright, of square pixels."""

from fractions import Fraction

import av
from jaxtyping import UInt8
import numpy as np
from PIL import Image


def over_white(image: Image.Image) -> Image.Image:
  """Lays a picture with transparency over white."""
  image = image.convert("RGBA")
  white = Image.new("RGBA", image.size, "white")
  return Image.alpha_composite(white, image).convert("RGB")


def shown_size(frame: av.VideoFrame, aspect: Fraction) -> tuple[int, int]:
  """Returns width and height of a frame as it is shown.

  Args:
    frame: The frame as it is stored.
    aspect: Width of its pixels divided by their height. As in most players, the height
      is kept, and the width adapted.
  """
  width, height = max(round(frame.width * aspect), 1), frame.height
  return (height, width) if _turn(frame)[0] else (width, height)


def shown_pixels(frame: av.VideoFrame, aspect: Fraction) -> UInt8[np.ndarray, "h w 3"]:
  """Returns the pixels of a frame as it is shown; see `shown_size`."""
  layout = frame.format
  if layout.has_palette or any(part.is_alpha for part in layout.components):
    image = Image.fromarray(frame.to_ndarray(format="rgba"))
    pixels = np.asarray(over_white(image))
  else:
    pixels = frame.to_ndarray(format="rgb24")
  size = max(round(frame.width * aspect), 1), frame.height
  if size != (frame.width, frame.height):
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
  is_swapped, flips_x, flips_y = _turn(frame)
  if is_swapped:
    pixels = pixels.swapaxes(0, 1)
  return pixels[:: -1 if flips_y else 1, :: -1 if flips_x else 1]


def _turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
  """Returns whether axes are swapped, and then left and right, top and bottom.

  The display matrix [[a, b, u], [c, d, v], [x, y, w]] moves a point (p, q) of the
  stored frame, q downwards, to (a p + c q + x, b p + d q + y): ISO/IEC 14496-12, 6.2.2.
  Of other angles, the nearest of these eight positions is taken.
  """
  data = frame.side_data.get("DISPLAYMATRIX")
  if data is None:
    return False, False, False
  a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
  if abs(a) + abs(d) >= abs(b) + abs(c):
    return False, a < 0, d < 0
  return True, c < 0, b < 0
