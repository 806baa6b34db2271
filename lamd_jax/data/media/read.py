"""Reading windows of video files, and pictures.

Frames are counted in the order in which they are shown, whatever their timestamps:
frame 10 is the eleventh one that a player would show. Pixels are uint8 RGB.
"""

from collections.abc import Iterator, Sequence
import contextlib
import functools
import io
import os
import pathlib
from typing import NamedTuple

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from jaxtyping import UInt8
import numpy as np
from PIL import Image, ImageOps

from lamd_jax.data.preprocessing import Square
from lamd_jax.types import UserError

Path = str | os.PathLike[str]


class VideoError(UserError):
  """A file that cannot be read as video; the message has its name and the reason."""


class Probe(NamedTuple):
  """The properties of a video file.

  Attributes:
    num_frames: Number of frames, by the container's own table.
    fps: Frames per second, on average where the rate varies.
    width: Width in pixels as shown, after any rotation.
    height: Height in pixels as shown, after any rotation.
  """

  num_frames: int
  fps: float
  width: int
  height: int


class _Timeline(NamedTuple):
  """The times at which frames are shown, in the time base of the stream.

  Attributes:
    times: Times of all frames, ascending.
    keys: Times of the keyframes: (time shown, time decoded).
    is_trusted: False where only counting can tell frames apart.
  """

  times: np.ndarray
  keys: list[tuple[int, int]]
  is_trusted: bool


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[tuple[InputContainer, VideoStream]]:
  """Opens the first real video stream; turns errors of libav into a VideoError."""
  try:
    with av.open(str(path)) as container:
      streams = [s for s in container.streams.video if s.codec_context is not None]
      if not streams:
        raise VideoError(f"{path.name}: no video in it")
      # One thread, as several windows are read at the same time anyway.
      streams[0].codec_context.thread_count = 1
      yield container, streams[0]
  except (FFmpegError, OSError, ValueError) as error:
    if isinstance(error, UserError):
      raise
    reason = getattr(error, "strerror", None) or str(error)
    raise VideoError(f"{path.name}: {reason}") from error


def probe(path: Path) -> Probe:
  """Reads the properties of a video file; decodes only its first frame.

  Args:
    path: The file.

  Returns:
    Number of frames, rate and size.

  Raises:
    VideoError: The file is no video, or its table points beyond its end.
  """
  path = pathlib.Path(path)
  with _opened(path) as (container, stream):
    entries = getattr(stream, "index_entries", ())  # From PyAV 16 on.
    if stream.frames and len(entries) == stream.frames:
      # mp4, mov and avi have a table of all frames, so nothing else needs reading.
      end = max(entry.pos + entry.size for entry in entries)
      if end > path.stat().st_size:
        raise VideoError(f"{path.name}: cut off, its last frames are missing")
      num_frames = sum(not entry.is_discard for entry in entries)
    else:
      num_frames = len(_timeline(path).times)
    rate = stream.average_rate or stream.guessed_rate
    first = next(container.decode(stream), None)
    if not num_frames or not rate or first is None:
      raise VideoError(f"{path.name}: no frames in it")
    width, height = first.width, first.height
    if _quarter_turns(first) % 2:
      width, height = height, width
  return Probe(num_frames, float(rate), width, height)


def _quarter_turns(frame: av.VideoFrame) -> int:
  """Returns the quarter turns to the left that phones record for display."""
  return round(frame.rotation / 90) % 4


def _timeline(path: pathlib.Path) -> _Timeline:
  try:
    stat = path.stat()
  except OSError as error:
    raise VideoError(f"{path.name}: {error.strerror}") from error
  return _read_timeline(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1024)
def _read_timeline(path: pathlib.Path, mtime: int, size: int) -> _Timeline:
  """Reads the timestamps of all packets, without decoding, once for each file."""
  del mtime, size  # Part of the cache key, so that a changed file is read again.
  with _opened(path) as (container, stream):
    times, keys = [], []
    for packet in container.demux(stream):
      if not packet.size or packet.is_discard:
        continue
      times.append(packet.pts)
      if packet.is_keyframe and packet.pts is not None:
        keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
    if None in times or len(set(times)) < len(times):
      return _Timeline(np.arange(len(times)), [], is_trusted=False)
    # avi numbers frames in stored order, which with B-frames is not the shown order.
    is_trusted = not (
      container.format.name == "avi"
      and stream.codec_context.has_b_frames
      and times == sorted(times)
    )
    return _Timeline(np.sort(np.asarray(times, np.int64)), sorted(keys), is_trusted)


def read_window(
  path: Path,
  start: int,
  num_frames: int,
  stride: int = 1,
  resolution: int | None = None,
) -> UInt8[np.ndarray, "f h w 3"]:
  """Decodes the frames start, start + stride, ..., as `read_frames` does.

  Args:
    path: A video file.
    start: Number of the first frame, counted from 0.
    num_frames: Number of frames to return.
    stride: Distance in the file between neighbouring returned frames.
    resolution: Side of the squares to which decoded frames are resized and cropped;
      None leaves them as they are.

  Returns:
    The frames.

  Raises:
    VideoError: The file is broken, or ends before the window does.
  """
  square = None if resolution is None else Square(resolution)
  return read_frames(path, range(start, start + num_frames * stride, stride), square)


def read_frames(
  path: Path, numbers: Sequence[int], square: Square | None = None
) -> UInt8[np.ndarray, "f h w 3"]:
  """Decodes frames, and only what they depend on.

  Decoding begins at the last keyframe before the first of them and ends with the last.
  Where the timestamps of a file cannot be trusted, it begins at the start of the file.

  Args:
    path: A video file.
    numbers: Numbers of the frames, counted from 0, in any order, with repetitions.
    square: Conversion of decoded frames into squares; None leaves them as they are.

  Returns:
    The frames, in the order of `numbers`.

  Raises:
    VideoError: The file is broken, or has too few frames.
    UserError: Its frames are too small for the box that is cut out.
  """
  path = pathlib.Path(path)
  wanted = sorted(set(numbers))
  timeline = _timeline(path)
  if wanted[0] < 0 or wanted[-1] >= len(timeline.times):
    raise VideoError(
      f"{path.name}: frames {wanted[0]} to {wanted[-1]} were asked for, it has "
      f"{len(timeline.times)}"
    )
  frames = None
  if timeline.is_trusted:
    frames = _decode_by_time(path, timeline, wanted, square)
  if frames is None:
    frames = _decode_by_count(path, wanted, square)
  if len({frame.shape for frame in frames}) > 1:
    raise VideoError(f"{path.name}: the size of its frames changes")
  found = dict(zip(wanted, frames, strict=True))
  return np.stack([found[number] for number in numbers])


def _decode_by_time(
  path: pathlib.Path, timeline: _Timeline, numbers: list[int], square: Square | None
) -> list[np.ndarray] | None:
  """Seeks, then picks frames by their timestamps; returns None if that fails."""
  wanted = [int(time) for time in timeline.times[numbers]]
  keys = [key for key in timeline.keys if key[0] <= wanted[0]]
  # Some containers seek by the time a frame is shown, some by the time it is decoded;
  # where both overshoot, the keyframe before is early enough.
  for seek in (time for key in keys[:-3:-1] for time in key):
    with _opened(path) as (container, stream):
      container.seek(seek, stream=stream, backward=True)
      frames: list[np.ndarray] = []
      for frame in container.decode(stream):
        if frame.pts is None or frame.pts > wanted[len(frames)]:
          break
        if frame.pts == wanted[len(frames)]:
          frames.append(_pixels(frame, square))
          if len(frames) == len(wanted):
            return frames
  return None


def _decode_by_count(
  path: pathlib.Path, numbers: list[int], square: Square | None
) -> list[np.ndarray]:
  frames = []
  with _opened(path) as (container, stream):
    for number, frame in enumerate(container.decode(stream)):
      if number == numbers[len(frames)]:
        frames.append(_pixels(frame, square))
        if len(frames) == len(numbers):
          return frames
  raise VideoError(f"{path.name}: it ends or breaks before frame {numbers[-1]}")


def _pixels(frame: av.VideoFrame, square: Square | None) -> np.ndarray:
  pixels = np.rot90(frame.to_ndarray(format="rgb24"), _quarter_turns(frame))
  if square is not None:
    return square(pixels[None])[0]
  return np.ascontiguousarray(pixels)


def read_image(path: Path | io.BytesIO) -> UInt8[np.ndarray, "h w 3"]:
  """Reads a picture of any size and format as it is meant to be seen.

  Applies the EXIF orientation, lays transparency over white, reduces 16 bits to 8, and
  converts grey to RGB; an animation gives its first frame.

  Args:
    path: A file of any format that Pillow reads, by name or in memory.

  Returns:
    RGB pixels.

  Raises:
    UserError: The file does not exist, or is not a picture.
  """
  name = repr(os.fspath(path)) if isinstance(path, str | os.PathLike) else "an image"
  try:
    with Image.open(path) as image:
      image.load()
      return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
  except (FileNotFoundError, IsADirectoryError) as error:
    raise UserError(f"no such picture: {name}") from error
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise UserError(
      f"{name} cannot be read as a picture ({error}); png, jpg and webp always can"
    ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode.startswith("I") or image.mode == "F":
    values = np.asarray(image, np.float64)
    top = float(values.max(initial=0.0))
    # Floats are fractions unless one is above 1; integers have 8 or 16 bits.
    scale = 255.0 if image.mode == "F" and top <= 1.0 else 1.0
    if image.mode.startswith("I;16") or top > 255.0:
      scale = 255.0 / max(65535.0, top)
    return Image.fromarray(
      np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
    ).convert("RGB")
  if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
  return image.convert("RGB")


def resize_crop(
  frames: UInt8[np.ndarray, "f h w 3"], resolution: int
) -> UInt8[np.ndarray, "f r r 3"]:
  """Resizes the short side to `resolution`, antialiased, and crops the centre.

  Args:
    frames: Frames of any size.
    resolution: Height and width in pixels.

  Returns:
    Square frames.
  """
  return Square(resolution)(frames)
