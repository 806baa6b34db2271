"""A folder of the user's own videos: files, and folders of frames.

A hash of the name decides which videos are held out, so adding videos does not change
it. `divide` treats folders with few videos differently.
"""

import hashlib
import math
import os

from absl import logging

from lamd_jax.data import listing, video_files
from lamd_jax.data.preprocessing import Square
from lamd_jax.schema import Bytes, FilePath, Frames, Side
from lamd_jax.types import UserError

# Some of the endings that `listing` knows.
_FILES = "mp4, mov, avi, mkv, webm, gif, ..."
_FRAMES = "png, jpg, webp, ..."
_MIN_VIDEOS_TO_SPLIT = 10
_EVAL_FRACTION = 0.1


def open_video_folder(
  split: str,
  *,
  path: FilePath,
  num_frames: Frames,
  frame_stride: Frames = 1,
  resolution: Side = 64,
  cache_bytes: Bytes = 2**29,
) -> video_files.VideoFiles:
  """Lists and probes all videos in a folder and its subfolders.

  What `listing` passes over, and videos that are broken or too short, are left out;
  each is named once in the log, and in `skipped` of both splits. Most files are not
  decoded beyond their first frame.

  Args:
    split: "train" or "eval".
    path: The folder.
    num_frames: Number of frames of a window.
    frame_stride: Distance in the video between neighbouring frames of a window.
    resolution: Height and width of the squares in pixels.
    cache_bytes: Memory for decoded and resized frames, which makes later epochs over a
      small folder free.

  Returns:
    The source; its annotations are empty, as nothing is known of users' videos.
  """
  expected = f"with videos ({_FILES}) or folders of frames ({_FRAMES})"
  root = video_files.open_folder("data.path", path, expected)
  span = (num_frames - 1) * frame_stride + 1
  resolved = root.resolve()
  found, passed_over = listing.list_videos(resolved)
  videos, skipped = video_files.look_at(resolved, found, span, None, passed_over)
  if not videos:
    named = f"; left out: {skipped[0]}" if skipped else ""
    more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
    raise UserError(
      f"no video of {span} frames or more in {str(path)!r}; looked for "
      f"{_FILES} and for folders of {_FRAMES}, in all subfolders{named}{more}"
    )
  return video_files.VideoFiles(
    root,
    divide(videos, span, split),
    fps=video_files.median_fps(videos),
    skipped=skipped,
    square=Square(resolution),
    cache_bytes=cache_bytes,
  )


def _hash(name: str) -> float:
  """Returns a number in [0, 1) that depends on the name alone."""
  return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") / 2**64


def divide(
  videos: list[video_files.Video], span: int, split: str
) -> list[video_files.Video]:
  """Returns the videos, or the parts of videos, of a split.

  From 10 videos on, whole videos are held out: about one in ten, those whose names have
  the smallest hashes. With fewer, the end of each video is held out, a fifth of it but
  at least one window, where that leaves a window for training. If no video is that
  long, evaluation uses the training videos, with a warning.
  """
  is_eval = split == "eval"
  if len(videos) >= _MIN_VIDEOS_TO_SPLIT:
    ranked = sorted(videos, key=lambda video: _hash(video.name))
    # A threshold, so that a new video moves no other one; but never none or all.
    count = sum(_hash(video.name) < _EVAL_FRACTION for video in videos)
    count = min(max(count, 1), len(videos) - 1)
    held_out = {video.name for video in ranked[:count]}
    return [video for video in videos if (video.name in held_out) == is_eval]

  ends = {
    video.name: max(span, math.ceil(video.num_frames / 5))
    for video in videos
    if video.num_frames >= 2 * span
  }
  if not ends:
    if is_eval:
      logging.warning(
        "%d videos, none with two windows of %d frames: evaluation uses the videos "
        "that training sees, so its figures say nothing about new ones",
        len(videos),
        span,
      )
    return videos
  if is_eval:
    logging.warning(
      "%d videos are too few to hold some out: evaluation uses the last part of %d "
      "of them, which training does not see",
      len(videos),
      len(ends),
    )
    return [
      video._replace(
        first=video.num_frames - ends[video.name], num_frames=ends[video.name]
      )
      for video in videos
      if video.name in ends
    ]
  return [
    video._replace(num_frames=video.num_frames - ends.get(video.name, 0))
    for video in videos
  ]
