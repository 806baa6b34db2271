"""A folder of the user's own videos: files, and folders of frames.

A hash of the name decides which videos are held out, so adding videos does not change
it. `divide` treats folders with few videos differently.
"""

from collections.abc import Iterator
import hashlib
import math
import os
import pathlib
import re

from absl import logging

from lamd_jax.data import video_files
from lamd_jax.data.preprocessing import Square
from lamd_jax.schema import Bytes, FilePath, Frames, Side
from lamd_jax.types import UserError

VIDEO_ENDINGS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".gif")
FRAME_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")

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

  Broken files, files that are no video and videos that are too short are left out;
  each is named once in the log, and in `skipped` of both splits. At most one frame of
  each file is decoded.

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
  files, frames = _endings(VIDEO_ENDINGS), _endings(FRAME_ENDINGS)
  expected = f"with videos ({files}) or folders of frames ({frames})"
  root = video_files.open_folder("data.path", path, expected)
  span = (num_frames - 1) * frame_stride + 1
  resolved = root.resolve()
  videos, skipped = video_files.look_at(resolved, sorted(walk(resolved)), span)
  if not videos:
    found = f"; left out: {skipped[0]}" if skipped else ""
    more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
    raise UserError(
      f"no video of {span} frames or more in {str(path)!r}; looked for "
      f"{files} and for folders of {frames}, in all subfolders{found}{more}"
    )
  return video_files.VideoFiles(
    root,
    divide(videos, span, split),
    fps=video_files.median_fps(videos),
    skipped=skipped,
    square=Square(resolution),
    cache_bytes=cache_bytes,
  )


def _endings(endings: tuple[str, ...]) -> str:
  return ", ".join(ending[1:] for ending in endings)


def _natural(name: str) -> list[tuple[int, int | str]]:
  """Returns a sort key that puts frame_2 before frame_10."""
  parts = re.split(r"(\d+)", name)
  return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def walk(
  root: pathlib.Path, more_endings: tuple[str, ...] = ()
) -> Iterator[tuple[str, tuple[str, ...]]]:
  """Yields (relative path, frames) of all videos; the frames of a file are ().

  Links are followed as long as they stay inside the folder; others yield (relative
  path, OUTSIDE). `more_endings` are further file endings of videos.
  """
  seen: set[pathlib.Path] = set()
  for folder, folders, files in os.walk(root, followlinks=True):
    here = pathlib.Path(folder)
    relative = here.relative_to(root)
    real = here.resolve()
    if real in seen:  # A link to a folder that is visited anyway, or a loop.
      folders.clear()
      continue
    seen.add(real)
    if not real.is_relative_to(root):
      folders.clear()
      yield relative.as_posix(), video_files.OUTSIDE
      continue
    folders[:] = sorted(name for name in folders if not name.startswith("."))
    frames: list[str] = []
    for name in sorted(files, key=_natural):
      ending = pathlib.Path(name).suffix.lower()
      is_file = ending in VIDEO_ENDINGS + more_endings
      if name.startswith(".") or not (is_file or ending in FRAME_ENDINGS):
        continue
      file = here / name
      if file.is_symlink() and not file.resolve().is_relative_to(root):
        yield (relative / name).as_posix(), video_files.OUTSIDE
      elif is_file:
        yield (relative / name).as_posix(), ()
      else:
        frames.append(name)
    if frames:
      yield relative.as_posix(), tuple(frames)


def _hash(name: str) -> float:
  """Returns a number in [0, 1) that depends on the name alone."""
  return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


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
