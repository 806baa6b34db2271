"""Sets of clips to measure: anyone's videos as they are, in the order of their names.

A set is a folder with videos, folders of frames and NumPy files, or one NumPy file. No
video is ever skipped silently: on fewer clips, a score is a different score. What is no
video is decided by `data.listing`, and named. The order is natural, clip_2 before
clip_10, since clips of two sets may be paired by it.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import os
import pathlib
from typing import NamedTuple

from jaxtyping import UInt8
import numpy as np

from lamd_jax.data import listing, media, order
from lamd_jax.types import UserError, printable, reason

ARRAY_ENDINGS = (".npy", ".npz")
SEED = 0  # Of the order in which clips are taken where not all are.
# Bounds of what is read into memory at once, so that a small file cannot fill it.
MAX_BYTES = 2**31
MAX_RESOLUTION = 4096
MAX_VIDEOS = 1_000_000  # Of an array.
# How far floats may lie outside [0, 1] by rounding, as those of a network do.
_TOLERANCE = 1e-3

Clip = UInt8[np.ndarray, "f h w 3"]


class Entry(NamedTuple):
  """One video of a set.

  Attributes:
    name: Path relative to the set, with an index if its array holds several videos.
    num_frames: Number of frames of the whole video.
    read: Reads the given frames at a resolution; None keeps their size.
  """

  name: str
  num_frames: int
  read: Callable[[range, int | None], Clip]


@dataclasses.dataclass(frozen=True)
class ClipSet:
  """Videos, and the frames that a clip takes from each.

  Attributes:
    path: Path of the set.
    entries: The videos.
    num_frames: Frames per clip.
    frame_stride: Step between frames of a clip, in frames of the video.
    resolution: Height and width of clips; None keeps the size of the video.
    start: First frame of a clip, as a frame number of the video.
  """

  path: pathlib.Path
  entries: tuple[Entry, ...]
  num_frames: int
  frame_stride: int
  resolution: int | None = None
  start: int = 0

  @property
  def names(self) -> list[str]:
    """Returns the names of the clips."""
    return [entry.name for entry in self.entries]

  def __len__(self) -> int:
    """Returns the number of clips."""
    return len(self.entries)

  def __iter__(self) -> Iterator[Clip]:
    """Yields the clips, reading one at a time."""
    stop = self.start + self.num_frames * self.frame_stride
    numbers = range(self.start, stop, self.frame_stride)
    for entry in self.entries:
      yield entry.read(numbers, self.resolution)

  def subset(self, first: int, last: int, num_together: int = 1) -> "ClipSet":
    """Returns the clips from number `first` to `last` - 1 of a fixed random order.

    By name, the first clips would be those of the first classes. The clips of the
    result are in the order of the set. Sets of one size give clips of the same numbers,
    so that pairs stay pairs.

    Args:
      first: Number of the first clip, or group of clips.
      last: Number of the last one, plus 1.
      num_together: Clips in a row that are taken or left out together.
    """
    count = len(self) // num_together
    chosen = np.sort(np.random.default_rng(SEED).permutation(count)[first:last])
    numbers = (chosen[:, None] * num_together + np.arange(num_together)).ravel()
    entries = tuple(self.entries[i] for i in numbers)
    return dataclasses.replace(self, entries=entries)

  def windows(self) -> list["ClipSet"]:
    """Returns one set for each window of the videos, up to the end of the shortest."""
    span = self.num_frames * self.frame_stride
    # The last window needs no frames after its last one.
    shortest = min(entry.num_frames for entry in self.entries) + self.frame_stride - 1
    starts = range(self.start, shortest - span + 1, span)
    return [dataclasses.replace(self, start=start) for start in starts]

  def groups(self, level: int) -> dict[str, "ClipSet"]:
    """Returns the clips of each folder, by the name of the folder.

    Args:
      level: Depth of the folders: 1 for those at the top of the set, 2 for those inside
        them, and so on. Folders of one name are one group, wherever they lie.

    Raises:
      UserError: A video is not in a folder of this level.
    """
    found: dict[str, list[Entry]] = {}
    for entry in self.entries:
      *folders, _ = pathlib.PurePath(entry.name).parts
      if len(folders) < level:
        raise UserError(
          f"{self.path}: {entry.name} lies in {len(folders)} folders; groups of level"
          f" {level} need {level}"
        )
      found.setdefault(folders[level - 1], []).append(entry)
    return {
      name: dataclasses.replace(self, entries=tuple(found[name]))
      for name in sorted(found, key=order.natural)
    }


def of_array(
  name: str,
  videos: UInt8[np.ndarray, "n f h w 3"],
  folders: Sequence[str] | None = None,
) -> ClipSet:
  """Makes a set of videos that are in memory.

  Args:
    name: Name of the set in messages and cards.
    videos: The videos.
    folders: Folder for each video, such as its class, for `groups`.
  """
  entries = tuple(_array_entries(name, videos))
  if folders is not None:
    entries = tuple(
      entry._replace(name=f"{folder}/{entry.name}")
      for folder, entry in zip(folders, entries, strict=True)
    )
  return ClipSet(pathlib.Path(name), entries, videos.shape[1], 1)


def of_windows(
  name: str,
  read: Callable[[int, int, int, int], Clip],
  windows: Sequence[tuple[int, int]],
  num_frames: int,
  frame_stride: int,
) -> ClipSet:
  """Makes a set of windows of a data set, which are read only where they are used.

  Args:
    name: Name of the set in messages and cards.
    read: `VideoSource.read`.
    windows: Number of the video and first frame of each window.
    num_frames: Frames per clip.
    frame_stride: Step between frames of a clip, in frames of the video.
  """

  def entry(number: int, window: tuple[int, int]) -> Entry:
    video, start = window
    whole = lambda: read(video, start, num_frames, frame_stride)
    return Entry(
      f"{name}[{number}]",
      num_frames,
      lambda numbers, resolution: _sized(
        whole()[numbers.start : numbers.stop : numbers.step], resolution
      ),
    )

  entries = tuple(entry(*x) for x in enumerate(windows))
  return ClipSet(pathlib.Path(name), entries, num_frames, 1)


def open_clips(
  path: str | pathlib.Path,
  *,
  num_frames: int | None = None,
  frame_stride: int = 1,
  resolution: int | None = None,
  start: int = 0,
) -> ClipSet:
  """Lists the clips of a folder or a NumPy file, decoding only enough to count frames.

  Args:
    path: A folder with videos, folders of frames, .npy and .npz files at any depth; or
      one NumPy file. `clips.npz:sampled` picks one of several arrays in an .npz file.
      Arrays are `f h w 3`, or have leading axes for several videos: uint8, or floats
      in [0, 1].
    num_frames: Frames per clip; None takes all frames of videos of equal length.
    frame_stride: Step between frames of a clip, in frames of the video.
    resolution: Height and width of clips: the short side is resized to it and the
      centre square is kept. None keeps the size.
    start: First frame of a clip, as a frame number of the video.

  Raises:
    UserError: There is no video, or one is broken, too short or, without `num_frames`,
      not as long as the first.
  """
  path = pathlib.Path(os.path.expanduser(path))
  file, _, name = str(path).partition(".npz:")
  file = pathlib.Path(f"{file}.npz")
  # Functions of `os.path` take names that are too long as those of no file.
  if os.path.isdir(path):
    endings = media.VIDEO_ENDINGS + ARRAY_ENDINGS
    found, passed_over = listing.list_videos(path.resolve(), endings)
    listing.warn([f"{printable(str(path))}: {line}" for line in passed_over])
    ordered = sorted(found, key=lambda item: order.natural(item[0]))
    entries = [entry for item in ordered for entry in _entries(path, *item)]
  elif path.suffix.lower() in ARRAY_ENDINGS and os.path.exists(path):
    entries = [*_array_entries(path.name, _open_array(path))]
  elif name and os.path.exists(file):
    entries = [*_array_entries(path.name, _open_array(file, name))]
  else:
    what = "is another kind of file" if os.path.exists(path) else "does not exist"
    raise UserError(f"{path} {what}; expected a folder of videos, .npy or .npz file")
  if not entries:
    raise UserError(
      f"no video in {path}: expected files (.mp4, .mov, .avi, .mkv, .webm, .gif, ...,"
      f" {', '.join(ARRAY_ENDINGS)}) or folders of frames"
    )
  if num_frames is None:
    num_frames = max((entries[0].num_frames - start - 1) // frame_stride + 1, 1)
    for entry in entries:
      if entry.num_frames != entries[0].num_frames:
        raise UserError(
          f"{path}: {entry.name} has {entry.num_frames} frames, {entries[0].name}"
          f" {entries[0].num_frames}; say with --num_frames how many to take of each"
        )
  if resolution is not None:
    _check_size("a clip", num_frames, resolution, resolution)
  span = start + (num_frames - 1) * frame_stride + 1
  for entry in entries:
    if entry.num_frames < span:
      raise UserError(
        f"{path}: {entry.name} has {entry.num_frames} frames; {num_frames} from frame"
        f" {start} on at a stride of {frame_stride} need {span}"
      )
  return ClipSet(path, tuple(entries), num_frames, frame_stride, resolution, start)


def _entries(root: pathlib.Path, name: str, frames: tuple[str, ...]) -> Iterator[Entry]:
  path = root / name
  if frames == listing.OUTSIDE:
    raise UserError(f"{path} is a link that leads out of the folder; copy the file")
  if frames:
    read = functools.partial(_read_frames, path, frames)
    yield Entry(name, len(frames), read)
  elif path.suffix.lower() in ARRAY_ENDINGS:
    yield from _array_entries(name, _open_array(path))
  else:
    read = lambda numbers, resolution: media.read_window(
      path, numbers.start, len(numbers), numbers.step, resolution
    )
    yield Entry(name, media.probe(path).num_frames, read)


def _array_entries(name, videos):
  if len(videos) > MAX_VIDEOS:
    raise UserError(f"{name} holds {len(videos)} videos; expected {MAX_VIDEOS} at most")
  for i in range(len(videos)):
    numbered = f"{name}[{i}]" if len(videos) > 1 else name
    read = functools.partial(_read_array, numbered, videos, i)
    yield Entry(numbered, videos.shape[1], read)


def _read_frames(path, frames, numbers, resolution):
  images = [media.read_image(path / frames[i]) for i in numbers]
  if resolution is not None:
    images = [media.resize_crop(image[None], resolution)[0] for image in images]
  if len({image.shape for image in images}) > 1:
    raise UserError(f"{path}: the size of its frames changes; give --resolution")
  return np.stack(images)


def _open_array(path: pathlib.Path, name: str = "") -> np.ndarray:
  """Opens an array of videos `n f h w 3`; a .npy file is read only where it is used.

  Args:
    path: The file.
    name: Name of the array in an .npz file; "" for the only one.
  """
  if not os.path.isfile(path):
    raise UserError(f"{path} is no regular file; expected an array of videos")
  try:
    with path.open("rb") as opened:
      start = opened.read(6)  # By content, whatever its ending.
      if start.startswith(b"PK"):
        opened.seek(0)
        with np.load(opened, allow_pickle=False) as file:
          array = _read_member(path, file, name)
      elif start != np.lib.format.MAGIC_PREFIX:
        raise UserError(
          f"{path} cannot be read as a NumPy array; expected a file of np.save or"
          " np.savez, without objects"
        )
      elif name:
        raise UserError(f"{path} holds a single array without a name; give {path}")
      else:  # It stays on disk.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
  except UserError:
    raise
  except Exception as e:  # Damage shows as any error at all.
    why = reason(e)[:200]
    raise UserError(f"{path} cannot be read as a NumPy array ({why})") from e
  expected = "uint8, or floats from 0 to 1"
  if array.ndim < 4 or array.shape[-1] != 3 or array.dtype.kind not in "uf":
    raise UserError(
      f"{path} holds {array.dtype} {list(array.shape)}; expected [n, f, h, w, 3] or"
      f" [f, h, w, 3], {expected}"
    )
  if array.dtype.kind == "u" and array.dtype != np.uint8:
    raise UserError(f"{path} holds {array.dtype}; expected {expected}")
  if not array.size:
    raise UserError(f"{path} is empty: {list(array.shape)}; expected videos")
  # Only of arrays in Fortran's order does this copy anything.
  if not array.flags.c_contiguous and array.ndim > 5 and array.nbytes > MAX_BYTES:
    raise UserError(
      f"{path} holds {list(array.shape)} in Fortran's order, too large to be brought"
      " into that of C here; save it with np.ascontiguousarray"
    )
  return array.reshape(-1, *array.shape[-4:])


def _read_member(path, file, name):
  """Reads one array of an .npz file, unless it is too large for memory."""
  names = file.files
  if name not in names and (name or len(names) != 1):
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    raise UserError(
      f"{path} holds {len(names)} arrays ({shown}); name one of them, as in"
      f" {path}:{names[0] if names else 'videos'}"
    )
  name = name or names[0]
  member = name if name in file.zip.namelist() else f"{name}.npy"
  size = file.zip.getinfo(member).file_size  # Reading stops there in any case.
  if size > MAX_BYTES:
    raise UserError(
      f"{name} in {path} unpacks to {size / 2**30:.1f} GiB; expected"
      f" {MAX_BYTES / 2**30:.0f} at most: save it with np.save, as a .npy file, which"
      " is read clip by clip"
    )
  array = file[name]
  if not isinstance(array, np.ndarray):
    raise UserError(f"{name} in {path} is no array")
  return array


def _read_array(name, videos, index, numbers, resolution):
  clip = videos[index, numbers.start : numbers.stop : numbers.step]
  num_frames, height, width, _ = clip.shape
  _check_size(name, num_frames, height, width, clip.itemsize)
  clip = np.asarray(clip)
  if clip.dtype != np.uint8:
    if not np.isfinite(clip).all():
      raise UserError(f"{name} has NaN or infinite pixels")
    low, high = float(clip.min()), float(clip.max())
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
      raise UserError(
        f"{name} has floats from {low:.9g} to {high:.9g}; expected 0 to 1 (up to"
        f" {_TOLERANCE} outside is clipped), or uint8"
      )
    clip = np.rint(np.clip(clip, 0, 1) * 255.0).astype(np.uint8)
  return _sized(clip, resolution)


def _sized(clip, resolution):
  return clip if resolution is None else media.resize_crop(clip, resolution)


def _check_size(name, num_frames, height, width, itemsize=1):
  if (size := num_frames * height * width * 3 * itemsize) > MAX_BYTES:
    raise UserError(
      f"{name} of {height}x{width} pixels, {num_frames} frames, would take"
      f" {size / 2**30:.3g} GiB; expected {MAX_BYTES / 2**30:.0f} at most: take fewer"
      " frames or a lower resolution"
    )
