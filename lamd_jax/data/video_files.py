"""The `VideoSource` of video files, shared by all data sets that consist of them.

Folders, data sets with split files and csv files differ in the list of videos, in the
annotations and in the preprocessing of frames. What they share is here: probing files,
reading windows, caching decoded frames and replacing broken clips.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
import functools
import hashlib
import os
import pathlib
import threading
import types
from typing import NamedTuple

from absl import logging
from jaxtyping import UInt8
import numpy as np

from lamd_jax.data import listing, media, replacement
from lamd_jax.data.preprocessing import Sampling, Square
from lamd_jax.types import UserError, printable

FRAMES_FPS = 25.0
"""Frames per second assumed for folders of frames, which carry no rate."""


class Video(NamedTuple):
  """A stretch of a video.

  Attributes:
    name: Path relative to the folder, with forward slashes.
    first: Number of the first frame of the stretch.
    num_frames: Length of the stretch, or of the picks.
    fps: Frames per second.
    frames: Files of a folder of frames, in order; empty for a video file.
    annotation: The annotation that the source returns.
    picks: The frames that represent the stretch, counted from its first one; empty for
      all of them.
  """

  name: str
  first: int
  num_frames: int
  fps: float
  frames: tuple[str, ...] = ()
  annotation: Mapping[str, int | str] = types.MappingProxyType({})
  picks: tuple[int, ...] = ()


class VideoFiles:
  """Probed videos of a folder; a `VideoSource`.

  Attributes:
    fps: Frames per second; the median where videos differ.
    skipped: A line "name: reason" for everything left out.
    num_classes: Number of classes; None where videos have no labels.
  """

  def __init__(
    self,
    root: pathlib.Path,
    videos: Sequence[Video],
    *,
    fps: float,
    skipped: Iterable[str],
    square: Square,
    cache_bytes: int,
    num_classes: int | None = None,
  ):
    """Prepares the source; frames are decoded on first use.

    Args:
      root: The folder.
      videos: The videos of the source, in order.
      fps: Frames per second.
      skipped: Lines about what has been left out so far.
      square: Conversion of frames into squares.
      cache_bytes: Memory for decoded and resized frames, which makes later epochs over
        few videos free.
      num_classes: Number of classes.
    """
    self.fps = fps
    self.skipped = list(skipped)
    self.num_classes = num_classes
    self._root = root
    self._videos = videos
    self._square = square
    self._cache: dict[tuple[str, int], UInt8[np.ndarray, "h w 3"]] = {}
    self._room = cache_bytes
    self._lock = threading.Lock()

  def __len__(self) -> int:
    """Returns the number of videos of this split."""
    return len(self._videos)

  def num_frames(self, index: int) -> int:
    """Returns the number of frames of video `index` that belong to this split."""
    return self._videos[index].num_frames

  def stamp(self, index: int) -> str:
    """Returns the first frame of video `index`, and the size in bytes of its file.

    Of a folder of frames, the size is that of its first and its last file.
    """
    video = self._videos[index]
    path = self._root / video.name
    files = [path / name for name in video.frames[:: len(video.frames) - 1 or 1]]
    sizes = [os.stat(file).st_size for file in files or [path]]
    return f"{video.first} {sizes}"

  def annotation(self, index: int) -> dict[str, int | str]:
    """Returns the annotation of video `index`."""
    return dict(self._videos[index].annotation)

  def read(
    self, index: int, start: int, num_frames: int, stride: int
  ) -> UInt8[np.ndarray, "f h w 3"]:
    """Reads the frames start, start + stride, ... of video `index`, as squares.

    A window that cannot be decoded is replaced by one of another video, with the same
    label and caption if there is one. The choice depends only on the arguments, so
    training stays reproducible.
    """
    span = (num_frames - 1) * stride + 1
    return replacement.read_or_replace(
      lambda i, first: self._read(self._videos[i], range(first, first + span, stride)),
      self.num_frames,
      self._skip,
      num_videos=len(self),
      index=index,
      start=start,
      span=span,
      annotation_fn=lambda i: _claims(self._videos[i]),
    )

  def _read(self, video: Video, numbers: range) -> UInt8[np.ndarray, "f h w 3"]:
    stored = [
      video.first + (video.picks[number] if video.picks else number)
      for number in numbers
    ]
    names = [(video.name, number) for number in stored]
    window = [self._cache.get(name) for name in names]
    if any(frame is None for frame in window):
      window = self._decode(video, stored)
      with self._lock:
        for name, frame in zip(names, window, strict=True):
          if self._room >= frame.nbytes and name not in self._cache:
            self._cache[name] = frame.copy()  # A view would keep the whole window.
            self._room -= frame.nbytes
    return np.stack(window)  # pyright: ignore[reportCallIssue, reportArgumentType]

  def _decode(
    self, video: Video, numbers: list[int]
  ) -> UInt8[np.ndarray, "f h w 3"] | list[UInt8[np.ndarray, "h w 3"]]:
    path = self._root / video.name
    if not video.frames:
      return media.read_frames(path, numbers, self._square)
    found = {
      number: self._square(media.read_image(path / video.frames[number])[None])[0]
      for number in dict.fromkeys(numbers)
    }
    return [found[number] for number in numbers]

  def _skip(self, index: int, error: UserError) -> None:
    video = self._videos[index]
    name = printable(video.name)
    with self._lock:
      if any(line.startswith(f"{name}: ") for line in self.skipped):
        return
      reason = _reason(video.name, error)
      self.skipped.append(f"{name}: breaks while it is read ({reason})")
    others = (v for v in self._videos if v.name != video.name)
    is_alike = any(_claims(other) == _claims(video) for other in others)
    is_true = is_alike or not any(_claims(video))
    what = "another clip" if is_true else "a clip with another label or caption"
    logging.warning("%s takes the place of %s", what, self.skipped[-1])


def _claims(video: Video) -> tuple[int | str | None, ...]:
  """Returns label and caption, which may be false of another video."""
  return video.annotation.get("label"), video.annotation.get("caption")


def open_folder(key: str, path: str, expected: str) -> pathlib.Path:
  """Returns the folder that the user named.

  Args:
    key: Key of the configuration, such as "data.path".
    path: Value of the key.
    expected: Description of the expected content; begins with "with" or "of".

  Raises:
    UserError: The folder does not exist.
  """
  if not path:
    raise UserError(
      f"{key} is not set; give the folder {expected}: --config.{key}=FOLDER"
    )
  root = pathlib.Path(path).expanduser()
  if not root.is_dir():
    what = "is a file" if root.exists() else "does not exist"
    raise UserError(f"{key}={str(path)!r} {what}; expected a folder {expected}")
  return root


def median_fps(videos: Iterable[Video]) -> float:
  """Returns the median of the videos' frames per second."""
  return float(np.median([video.fps for video in videos]))


def mixed(
  videos: Iterable[Video], name_fn: Callable[[Video], str] = lambda video: video.name
) -> list[Video]:
  """Returns the videos in an order that is independent of what they show.

  Lists are often sorted by class, and evaluation takes the first videos. The order is
  that of hashes of the names, so videos keep their order when others are added.

  Args:
    videos: The videos, in any order.
    name_fn: Maps a video to its name, where one file holds several.
  """
  return sorted(videos, key=lambda v: hashlib.sha256(os.fsencode(name_fn(v))).digest())


def sampled(video: Video, sampling: Sampling) -> Video:
  """Returns the video as a source with this sampling presents it.

  Its rate becomes the one at which the remaining frames play at natural speed.
  """
  picks = sampling.picks(video.num_frames)
  if not picks:
    return video
  way = picks[-1] - picks[0]
  fps = video.fps * (len(picks) - 1) / way if way >= len(picks) - 1 > 0 else video.fps
  return video._replace(num_frames=len(picks), picks=picks, fps=fps)


def look_at_listed(
  root: pathlib.Path, names: Iterable[str], span: int, *, where: str, expected: str
) -> tuple[dict[str, Video], list[str]]:
  """Probes the videos of a list, each once.

  Args:
    root: The folder.
    names: Paths of files or of folders of frames, relative to the folder; those that
      lead out of it are left out.
    span: Frames that a video must have.
    where: Name of the list, for messages.
    expected: Description of the expected folder, for the message if none can be used.

  Returns:
    The videos by the name that the list gives them, and a line for each one left out.
    In the log, missing videos share one line, because data sets of links to the web
    lose many.

  Raises:
    UserError: None of the videos can be used.
  """
  root = root.resolve()
  finder = listing.Finder(root)
  unique = list(dict.fromkeys(names))
  found = {name: finder.find(name) for name in unique}
  missing = [
    f"{printable(name)}: {item}"
    for name, item in found.items()
    if isinstance(item, str)
  ]
  if missing:
    logging.warning(
      "left out: %d of the %d videos that %s lists; the first: %s",
      len(missing),
      len(unique),
      printable(where),
      missing[0],
    )
  items = {name: item for name, item in found.items() if not isinstance(item, str)}
  videos, skipped = look_at(root, dict.fromkeys(items.values()), span)
  lines = missing + skipped
  if not videos:
    raise none_usable(
      f"among the {len(unique)} that {where} lists", lines, span, expected
    )
  by_path = {video.name: video for video in videos}
  listed = {name: by_path.get(path) for name, (path, _) in items.items()}
  return {name: video for name, video in listed.items() if video}, lines


def none_usable(
  where: str, skipped: Sequence[str], span: int, expected: str
) -> UserError:
  """Returns the error for a data set without a usable video.

  Args:
    where: Place of the search, as in "in data.path='x'".
    skipped: A line for each video left out.
    span: Frames that a video must have.
    expected: Description of the expected folder.
  """
  more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
  return UserError(
    f"no video of {span} frames or more {where}; left out: "
    f"{skipped[0] if skipped else 'nothing'}{more}; expected {expected}"
  )


def look_at(
  root: pathlib.Path,
  found: Iterable[listing.Item],
  span: int,
  frames_fps: float | None = None,
  passed_over: Iterable[str] = (),
) -> tuple[list[Video], list[str]]:
  """Returns the videos with at least `span` frames, in order, and what was left out.

  Args:
    root: The folder, resolved.
    found: Relative path and frames of each video, as in a `Listing`.
    span: Frames that a video must have.
    frames_fps: Frames per second of folders of frames, where the data set states it;
      otherwise FRAMES_FPS, with a warning.
    passed_over: Lines about what is not in `found`, for the log.
  """
  found = tuple(found)
  # Part of the cache key, so that changed files are probed again.
  stamps = tuple(
    0 if frames else (root / name).stat().st_mtime_ns
    for name, frames in found
    if os.path.exists(root / name)
  )
  videos, skipped = _look_at_all(
    root, found, stamps, span, frames_fps, tuple(passed_over)
  )
  return list(videos), list(skipped)


def too_short(video: Video, span: int, name: str = "") -> str:
  """Returns a line that says that the video is too short, or "" if it is not."""
  if video.num_frames >= span:
    return ""
  return (
    f"{printable(name or video.name)}: too short, {video.num_frames} frames of the "
    f"{span} needed"
  )


def _reason(name: str, error: UserError) -> str:
  """Returns the message of an error without the name of the file."""
  return str(error).removeprefix(f"{printable(pathlib.PurePath(name).name)}: ")


@functools.lru_cache(maxsize=8)
def _look_at_all(
  root: pathlib.Path,
  found: tuple[listing.Item, ...],
  stamps: tuple[int, ...],
  span: int,
  frames_fps: float | None,
  passed_over: tuple[str, ...],
) -> tuple[list[Video], list[str]]:
  """Probes all videos; cached, so that a second split neither probes nor warns."""
  del stamps

  def look(item: listing.Item) -> Video | str:
    name, frames = item
    if frames == listing.OUTSIDE:
      what = "a link that leads" if os.path.islink(root / name) else "leads"
      return f"{printable(name)}: {what} out of the folder"
    try:
      if frames:
        media.read_image(root / name / frames[0])
        video = Video(name, 0, len(frames), frames_fps or FRAMES_FPS, frames)
      else:
        probed = media.probe(root / name)
        video = Video(name, 0, probed.num_frames, probed.fps)
    except UserError as error:
      return f"{printable(name)}: {_reason(name, error)}"
    return too_short(video, span) or video

  with futures.ThreadPoolExecutor(8) as pool:  # Mostly waits for the disk.
    looks = list(pool.map(look, found))
  videos = [entry for entry in looks if isinstance(entry, Video)]
  skipped = [*passed_over, *(entry for entry in looks if isinstance(entry, str))]
  listing.warn(skipped)
  rates = [video.fps for video in videos]
  if videos and max(rates) > 1.5 * min(rates):
    logging.warning(
      "the videos run at %g to %g frames per second; a window counts frames, so the "
      "same motion looks faster in some than in others",
      min(rates),
      max(rates),
    )
  if frames_fps is None and any(video.frames for video in videos):
    logging.warning(
      "folders of frames carry no rate; taken to be %g frames per second", FRAMES_FPS
    )
  return videos, skipped
