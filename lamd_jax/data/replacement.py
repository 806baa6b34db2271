"""Replacements for windows that cannot be read."""

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
  """Reads a window, or a window of the next video that can be read.

  The replacement depends on the arguments and the files alone, not on what was found
  broken before, so a batch is the same in a first run and after a resume. Videos with
  the same annotation are tried first, so that the label or caption of the requested
  video is true of the replacement too.

  Args:
    read_fn: (index, start) -> window; raises UserError where it cannot be read.
    num_frames_fn: Maps an index to the number of frames of that video.
    skip_fn: Called with the index of each video that gave no window, and the reason.
    num_videos: Number of videos.
    index: The requested video.
    start: The first requested frame.
    span: Frames from the first to the last of the window, both included.
    annotation_fn: Maps an index to the annotation of that video.
    max_tries: Number of videos to try.

  Returns:
    The window.

  Raises:
    UserError: None of the tried videos has a readable window; names the last reason.
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
    except UserError as error:  # A ValueError is the caller's mistake and propagates.
      skip_fn(candidate, error)
      failure = error
  raise UserError(
    f"no window of {span} frames can be read from {min(num_videos, max_tries)} "
    f"videos in a row; the last reason: {failure}"
  )


def _candidates(
  annotation_fn: Callable[[int], Any], num_videos: int, index: int
) -> Iterator[int]:
  """Yields the video itself, the next ones with its annotation, then the others."""
  if not num_videos:
    return
  yield index
  own = annotation_fn(index)
  others = ((index + offset) % num_videos for offset in range(1, num_videos))
  yield from sorted(others, key=lambda other: annotation_fn(other) != own)
