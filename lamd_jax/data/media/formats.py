"""The formats that are read, and the endings of their files.

Only formats that hold all their frames themselves: no lists of other files, such as
playlists, and no programs, such as PostScript. The content of a file decides its
format; the ending decides only whether the listing of a folder looks at it.
"""

from collections.abc import Iterator
import contextlib
from typing import Literal

from av.format import ContainerFormat
from PIL import Image

# By FFmpeg's name for reading a format: its names for writing it, which know endings
# that the reading side does not tell.
_CONTAINERS = {
  "mov,mp4,m4a,3gp,3g2,mj2": ("ipod",),
  "matroska,webm": (),
  "avi": (),
  "gif": (),
  "mpeg": ("mpeg", "vob"),
  "mpegts": ("mpegts",),
  "mpegvideo": ("mpeg1video", "mpeg2video"),
  "asf": ("asf",),
  "flv": (),
  "ogg": ("ogv",),
  "m4v": (),
  "h264": (),
  "hevc": (),
  "av1": (),
  "obu": (),
  "ivf": ("ivf",),
  "yuv4mpegpipe": (),
  "mjpeg": (),
  "apng": ("apng",),
  "dv": (),
  "mxf": ("mxf",),
  "nut": (),
  "rm": ("rm",),
  "wtv": ("wtv",),
}
# Endings of these formats that are sound, pictures, subtitles or playlists.
_OTHERS = {
  *("avif", "heic", "heif", "mpo"),
  *("m4a", "m4b", "mka", "mks", "wma", "ra", "ism", "isma"),
}

DEMUXERS = tuple(_CONTAINERS)
"""FFmpeg's names of the video formats that are read."""
FRAME_PER_PACKET = frozenset(
  ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "gif", "flv")
)
"""Those whose packets are frames, so that frames can be counted without decoding."""

PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""Pillow's names of the picture formats that are read."""

MAX_PIXELS = 2**26
"""Pixels that a picture or a frame may have: 8192 x 8192."""


def _video_endings() -> Iterator[str]:
  modes: tuple[Literal["r", "w"], ...] = ("r", "w")
  for demuxer, muxers in _CONTAINERS.items():
    for mode, names in zip(modes, ((demuxer,), muxers), strict=True):
      for name in names:
        with contextlib.suppress(ValueError):  # FFmpeg was built without it.
          yield from ContainerFormat(name, mode).extensions - _OTHERS


VIDEO_ENDINGS = tuple(sorted({f".{ending.strip()}" for ending in _video_endings()}))
"""Endings of video files, in lower case."""


def _frame_endings() -> Iterator[str]:
  for ending, name in Image.registered_extensions().items():
    if name in PICTURES and ending not in VIDEO_ENDINGS:
      yield ending


FRAME_ENDINGS = tuple(sorted(_frame_endings()))
"""Endings of the pictures that folders of frames consist of, in lower case."""
