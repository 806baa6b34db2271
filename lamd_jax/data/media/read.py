"""Reading windows of video files.

Frames are counted in the order in which they are shown, whatever their timestamps:
frame 10 is the eleventh one that a player would show. Pixels are uint8 RGB, as a player
shows them; what is transparent is white.
"""

from collections.abc import Sequence
import functools
import os
import pathlib
from typing import NamedTuple

import av
from jaxtyping import UInt8
import numpy as np

from lamd_jax.data.media import display, formats
from lamd_jax.data.media.film import Film, VideoError, open_film
from lamd_jax.data.preprocessing import Square
from lamd_jax.types import printable, reason

Path = str | os.PathLike[str]

MAX_BYTES = 2**33
"""Memory that the frames of one window may take."""

# A frame of MPEG-4 that is smaller is a note that nothing is shown.
_SMALLEST_MPEG4 = 16


class Probe(NamedTuple):
  """The properties of a video file.

  Attributes:
    num_frames: Number of frames that come out when it is decoded.
    fps: Frames per second, on average where the rate varies.
    width: Width in pixels as shown: turned upright, with square pixels.
    height: Height in pixels as shown.
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


class _Packet(NamedTuple):
  """The description of a packet, without its data."""

  pts: int | None
  dts: int | None
  is_keyframe: bool
  is_discard: bool
  size: int


def _describe(packet: av.Packet) -> _Packet:
  return _Packet(
    packet.pts, packet.dts, packet.is_keyframe, packet.is_discard, packet.size
  )


def probe(path: Path) -> Probe:
  """Reads the properties of a video file; decodes only its first frame if it can.

  Args:
    path: The file.

  Returns:
    Number of frames, rate and size.

  Raises:
    VideoError: The file is no film, or its table points beyond its end.
  """
  path = pathlib.Path(path)
  name = printable(path.name)
  with open_film(path) as film:
    stream = film.stream
    packets, first = _first_frame(film)
    entries = getattr(stream, "index_entries", ())  # From PyAV 16 on.
    # mp4, mov and avi have a table of all frames, so nothing else needs reading.
    is_complete = stream.frames and len(entries) == stream.frames
    if is_complete:
      end = max(entry.pos + entry.size for entry in entries)
      if end > path.stat().st_size:
        raise VideoError(f"{name}: cut off, its last frames are missing")
      smallest = min(entry.size for entry in entries)
    if is_complete and smallest and not _may_hide(film, packets, smallest):
      num_frames = sum(not entry.is_discard for entry in entries)
    else:
      num_frames = len(_timeline(path).times)
    rate = stream.average_rate or stream.guessed_rate
    if not num_frames or not rate or first is None:
      raise VideoError(f"{name}: no frames in it")
    width, height = display.shown_size(first, film.aspect)
    if width * height > formats.MAX_PIXELS:
      raise VideoError(f"{name}: shown as {width} x {height} pixels, which is too many")
  return Probe(num_frames, float(rate), width, height)


def _first_frame(film: Film) -> tuple[list[_Packet], av.VideoFrame | None]:
  """Returns the first two packets, and the first frame that comes out."""
  packets: list[_Packet] = []
  first = None
  for packet in film.packets():
    if packet.size:
      packets.append(_describe(packet))
    if first is None:
      first = next(iter(film.decode(packet)), None)
    if first is not None and len(packets) > 1:
      break
  return packets[:2], first


def _may_hide(film: Film, packets: Sequence[_Packet], smallest: int) -> bool:
  """Returns whether fewer frames may come out than packets go in.

  Args:
    film: The film.
    packets: Its packets in stored order, at least the first two.
    smallest: Size of its smallest packet.
  """
  if film.format not in formats.FRAME_PER_PACKET or not packets:
    return True
  if film.codec == "vp8":  # Has frames that others refer to and nobody sees.
    return True
  if film.codec == "mpeg4" and smallest < _SMALLEST_MPEG4:
    return True
  # A film that was cut without decoding it: what is shown before the first keyframe
  # refers to frames that are gone.
  key, *others = packets
  if not key.is_keyframe or key.pts is None:
    return True
  return any(
    packet.pts is None or (packet.pts < key.pts and not packet.is_discard)
    for packet in others
  )


def _timeline(path: pathlib.Path) -> _Timeline:
  try:
    stat = path.stat()
  except (OSError, ValueError) as error:
    raise VideoError(f"{printable(path.name)}: {reason(error)}") from error
  return _read_timeline(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1024)
def _read_timeline(path: pathlib.Path, mtime: int, size: int) -> _Timeline:
  """Reads the timestamps of all packets, once for each file.

  Decodes them only where some may never come out as frames.
  """
  del mtime, size  # Part of the cache key, so that a changed file is read again.
  with open_film(path) as film:
    packets = [_describe(packet) for packet in film.packets() if packet.size]
    if not packets:
      return _Timeline(np.arange(0), [], is_trusted=False)
    shown = [packet for packet in packets if not packet.is_discard]
    times = [packet.pts for packet in shown]
    smallest = min(packet.size for packet in packets)
    has_order = times != sorted(times, key=lambda time: time or 0)
    has_b_frames = film.stream.codec_context.has_b_frames
    is_hiding = _may_hide(film, packets, smallest)
    is_avi = film.format == "avi"
    has_times = film.format in formats.FRAME_PER_PACKET
  if is_hiding or not _are_distinct(times):
    decoded, is_whole = _decode_times(path)
    # Of a damaged file, single windows may still be read where times can be trusted.
    times = decoded if is_whole or not _are_distinct(times) else times
  if not _are_distinct(times):
    return _Timeline(np.arange(len(times)), [], is_trusted=False)
  keys = [
    (packet.pts, packet.pts if packet.dts is None else packet.dts)
    for packet in shown
    if packet.is_keyframe and packet.pts is not None
  ]
  # avi numbers frames in stored order, which with B-frames is not the shown order.
  # Formats without a table may count on from wherever reading begins.
  is_trusted = has_times and not (is_avi and has_b_frames and not has_order)
  return _Timeline(np.sort(np.asarray(times, np.int64)), sorted(keys), is_trusted)


def _are_distinct(times: Sequence[int | None]) -> bool:
  return None not in times and len(set(times)) == len(times)


def _decode_times(path: pathlib.Path) -> tuple[list[int | None], bool]:
  """Decodes everything; returns the times of frames, and whether it did not break."""
  times: list[int | None] = []
  try:
    with open_film(path) as film:
      for frame in film.frames():
        times.append(frame.pts)  # Kept if a later one breaks.
  except VideoError:
    return times, False
  return times, True


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
  timeline = _timeline(path)
  # A range may be far too long to be looked through.
  ends = (numbers[0], numbers[-1]) if isinstance(numbers, range) else numbers
  if min(ends) < 0 or max(ends) >= len(timeline.times):
    raise VideoError(
      f"{printable(path.name)}: frames {min(ends)} to {max(ends)} were asked for, it "
      f"has {len(timeline.times)}"
    )
  wanted = sorted(set(numbers))
  frames = None
  if timeline.is_trusted:
    frames = _decode_by_time(path, timeline, wanted, square)
  if frames is None:
    frames = _decode_by_count(path, wanted, square)
  if len({frame.shape for frame in frames}) > 1:
    raise VideoError(f"{printable(path.name)}: the size of its frames changes")
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
    with open_film(path) as film:
      film.container.seek(seek, stream=film.stream, backward=True)
      frames: list[np.ndarray] = []
      for frame in film.frames():
        if frame.pts is None or frame.pts > wanted[len(frames)]:
          break
        if frame.pts == wanted[len(frames)]:
          frames.append(_pixels(path, film, frame, square, len(wanted)))
          if len(frames) == len(wanted):
            return frames
  return None


def _decode_by_count(
  path: pathlib.Path, numbers: list[int], square: Square | None
) -> list[np.ndarray]:
  frames = []
  with open_film(path) as film:
    for number, frame in enumerate(film.frames()):
      if number == numbers[len(frames)]:
        frames.append(_pixels(path, film, frame, square, len(numbers)))
        if len(frames) == len(numbers):
          return frames
  raise VideoError(
    f"{printable(path.name)}: it ends or breaks before frame {numbers[-1]}"
  )


def _pixels(
  path: pathlib.Path,
  film: Film,
  frame: av.VideoFrame,
  square: Square | None,
  count: int,
) -> np.ndarray:
  """Returns the pixels of a frame, one of `count` that are kept."""
  width, height = display.shown_size(frame, film.aspect)
  size = 3 * (square.resolution**2 if square else width * height)
  if width * height > formats.MAX_PIXELS or size * count > MAX_BYTES:
    raise VideoError(
      f"{printable(path.name)}: {count} frames of {width} x {height} pixels are too "
      "much for the memory; ask for fewer or smaller ones"
    )
  pixels = display.shown_pixels(frame, film.aspect)
  if square is not None:
    return square(pixels[None])[0]
  return np.ascontiguousarray(pixels)


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
