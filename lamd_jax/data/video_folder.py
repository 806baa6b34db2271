"""A folder of the user's own videos: files, and folders of frames.

Which videos are held out is decided by a hash of their names, so it does not
change when others are added. A folder with few videos is divided otherwise: see
`_divide`.
"""

from collections.abc import Iterator
from concurrent import futures
import functools
import hashlib
import math
import os
import pathlib
import re
import threading
from typing import NamedTuple

from absl import logging
from jaxtyping import UInt8
import numpy as np

from lamd_jax.data import fallback, video_io
from lamd_jax.types import UserError

VIDEO_ENDINGS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".gif")
FRAME_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
FRAMES_FPS = 25.0
"""Taken for folders of frames, which carry no rate; in frames per second."""

_MIN_VIDEOS_TO_SPLIT = 10
_EVAL_FRACTION = 0.1


class _Video(NamedTuple):
  """A stretch of a video.

  Attributes:
    name: Path relative to the folder, with forward slashes.
    first: Number of the stretch's first frame.
    num_frames: Length of the stretch.
    fps: Frames per second.
    frames: Files of a folder of frames, in order; empty for a video file.
  """

  name: str
  first: int
  num_frames: int
  fps: float
  frames: tuple[str, ...] = ()


class VideoFolderSource:
  """All videos in a folder and its subfolders.

  Broken files, files that are no video and videos too short are left out; each is
  named once, and kept in `skipped`.

  Attributes:
    fps: Frames per second; the median where videos differ.
    skipped: A line for everything left out, "name: reason", of either split.
  """

  def __init__(
    self,
    split: str,
    *,
    path: str,
    num_frames: int,
    frame_stride: int = 1,
    resolution: int = 64,
    cache_bytes: int = 2**29,
  ):
    """Lists and probes the folder; decodes at most one frame of each file.

    Args:
      split: "train" or "eval".
      path: The folder.
      num_frames: Frames of a window.
      frame_stride: Frames of the video from one frame of a window to the next.
      resolution: Height and width in pixels to which frames are brought.
      cache_bytes: Memory for frames already decoded and resized, so that later
        epochs over a small folder cost nothing.
    """
    if not path:
      raise UserError(
        "data.path is not set; give the folder of your clips: --config.data.path=FOLDER"
      )
    self._root = pathlib.Path(path).expanduser()
    if not self._root.is_dir():
      what = "is a file" if self._root.exists() else "does not exist"
      raise UserError(
        f"data.path={str(path)!r} {what}; expected a folder with videos "
        f"({_endings(VIDEO_ENDINGS)}) or folders of frames ({_endings(FRAME_ENDINGS)})"
      )
    self._resolution = resolution
    self._cache: dict[tuple[str, int], UInt8[np.ndarray, "h w 3"]] = {}
    self._room = cache_bytes
    self._lock = threading.Lock()
    self._span = (num_frames - 1) * frame_stride + 1
    videos, skipped = _scan(self._root.resolve(), self._span)
    self.skipped = list(skipped)
    if not videos:
      found = f"; left out: {skipped[0]}" if skipped else ""
      more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
      raise UserError(
        f"no video of {self._span} frames or more in {str(path)!r}; looked for "
        f"{_endings(VIDEO_ENDINGS)} and for folders of {_endings(FRAME_ENDINGS)}, "
        f"in all subfolders{found}{more}"
      )
    self._videos = _divide(videos, self._span, split)
    self.fps = float(np.median([video.fps for video in videos]))

  def __len__(self) -> int:
    """Number of videos of this split."""
    return len(self._videos)

  def num_frames(self, index: int) -> int:
    """Frames of video `index` that belong to this split."""
    return self._videos[index].num_frames

  def read(
    self, index: int, start: int, num_frames: int, stride: int
  ) -> UInt8[np.ndarray, "f h w 3"]:
    """Frames start, start + stride, ... of video `index`, resized and cropped.

    A window that cannot be decoded is replaced by one of the next video that can;
    which one depends only on the arguments, so training stays reproducible.
    """
    span = (num_frames - 1) * stride + 1
    return fallback.read_or_replace(
      lambda i, first: self._read(self._videos[i], range(first, first + span, stride)),
      self.num_frames,
      self._skip,
      num_videos=len(self),
      index=index,
      start=start,
      span=span,
    )

  def _read(self, video: _Video, numbers: range) -> UInt8[np.ndarray, "f h w 3"]:
    names = [(video.name, number) for number in numbers]
    window = [self._cache.get(name) for name in names]
    if any(frame is None for frame in window):
      window = self._decode(video, numbers)
      with self._lock:
        for name, frame in zip(names, window, strict=True):
          if self._room >= frame.nbytes and name not in self._cache:
            self._cache[name] = frame.copy()  # A view would keep the whole window.
            self._room -= frame.nbytes
    return np.stack(window)  # pyright: ignore[reportCallIssue, reportArgumentType]

  def _decode(
    self, video: _Video, numbers: range
  ) -> UInt8[np.ndarray, "f h w 3"] | list[UInt8[np.ndarray, "h w 3"]]:
    path = self._root / video.name
    if not video.frames:
      first = video.first + numbers.start
      return video_io.read_window(
        path, first, len(numbers), numbers.step, self._resolution
      )
    images = (
      video_io.read_image(path / video.frames[video.first + number])
      for number in numbers
    )
    return [video_io.resize_crop(image[None], self._resolution)[0] for image in images]

  def _skip(self, index: int, error: UserError) -> None:
    name = self._videos[index].name
    reason = str(error).removeprefix(f"{pathlib.PurePath(name).name}: ")
    with self._lock:
      if any(line.startswith(f"{name}: ") for line in self.skipped):
        return
      self.skipped.append(f"{name}: breaks while it is read ({reason})")
    logging.warning("another clip takes the place of %s", self.skipped[-1])

  def annotation(self, index: int) -> dict[str, int | str]:
    """Nothing is known of users' videos."""
    del index
    return {}


def _endings(endings: tuple[str, ...]) -> str:
  return ", ".join(ending[1:] for ending in endings)


def _natural(name: str) -> list[tuple[int, int | str]]:
  """Sorts frame_2 before frame_10."""
  parts = re.split(r"(\d+)", name)
  return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def walk(
  root: pathlib.Path, more_endings: tuple[str, ...] = ()
) -> Iterator[tuple[str, tuple[str, ...]]]:
  """Yields (relative path, frames) of all videos; the frames of a file are ().

  Links are followed as long as they stay inside the folder; others yield
  (relative path, ("..",)). `more_endings` are those of other files with videos.
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
      yield relative.as_posix(), ("..",)
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
        yield (relative / name).as_posix(), ("..",)
      elif is_file:
        yield (relative / name).as_posix(), ()
      else:
        frames.append(name)
    if frames:
      yield relative.as_posix(), tuple(frames)


def _scan(root: pathlib.Path, span: int) -> tuple[list[_Video], list[str]]:
  """All videos with at least `span` frames, in order, and what was left out."""
  found = sorted(walk(root))
  # A file that was changed since is another file.
  stamps = tuple(
    0 if frames else (root / name).stat().st_mtime_ns
    for name, frames in found
    if (root / name).exists()
  )
  return _probe_all(root, tuple(found), stamps, span)


@functools.lru_cache(maxsize=8)
def _probe_all(
  root: pathlib.Path,
  found: tuple[tuple[str, tuple[str, ...]], ...],
  stamps: tuple[int, ...],
  span: int,
) -> tuple[list[_Video], list[str]]:
  """Kept, so that the second split neither probes again nor warns again."""
  del stamps

  def look(item: tuple[str, tuple[str, ...]]) -> _Video | str:
    name, frames = item
    if frames == ("..",):
      return f"{name}: a link that leads out of the folder"
    try:
      if frames:
        video_io.read_image(root / name / frames[0])
        video = _Video(name, 0, len(frames), FRAMES_FPS, frames)
      else:
        probed = video_io.probe(root / name)
        video = _Video(name, 0, probed.num_frames, probed.fps)
    except video_io.VideoError as error:
      return f"{name}: {str(error).partition(': ')[2]}"
    except UserError as error:
      return f"{name}: {error}"
    if video.num_frames < span:
      return f"{name}: too short, {video.num_frames} frames of the {span} needed"
    return video

  with futures.ThreadPoolExecutor(8) as pool:  # Mostly waiting for the disk.
    looks = list(pool.map(look, found))
  videos = [entry for entry in looks if isinstance(entry, _Video)]
  skipped = [entry for entry in looks if isinstance(entry, str)]
  for line in skipped:
    logging.warning("left out: %s", line)
  rates = [video.fps for video in videos]
  if videos and max(rates) > 1.5 * min(rates):
    logging.warning(
      "the videos run at %g to %g frames per second; a window counts frames, so the "
      "same motion looks faster in some than in others",
      min(rates),
      max(rates),
    )
  if any(video.frames for video in videos):
    logging.warning(
      "folders of frames carry no rate; taken to be %g frames per second", FRAMES_FPS
    )
  return videos, skipped


def _hash(name: str) -> float:
  """A number in [0, 1) that belongs to a name for ever."""
  return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _divide(videos: list[_Video], span: int, split: str) -> list[_Video]:
  """The videos, or the parts of videos, of a split.

  From 10 videos on, whole videos are held out: about one in ten, those whose names
  have the smallest hashes. With fewer, the end of each video is held out, a fifth
  of it but at least one window, where that leaves a window for training. If no
  video is that long, evaluation sees the videos trained on, and a warning says so.
  """
  is_eval = split == "eval"
  if len(videos) >= _MIN_VIDEOS_TO_SPLIT:
    ranked = sorted(videos, key=lambda video: _hash(video.name))
    # By threshold, so that a new video moves no other one; but never none or all.
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
