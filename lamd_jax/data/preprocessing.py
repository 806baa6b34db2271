"""Preprocessing of stored videos: which frames are used, and how they become squares.

Measured numbers depend on it as much as on the split. The default of each data set is
therefore the choice of the paper it is compared with, and its file names that paper.
"""

import dataclasses

from jaxtyping import UInt8
import numpy as np
from PIL import Image

from lamd_jax.types import UserError

FITS = {
  "crop": "the centre square, as large as fits",
  "stretch": "all of it, width and height each scaled to the side",
  "pad": "all of it, between black bars",
}
SAMPLINGS = {
  "uniform": "a clip for each video, frames evenly spaced from its first to its last",
  "window": "clips of data.frame_stride that may begin anywhere",
}


def _check(key: str, value: str, known: dict[str, str]) -> None:
  if value not in known:
    choices = "; ".join(f"{name!r}: {what}" for name, what in known.items())
    raise UserError(f"data.{key} is {value!r}; expected one of {choices}")


@dataclasses.dataclass(frozen=True)
class Square:
  """A conversion of frames of any size into squares of one size, antialiased.

  Attributes:
    resolution: Height and width in pixels.
    fit: A key of FITS: how frames that are not square are treated.
    box: The part of the frame that is cut out first: its first row, the row after its
      last one, and the same for columns. None keeps the whole frame.
  """

  resolution: int
  fit: str = "crop"
  box: tuple[int, int, int, int] | None = None

  def __post_init__(self):
    """Raises a `UserError` for an unknown fit."""
    _check("fit", self.fit, FITS)

  def __call__(
    self, frames: UInt8[np.ndarray, "f h w 3"]
  ) -> UInt8[np.ndarray, "f r r 3"]:
    """Converts frames into squares.

    Raises:
      UserError: The box lies outside the frames.
    """
    if self.box is not None:
      top, bottom, left, right = self.box
      height, width = frames.shape[1:3]
      if bottom > height or right > width:
        raise UserError(
          f"frames of {width}x{height}; expected {right}x{bottom} or more, of which "
          f"columns {left} to {right - 1} and rows {top} to {bottom - 1} are taken"
        )
      frames = frames[:, top:bottom, left:right]
    height, width = frames.shape[1:3]
    side = self.resolution
    if height == width == side:
      return frames
    if self.fit == "stretch":
      return _resize(frames, (side, side))
    if self.fit == "crop":
      short = min(height, width)
      left, top = (width - short) / 2, (height - short) / 2
      return _resize(frames, (side, side), (left, top, left + short, top + short))
    long = max(height, width)
    inner = max(width * side // long, 1), max(height * side // long, 1)
    left, top = (side - inner[0]) // 2, (side - inner[1]) // 2
    squares = np.zeros((len(frames), side, side, 3), np.uint8)
    squares[:, top : top + inner[1], left : left + inner[0]] = _resize(frames, inner)
    return squares


def _resize(
  frames: UInt8[np.ndarray, "f h w 3"],
  size: tuple[int, int],
  box: tuple[float, float, float, float] | None = None,
) -> UInt8[np.ndarray, "f r s 3"]:
  """Resizes the box (left, top, right, bottom), or all, to (width, height)."""
  resized = [
    # Averages down to three times the size first: faster, and it looks the same.
    Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC, box, 3.0)
    for frame in np.ascontiguousarray(frames)
  ]
  return np.stack([np.asarray(image) for image in resized])


@dataclasses.dataclass(frozen=True)
class Sampling:
  """The choice of frames of a stored video that make up its clips.

  Attributes:
    kind: A key of SAMPLINGS.
    num_frames: Number of frames of a clip.
    frame_stride: Distance in the video between neighbouring frames of a window.
  """

  kind: str
  num_frames: int
  frame_stride: int

  def __post_init__(self):
    """Raises a `UserError` for an unknown kind, or a stride that has no effect."""
    _check("sampling", self.kind, SAMPLINGS)
    if self.kind == "uniform" and self.frame_stride != 1:
      raise UserError(
        f"data.frame_stride={self.frame_stride} means nothing to data.sampling="
        "'uniform', where the length of the video says how far frames are apart; leave "
        "it at 1, or give data.sampling='window'"
      )

  @property
  def min_frames(self) -> int:
    """Number of frames that a video must have."""
    if self.kind == "uniform":
      return 1
    return (self.num_frames - 1) * self.frame_stride + 1

  def picks(self, length: int) -> tuple[int, ...]:
    """Returns the frames that represent a video of `length`; () for all of them.

    A video with too few frames repeats its last one, as in the code of LFDM and MAGE.
    """
    if self.kind == "window":
      return ()
    if length >= self.num_frames:
      return tuple(np.linspace(0, length - 1, self.num_frames, dtype=int).tolist())
    return tuple(min(number, length - 1) for number in range(self.num_frames))
