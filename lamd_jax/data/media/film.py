"""One video file, open: its first real video stream, and what comes out of it."""

from collections.abc import Iterator
import contextlib
from fractions import Fraction
import pathlib
import types

import av
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from lamd_jax.data.media import formats
from lamd_jax.data.regular_files import open_regular
from lamd_jax.types import UserError, printable, reason

# Those in FFmpeg that know transparency; its own decoders of these do not.
_TRANSPARENT = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class VideoError(UserError):
  """A file that cannot be read as video; the message has its name and the reason."""


class Film:
  """An open video file and its first real video stream.

  Attributes:
    container: The file.
    stream: The stream.
    aspect: Width of a pixel divided by its height, as the file or the stream says.
  """

  def __init__(self, container: InputContainer, stream: VideoStream):
    """Prepares the decoder."""
    self.container, self.stream = container, stream
    aspect = stream.sample_aspect_ratio  # None or 0 where nothing is said.
    self.aspect = Fraction(1)
    if aspect and aspect.numerator > 0 and aspect.denominator > 0:
      self.aspect = Fraction(aspect.numerator, aspect.denominator)
    self._decoder = stream.codec_context
    name = _TRANSPARENT.get(self.codec, "")
    if stream.metadata.get("alpha_mode") == "1" and name in av.codecs_available:
      decoder = av.CodecContext.create(name, "r")
      assert isinstance(decoder, av.VideoCodecContext)
      self._decoder = decoder
    # One thread, as several windows are read at the same time anyway.
    self._decoder.thread_count = 1
    self._decoder.options = {"max_pixels": str(formats.MAX_PIXELS)}

  @property
  def codec(self) -> str:
    """Name of the format of the frames."""
    return self.stream.codec_context.codec.canonical_name

  @property
  def format(self) -> str:
    """Name of the format of the file."""
    return self.container.format.name

  def packets(self) -> Iterator[av.Packet]:
    """Yields packets from here on, an empty one at the end."""
    for packet in self.container.demux(self.stream):
      if packet.size or packet.dts is None:  # Others stand for dropped frames.
        yield packet

  def decode(self, packet: av.Packet) -> list[av.VideoFrame]:
    """Returns the frames that a packet brings out."""
    return self._decoder.decode(packet if packet.size else None)

  def frames(self) -> Iterator[av.VideoFrame]:
    """Yields frames from here on, as they are shown."""
    for packet in self.packets():
      yield from self.decode(packet)


@contextlib.contextmanager
def open_film(path: pathlib.Path) -> Iterator[Film]:
  """Opens the first real video stream; turns errors of libav into a VideoError."""
  name = printable(path.name)
  try:
    with open_regular(path) as file:
      # FFmpeg gets no name, which it could take for a protocol, a pattern or a list,
      # and may open no other file.
      anonymous = types.SimpleNamespace(read=file.read, seek=file.seek, tell=file.tell)
      options = {
        "format_whitelist": ",".join(formats.DEMUXERS),
        "protocol_whitelist": "none",
      }
      try:
        container = av.open(anonymous, "r", options=options)
      except ArgumentError as error:
        raise VideoError(
          f"{name}: Invalid data, not a video in a format that is read"
        ) from error
      with container:
        streams = [stream for stream in container.streams.video if _is_film(stream)]
        if not streams:
          raise VideoError(f"{name}: no video in it")
        width, height = streams[0].width, streams[0].height
        if width * height > formats.MAX_PIXELS:
          raise VideoError(
            f"{name}: {width} x {height} pixels; at most {formats.MAX_PIXELS} are read"
          )
        yield Film(container, streams[0])
  except (FFmpegError, OSError, ValueError, MemoryError) as error:
    if isinstance(error, UserError):
      raise
    raise VideoError(f"{name}: {reason(error)}") from error


def _is_film(stream: VideoStream) -> bool:
  """Returns whether a stream can be decoded and is more than the picture of a cover."""
  is_cover = bool(stream.disposition & Disposition.attached_pic)
  return stream.codec_context is not None and not is_cover
