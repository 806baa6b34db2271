"""What takes the place of a window that cannot be read."""

from collections.abc import Callable, Iterator
import itertools
from typing import Any

from jaxtyping import UInt8
import numpy as np

from lamd_jax.types import UserError

Window = UInt8[np.ndarray, "f h w 3"]


def read_or_replace(
  read_fn: Callable[[int, int], Window],
  num_frames_fn: Callable[[int], int],
  skip_fn: Callable[[int, UserError], None],
  *,
  num_videos: int,
  index: int,
  start: int,
  span: int,
  annotation_fn: Callable[[int], Any] = lambda index: None,
  max_tries: int = 100,
) -> Window:
  """Reads a window, or one of the next video from which it can be read.

  The replacement depends on the arguments and the files alone, not on what was
  found broken before, so a batch is the same in a first run and after a resume.
  Videos with the same annotation come first: whoever looks up the label or the
  caption of the video asked for gets one that is true of the replacement.

  Args:
    read_fn: (index, start) -> window; raises UserError when it cannot be read.
    num_frames_fn: Index -> frames of that video.
    skip_fn: Told the index of each video that gave no window, and why.
    num_videos: Number of videos.
    index: The video asked for.
    start: The first frame asked for.
    span: Frames from the first to the last of the window, both included.
    annotation_fn: Index -> what is known of that video.
    max_tries: Videos after which to give up.

  Returns:
    The window.

  Raises:
    UserError: when no video tried gives one; the last reason.
  """
  failure = UserError("there are no videos")
  candidates = _candidates(annotation_fn, num_videos, index)
  for candidate in itertools.islice(candidates, max_tries):
    room = num_frames_fn(candidate) - span + 1
    try:
      if room < 1:
        raise UserError(f"too short, {room + span - 1} frames of the {span} needed")
      if candidate == index and not 0 <= start < room:
        raise ValueError(f"frames {start} to {start + span - 1} of {room + span - 1}")
      return read_fn(candidate, start % room)
    except UserError as error:  # A ValueError of the caller's own goes on.
      skip_fn(candidate, error)
      failure = error
  raise UserError(
    f"no window of {span} frames can be read from {min(num_videos, max_tries)} "
    f"videos in a row; the last reason: {failure}"
  )


def _candidates(
  annotation_fn: Callable[[int], Any], num_videos: int, index: int
) -> Iterator[int]:
  """The video itself, the next ones with its annotation, and then the others."""
  if not num_videos:
    return
  yield index
  own = annotation_fn(index)
  others = ((index + offset) % num_videos for offset in range(1, num_videos))
  yield from sorted(others, key=lambda other: annotation_fn(other) != own)
