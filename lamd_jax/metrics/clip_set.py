"""Sets of clips to measure: anyone's videos as they are, in the order of their names.

A set is a folder with videos, folders of frames and NumPy files, or one NumPy file. No
video is ever skipped silently: on fewer clips, a score is a different score. What is no
video is decided by `data.listing`, and named.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import pathlib
from typing import NamedTuple
import zipfile

from jaxtyping import UInt8
import numpy as np

from lamd_jax.data import listing, media
from lamd_jax.types import UserError, printable

ARRAY_ENDINGS = (".npy", ".npz")

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

  def part(self, first: int, last: int) -> "ClipSet":
    """Returns the clips from number `first` to `last` - 1."""
    return dataclasses.replace(self, entries=self.entries[first:last])

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
      for name in sorted(found)
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
  path = pathlib.Path(path).expanduser()
  file, _, name = str(path).partition(".npz:")
  is_array = path.suffix.lower() in ARRAY_ENDINGS and path.exists()
  if path.is_dir():
    endings = media.VIDEO_ENDINGS + ARRAY_ENDINGS
    root, (found, passed_over) = path, listing.list_videos(path.resolve(), endings)
    listing.warn([f"{printable(str(path))}: {line}" for line in passed_over])
  elif is_array or (name and pathlib.Path(f"{file}.npz").is_file()):
    root, found = path.parent, [(path.name, ())]
  else:
    what = "is another kind of file" if path.exists() else "does not exist"
    raise UserError(f"{path} {what}; expected a folder of videos, .npy or .npz file")
  entries = [entry for item in found for entry in _entries(root, *item)]
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
  elif path.suffix.lower() in ARRAY_ENDINGS or ".npz:" in name:
    yield from _array_entries(name, _open_array(path))
  else:
    read = lambda numbers, resolution: media.read_window(
      path, numbers.start, len(numbers), numbers.step, resolution
    )
    yield Entry(name, media.probe(path).num_frames, read)


def _array_entries(name, videos):
  for i, video in enumerate(videos):
    numbered = f"{name}[{i}]" if len(videos) > 1 else name
    yield Entry(numbered, len(video), functools.partial(_read_array, numbered, video))


def _read_frames(path, frames, numbers, resolution):
  images = [media.read_image(path / frames[i]) for i in numbers]
  if resolution is not None:
    images = [media.resize_crop(image[None], resolution)[0] for image in images]
  if len({image.shape for image in images}) > 1:
    raise UserError(f"{path}: the size of its frames changes; give --resolution")
  return np.stack(images)


def _open_array(path):
  """Opens an array of videos `n f h w 3`; a .npy file is read only where it is used."""
  file, colon, name = str(path).partition(".npz:")
  if colon:
    path = pathlib.Path(f"{file}.npz")
  try:
    # A .npy file stays on disk, an .npz file is read whole.
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(array, np.lib.npyio.NpzFile):
      names = list(array)
      if name not in names and (colon or len(names) != 1):
        raise UserError(
          f"{path} holds {len(names)} arrays ({', '.join(names)}); name one of them,"
          f" as in {path}:{names[0] if names else 'videos'}"
        )
      array = array[name or names[0]]
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
    if isinstance(e, UserError):
      raise
    raise UserError(f"{path} cannot be read as a NumPy array ({e})") from e
  if array.ndim < 4 or array.shape[-1] != 3 or array.dtype.kind not in "uf":
    raise UserError(
      f"{path} holds {array.dtype} {list(array.shape)}; expected [n, f, h, w, 3] or"
      " [f, h, w, 3], uint8, or floats from 0 to 1"
    )
  array = array.reshape(-1, *array.shape[-4:])
  if array.dtype.kind == "u" and array.dtype != np.uint8:
    raise UserError(
      f"{path} holds {array.dtype}; expected uint8, or floats from 0 to 1"
    )
  return array


def _read_array(name, video, numbers, resolution):
  clip = np.asarray(video[numbers.start : numbers.stop : numbers.step])
  if clip.dtype != np.uint8:
    if not np.isfinite(clip).all():
      raise UserError(f"{name} has NaN or infinite pixels")
    if clip.min() < 0 or clip.max() > 1:
      raise UserError(
        f"{name} has floats from {clip.min():g} to {clip.max():g}; expected 0 to 1, or"
        " uint8"
      )
    clip = np.rint(clip * 255.0).astype(np.uint8)
  return clip if resolution is None else media.resize_crop(clip, resolution)
