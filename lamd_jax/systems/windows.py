"""Videos longer than the model's clips, in windows that share frames.

A model of one window can extend, interpolate and upsample a video of any length if it
can be told which frames of the window are known (Ho et al. 2022, arXiv:2204.03458,
section 3.1). Whatever the task, a frame is known or not, and it may be known in a low
resolution. Windows are filled in order; frames filled by one are known to the next.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Bool, Float
import numpy as np

from lamd_jax.types import PRNGKey, UserError


@runtime_checkable
class Keep(Protocol):
  """Finished parts by number, in memory or on disk; a dict is one."""

  def __contains__(self, number: object, /) -> bool: ...

  def __getitem__(self, number: int, /) -> np.ndarray: ...

  def __setitem__(self, number: int, part: np.ndarray, /) -> None: ...


class Window(NamedTuple):
  """Known frames of one window, in full and in low resolution.

  Attributes:
    video: Frames in [-1, 1]; arbitrary where unknown.
    is_known: True for known frames.
    low: Frames in a lower resolution, in [-1, 1]; arbitrary where there is none. None
      if no frame has one.
    has_low: True for frames with a low resolution.
  """

  video: Float[np.ndarray, "b f h w c"]
  is_known: Bool[np.ndarray, " f"]
  low: Float[np.ndarray, "b f h2 w2 c"] | None = None
  has_low: Bool[np.ndarray, " f"] | None = None


# From a key and what is known to all frames of the window; the known ones stay.
Sample = Callable[[PRNGKey, Window], Float[np.ndarray, "b f h w c"]]


def starts(num_frames: int, window: int, overlap: int) -> list[int]:
  """First frames of windows that cover a video; the last one ends with it.

  Each begins `overlap` frames before the one before it ends; the last one more, if
  frames do not come out even.

  Raises:
    UserError: A window is longer than the video, or all of it overlaps.
  """
  if not 0 <= overlap < window:
    raise UserError(
      f"windows of {window} frames that share {overlap}: expected 0 to {window - 1}"
    )
  if num_frames < window:
    raise UserError(
      f"a video of {num_frames} frames is shorter than the model's window of {window}"
    )
  last = num_frames - window
  return [*range(0, last, window - overlap), last]


def fill(
  sample: Sample,
  key: PRNGKey,
  whole: Window,
  *,
  window: int,
  overlap: int,
  keep: Keep | None = None,
) -> Iterator[tuple[int, Float[np.ndarray, "b f h w c"]]]:
  """Fills the unknown frames of a video, window by window.

  Args:
    sample: Draws one window.
    key: Each window draws from a key of its own.
    whole: Known frames of the video. Modified: filled frames become known.
    window: Frames of a window.
    overlap: Frames that neighbouring windows share.
    keep: Sampled windows by number: those in it are not sampled again, new ones are
      added.

  Returns:
    An iterator over the first frame of each window and the video so far. A window whose
    frames are all known is not sampled.
  """
  keep = {} if keep is None else keep
  for number, first in enumerate(starts(len(whole.is_known), window, overlap)):
    span = slice(first, first + window)
    if not whole.is_known[span].all():
      part = Window(
        whole.video[:, span].copy(),  # The whole changes while this is in use.
        whole.is_known[span].copy(),
        None if whole.low is None else whole.low[:, span],
        None if whole.has_low is None else whole.has_low[span],
      )
      if number not in keep:
        keep[number] = np.asarray(sample(jax.random.fold_in(key, number), part))
      found = keep[number]
      # What was given is kept to the last bit.
      known = part.is_known[None, :, None, None, None]
      whole.video[:, span] = np.where(known, part.video, found)
      whole.is_known[span] = True
    yield first, whole.video


def extended(video: Float[np.ndarray, "b f h w c"], num_frames: int) -> Window:
  """A video that is known up to its end, and goes on to `num_frames` frames.

  Raises:
    UserError: It is longer than that already.
  """
  b, given, *size = video.shape
  if given >= num_frames:
    raise UserError(
      f"a video of {given} frames cannot be extended to {num_frames}; ask for more"
    )
  whole = np.zeros((b, num_frames, *size), np.float32)
  whole[:, :given] = video
  return Window(whole, np.arange(num_frames) < given)


def spread(video: Float[np.ndarray, "b f h w c"], factor: int) -> Window:
  """A video with `factor` - 1 unknown frames between each two.

  Raises:
    UserError: There are not two frames, or nothing would come between.
  """
  b, given, *size = video.shape
  if given < 2 or factor < 2:
    raise UserError(
      f"{factor - 1} frames between each two of {given}: expected at least 1 and 2"
    )
  num_frames = (given - 1) * factor + 1
  whole = np.zeros((b, num_frames, *size), np.float32)
  whole[:, ::factor] = video
  return Window(whole, np.arange(num_frames) % factor == 0)


def enlarged(low: Float[np.ndarray, "b f h w c"], size: int, factor: int = 1) -> Window:
  """A video of which a low resolution is known, of each frame or of every few.

  Args:
    low: Frames in the low resolution.
    size: Height and width to get.
    factor: With 4 the given frames are every fourth of the result (the cascade of
      section 4.2), with 1 all.

  Raises:
    UserError: The size is no multiple of the low one.
  """
  b, given, h, w, c = low.shape
  if h != w or size % h or size == h:
    raise UserError(
      f"frames of {h}x{w} cannot be upsampled to {size}x{size}: expected squares whose"
      f" side divides {size}"
    )
  num_frames = (given - 1) * factor + 1
  spaced = np.zeros((b, num_frames, h, w, c), np.float32)
  spaced[:, ::factor] = low
  none_known = np.zeros(num_frames, bool)
  video = np.zeros((b, num_frames, size, size, c), np.float32)
  return Window(video, none_known, spaced, np.arange(num_frames) % factor == 0)


def interpolating_window(max_frames: int, factor: int) -> int:
  """The longest window that begins and ends with a given frame of `spread`."""
  return (max_frames - 1) // factor * factor + 1
