"""Reading pictures."""

import contextlib
import io
import os
import warnings

from jaxtyping import UInt8
import numpy as np
from PIL import Image, ImageOps

from lamd_jax.data.media import display, formats
from lamd_jax.data.regular_files import open_regular
from lamd_jax.types import UserError, reason

# The limit on pixels here is lower than the one that Pillow warns of.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_image(path: str | os.PathLike[str] | io.BytesIO) -> UInt8[np.ndarray, "h w 3"]:
  """Reads a picture of any size as it is meant to be seen.

  Applies the EXIF orientation, lays transparency over white, reduces 16 bits to 8, and
  converts grey to RGB; an animation gives its first frame.

  Args:
    path: A file in one of `formats.PICTURES`, by name or in memory.

  Returns:
    RGB pixels.

  Raises:
    UserError: The file does not exist, is not a picture, or is too large.
  """
  if isinstance(path, io.BytesIO):
    return _read(path, "an image")
  name = repr(os.fspath(path))
  try:
    with open_regular(path) as file:
      return _read(file, name)
  except (FileNotFoundError, IsADirectoryError) as error:
    raise UserError(f"no such picture: {name}") from error
  except OSError as error:
    raise UserError(f"{name} cannot be read ({reason(error)})") from error


def _read(file, name: str) -> UInt8[np.ndarray, "h w 3"]:
  try:
    with Image.open(file, formats=formats.PICTURES) as image:
      width, height = image.size
      if width * height > formats.MAX_PIXELS:
        raise UserError(
          f"{name} has {width} x {height} pixels; at most {formats.MAX_PIXELS} are "
          "read: make it smaller"
        )
      image.load()
      with contextlib.suppress(Exception):  # A damaged note on how it was held.
        ImageOps.exif_transpose(image, in_place=True)
      return np.asarray(_to_rgb(image))
  except UserError:
    raise
  except Image.UnidentifiedImageError as error:
    raise UserError(
      f"{name} cannot be read as a picture; expected one of "
      f"{', '.join(formats.PICTURES)}"
    ) from error
  except Exception as error:  # Damage shows as any error.
    raise UserError(f"{name} cannot be read as a picture ({reason(error)})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode.startswith("I") or image.mode == "F":
    values = np.nan_to_num(np.asarray(image, np.float64))
    top = float(values.max(initial=0.0))
    # Floats are fractions unless one is above 1, by more than a rounding error;
    # integers have 8 or 16 bits.
    scale = 255.0 if image.mode == "F" and top <= 1.001 else 1.0
    if image.mode.startswith("I;16") or top > 255.0:
      scale = 255.0 / max(65535.0, top)
    return Image.fromarray(
      np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
    ).convert("RGB")
  if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
    return display.over_white(image)
  return image.convert("RGB")
