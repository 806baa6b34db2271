"""Video files for tests: frame i is grey of brightness 4 i + 8, so it can be told."""

from collections.abc import Sequence
from fractions import Fraction
import pathlib
import tempfile

from absl.testing import parameterized
import av
import numpy as np
from PIL import Image


class FolderTestCase(parameterized.TestCase):
  """Tests that write into an empty folder of their own, `self.folder`."""

  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder).resolve()


def numbered_frames(num_frames, height=48, width=64):
  """Frames that tell their number; uint8 [f h w 3]."""
  video = np.empty((num_frames, height, width, 3), np.uint8)
  video[:] = (4 * np.arange(num_frames) + 8)[:, None, None, None]
  return video


def numbers_of(video):
  """The numbers of frames, up to 60, whatever happened to their size."""
  return np.rint((video.mean(axis=(1, 2, 3)) - 8) / 4).astype(int).tolist()


def write_video(
  path,
  num_frames,
  *,
  codec="libx264",
  container=None,
  fps=25,
  gop=12,
  b_frames=2,
  pix_fmt="yuv420p",
  times: Sequence[int] | None = None,
  options=None,
  rotation=0,
  size=(48, 64),
  is_open_gop=False,
  video=None,
):
  """Encodes numbered frames, or a video; `times` are timestamps, in 1/1000 s."""
  if video is None:
    video = numbered_frames(num_frames, *size)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(path), "w", format=container, options=options or {}) as file:
    stream = file.add_stream(codec, rate=Fraction(fps))
    stream.height, stream.width = video.shape[1:3]
    stream.pix_fmt = pix_fmt
    stream.gop_size = gop
    stream.bit_rate = 4_000_000
    if codec in ("libx264", "mpeg4"):
      stream.max_b_frames = b_frames
    if codec == "libx264":  # Scene changes would bring keyframes of their own.
      x264 = f"scenecut=0:open-gop={int(is_open_gop)}"
      stream.options = {"crf": "10", "x264-params": x264}
    if times is not None:
      stream.codec_context.time_base = Fraction(1, 1000)
    if rotation:
      stream.set_display_rotation(rotation)
    for number, pixels in enumerate(video):
      frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      if times is not None:
        frame.pts, frame.time_base = times[number], Fraction(1, 1000)
      file.mux(stream.encode(frame))
    file.mux(stream.encode())
  return path


def write_frames(folder, num_frames, ending=".png", pattern="frame_{}", first=0):
  """Writes a folder of numbered frames; returns it. Files count from `first`."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  for number, pixels in enumerate(numbered_frames(num_frames)):
    name = pattern.format(first + number) + ending
    Image.fromarray(pixels).save(folder / name)
  return folder


def break_frames(path, numbers):
  """Overwrites the data of frames, in the order of the file, with zeros."""
  with av.open(str(path)) as file:
    places = [(p.pos, p.size) for p in file.demux(video=0) if p.size]
  data = bytearray(path.read_bytes())
  for number in numbers:
    first, size = places[number]
    data[first : first + size] = bytes(size)
  path.write_bytes(data)
