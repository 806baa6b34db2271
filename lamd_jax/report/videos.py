"""The rows of video on a report: each clip with what a model made of it."""

import base64
import dataclasses
import io
import pathlib
import tempfile
from typing import Literal

import numpy as np
from PIL import Image

from lamd_jax.data import media
from lamd_jax.report.reading import Clips

MAX_CLIPS = 8  # Rows of video on the page,
MAX_SAMPLES = 5  # and samples in a row: a browser plays some 60 videos at once.
CLIP_PIXELS = 192  # Smaller clips are enlarged to at least this short side.


@dataclasses.dataclass(frozen=True)
class Tile:
  """One video, or the picture that a model was given."""

  kind: Literal["given", "real", "reconstructed", "sampled"]
  name: str  # The caption, as in "sample 2".
  url: str  # The file itself, as a data URL.


@dataclasses.dataclass(frozen=True)
class Row:
  """A held-out clip and what the model made of it."""

  number: int
  caption: str
  tiles: list[Tile]


@dataclasses.dataclass(frozen=True)
class Videos:
  """The rows of video, with what the page says about them."""

  rows: list[Row]
  width: int  # Of a clip in pixels.
  height: int
  num_clips: int  # In samples/clips.npz; `rows` may have fewer.
  num_samples: int  # Of each clip there,
  shown_samples: int  # and on the page.
  num_frames: int
  given_frames: int
  fps: float
  is_reconstructed: bool


def make_videos(clips: Clips) -> Videos:
  """Encodes clips as H.264 for the page, as many as a browser plays at once."""
  num_clips, num_frames, height, width = clips.real.shape[:4]
  num_samples = clips.sampled.shape[1]
  shown = min(num_samples, MAX_SAMPLES)
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "clip.mp4"

    def encode(video: np.ndarray) -> str:
      media.write_mp4(path, video, clips.fps, min_side=CLIP_PIXELS)
      return data_url(path.read_bytes(), "video/mp4")

    for n in range(min(num_clips, MAX_CLIPS)):
      tiles = []
      if clips.given_frames:
        tiles.append(Tile("given", "given frame", _png(clips.real[n, 0])))
      tiles.append(Tile("real", "real", encode(clips.real[n])))
      if clips.reconstructed is not None:
        url = encode(clips.reconstructed[n])
        tiles.append(Tile("reconstructed", "reconstructed", url))
      for s in range(shown):
        url = encode(clips.sampled[n, s])
        tiles.append(Tile("sampled", f"sample {s + 1}", url))
      caption = clips.captions[n] if n < len(clips.captions) else ""
      rows.append(Row(n + 1, caption, tiles))
  return Videos(
    rows=rows,
    width=width,
    height=height,
    num_clips=num_clips,
    num_samples=num_samples,
    shown_samples=shown,
    num_frames=num_frames,
    given_frames=clips.given_frames,
    fps=clips.fps,
    is_reconstructed=clips.reconstructed is not None,
  )


def data_url(content: bytes, kind: str) -> str:
  """Returns a file as a URL that holds it whole.

  Args:
    content: The bytes of the file.
    kind: Its media type, such as "video/mp4".
  """
  return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _png(image: np.ndarray) -> str:
  out = io.BytesIO()
  Image.fromarray(image).save(out, "PNG", optimize=True)
  return data_url(out.getvalue(), "image/png")
