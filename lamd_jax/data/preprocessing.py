"""What papers do to stored videos: which frames they take, and what squares of these.

Figures depend on it as on the split, so sources of data sets have the choice of the
paper whose figures are compared as their default, and say whose it is.
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
  """How frames of any size become squares of one size, antialiased.

  Attributes:
    resolution: Height and width in pixels.
    fit: A key of FITS: what happens to what is not square.
    box: The part of the frame that is cut out before: its first row, the row after
      its last one, and the same of columns. None leaves the frame whole.
  """

  resolution: int
  fit: str = "crop"
  box: tuple[int, int, int, int] | None = None

  def __post_init__(self):
    """Raises a `UserError` for a fit that there is not."""
    _check("fit", self.fit, FITS)

  def __call__(
    self, frames: UInt8[np.ndarray, "f h w 3"]
  ) -> UInt8[np.ndarray, "f r r 3"]:
    """The squares of frames.

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
  """Brings what is within (left, top, right, bottom), or all, to (width, height)."""
  resized = [
    # First to at least three times the size by averaging: faster, same to the eye.
    Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC, box, 3.0)
    for frame in np.ascontiguousarray(frames)
  ]
  return np.stack([np.asarray(image) for image in resized])


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Which frames of a stored video make up its clips.

  Attributes:
    kind: A key of SAMPLINGS.
    num_frames: Frames of a clip.
    frame_stride: Frames of the video from one frame of a window to the next.
  """

  kind: str
  num_frames: int
  frame_stride: int

  def __post_init__(self):
    """Raises a `UserError` for a kind that there is not, or a stride without use."""
    _check("sampling", self.kind, SAMPLINGS)
    if self.kind == "uniform" and self.frame_stride != 1:
      raise UserError(
        f"data.frame_stride={self.frame_stride} means nothing to data.sampling="
        "'uniform', where the length of the video says how far frames are apart; leave "
        "it at 1, or give data.sampling='window'"
      )

  @property
  def min_frames(self) -> int:
    """Frames that a video must have."""
    if self.kind == "uniform":
      return 1
    return (self.num_frames - 1) * self.frame_stride + 1

  def picks(self, length: int) -> tuple[int, ...]:
    """Numbers of the frames that stand for a video of `length`; () for all of them.

    A video that has too few frames repeats its last one, as in LFDM's code, and in
    MAGE's.
    """
    if self.kind == "window":
      return ()
    if length >= self.num_frames:
      return tuple(np.linspace(0, length - 1, self.num_frames, dtype=int).tolist())
    return tuple(min(number, length - 1) for number in range(self.num_frames))
