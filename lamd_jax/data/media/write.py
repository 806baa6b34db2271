"""Writing mp4, gif and contact sheets; each file appears whole or not at all."""

from collections.abc import Iterator, Sequence
import contextlib
from fractions import Fraction
import os
import pathlib

import av
from jaxtyping import UInt8
import numpy as np
from PIL import Image

from lamd_jax.data.media.read import Path


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[pathlib.Path]:
  """Yields a path to write to; the file moves to `path` once it is complete."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f".{path.name}.{os.getpid()}.part")
  try:
    yield part
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)


def _enlarge(
  video: UInt8[np.ndarray, "f h w 3"], min_side: int
) -> UInt8[np.ndarray, "f h2 w2 3"]:
  """Repeats pixels until the short side is at least `min_side`."""
  factor = max(1, -(-min_side // min(video.shape[1:3])))
  return video.repeat(factor, axis=1).repeat(factor, axis=2)


def write_mp4(
  path: Path, video: UInt8[np.ndarray, "f h w 3"], fps: float, min_side: int = 256
) -> None:
  """Writes H.264 video that every browser plays.

  Args:
    path: The file.
    video: Frames of any size; an odd side is padded by repeating its edge.
    fps: Frames per second.
    min_side: Minimum length of the short side in pixels; smaller clips are enlarged by
      repeating pixels a whole number of times.
  """
  video = _enlarge(video, min_side)
  _, height, width, _ = video.shape
  video = np.pad(video, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
  rate = Fraction(fps).limit_denominator(1001)
  with (
    _whole_file(path) as part,
    av.open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as file,
  ):
    stream = file.add_stream("libx264", rate=rate, options={"crf": "16"})
    stream.height, stream.width = video.shape[1:3]
    stream.pix_fmt = "yuv420p"
    for pixels in video:
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
      file.mux(stream.encode(frame))
    file.mux(stream.encode())


def write_gif(
  path: Path, video: UInt8[np.ndarray, "f h w 3"], fps: float, min_side: int = 128
) -> None:
  """Writes a looping gif, with one palette for all frames, so that nothing flickers.

  A gif counts in hundredths of a second, so delays vary by one to keep the mean rate
  right. Browsers slow down gifs of more than 50 frames per second, so above that rate
  frames are left out.

  Args:
    path: The file.
    video: Frames of any size.
    fps: Frames per second.
    min_side: Minimum length of the short side, as in `write_mp4`.
  """
  times = np.rint(100.0 * np.arange(len(video) + 1) / fps).astype(int)
  kept = [0]
  for number in range(1, len(video)):
    if times[number] - times[kept[-1]] >= 2:
      kept.append(number)
  ends = [*times[kept[1:]], max(times[-1], times[kept[-1]] + 2)]
  delays = 10 * (np.asarray(ends) - times[kept])  # In milliseconds, as Pillow wants.
  video = video[kept]
  # Every pixel of a small clip, fewer of a large one: enough to find its colours.
  step = 1 + video.size // 2_000_000
  sample = video.reshape(-1, 1, 3)[::step]
  palette = Image.fromarray(sample).quantize(256, Image.Quantize.MEDIANCUT)
  images = [
    Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
    for frame in _enlarge(video, min_side)
  ]
  with _whole_file(path) as part:
    images[0].save(
      part,
      format="GIF",
      save_all=True,
      append_images=images[1:],
      duration=delays.tolist(),
      loop=0,
      disposal=1,
      optimize=False,
    )


def contact_sheet(
  videos: Sequence[UInt8[np.ndarray, "_ h w 3"]] | UInt8[np.ndarray, "n f h w 3"],
  path: Path,
  min_side: int = 64,
) -> None:
  """Writes a picture of all frames: a row for each clip, a column for each frame.

  Args:
    videos: Clips of one size; rows of shorter clips end in white.
    path: The PNG file.
    min_side: Minimum length of the short side, as in `write_mp4`.
  """
  if not len(videos):
    raise ValueError("a contact sheet of no clips")
  enlarged = [_enlarge(video, min_side) for video in videos]
  columns = max(len(video) for video in enlarged)
  height, width = enlarged[0].shape[1:3]
  gap = 2
  sheet = np.full(
    (len(enlarged) * (height + gap) + gap, columns * (width + gap) + gap, 3),
    255,
    np.uint8,
  )
  for row, video in enumerate(enlarged):
    top = gap + row * (height + gap)
    for column, frame in enumerate(video):
      left = gap + column * (width + gap)
      sheet[top : top + height, left : left + width] = frame
  with _whole_file(path) as part:
    Image.fromarray(sheet).save(part, format="PNG")
