"""CATER-GEN: rendered solids that slide, turn and are lifted, as a sentence says.

Made by the authors of MAGE with the generator of CATER, for videos from an image and a
text. In v1 a cone and a snitch (a golden thing of three rings) move; in v2 some solids
of several shapes, sizes, colours and materials, of which one or two move. Each video
has two captions. The explicit one says all: "the small gray metal cone is sliding to
(-1, 2)."; places are columns and rows from -3 to 3, without 0. The ambiguous one leaves
out attributes, and names quadrants: "the cone is sliding to the second quadrant."; more
than one video is true of it. In v1 the shapes alone are named, in both.

Source: Hu et al. 2022 (MAGE, arXiv:2112.02815); https://github.com/Youncy-Hu/MAGE links
folders of Google Drive: v1 1ICIP5qY1rTod-hTLz5zJSxlbrHrGrdt4, v2
1xJM7gNDCslpM8MJNYT1fqgiG8yyIl6ue. MAGE's code is under the Apache License 2.0; of the
data no licence is stated.

Layout, of both versions: `videos/*.avi`, and `train_explicit.json`,
`train_ambiguous.json`, `test_explicit.json` and `test_ambiguous.json`, each an object
{"0": {"video": "videos/....avi", "caption": "..."}, "1": ...}.

Split: that of these files, by their generator 80 and 20 in 100, of up to 30,000 videos
(24,000 and 6,000 in v2, then). How many there are in v1, their size and their length
were not found.

Preprocessing: MAGE brings the short side to 128 pixels, draws a speed, takes 10 frames
from the first on at 3 to 6 frames from one to the next, and repeats the last frame of a
video that ends before; the speed is a condition of its network. LaMD has none that is
known of, so here a clip is evenly spaced over the whole video (`sampling="uniform"`;
MAGE takes such clips too, beside its own, with ambiguous captions), and shows where
things end up. How LaMD samples, its resolution and which captions its table is of
are not known: measure with both, and say which.

`vocabulary.VOCABULARIES` has the words of the captions.
"""

import json
import pathlib
from typing import NamedTuple

from lamd_jax.data import video_files
from lamd_jax.data.preprocessing import Sampling, Square
from lamd_jax.types import UserError

URL = "https://github.com/Youncy-Hu/MAGE"
CAPTIONS = ("explicit", "ambiguous")
_PARTS = {"train": "train", "eval": "test"}


class _Entry(NamedTuple):
  """A video, relative to the folder, and what happens in it."""

  video: str
  caption: str


def open_cater_gen(
  split: str,
  *,
  path: str,
  captions: str,
  num_frames: int,
  sampling: str = "uniform",
  frame_stride: int = 1,
  resolution: int = 128,
  cache_bytes: int = 2**29,
) -> video_files.VideoFiles:
  """Reads a file of captions and probes the videos; decodes one frame of each.

  Args:
    split: "train" or "eval", which is `test` in the names of the files.
    path: The folder CATER-GEN-v1 or CATER-GEN-v2.
    captions: "explicit" or "ambiguous".
    num_frames: Frames of a clip.
    sampling: Which frames of a video; see `preprocessing.SAMPLINGS`.
    frame_stride: For windows, frames of the video from one of its frames to the next.
    resolution: Height and width in pixels to which frames are brought.
    cache_bytes: Memory for frames already decoded and resized.

  Returns:
    The source. Annotations are "caption".
  """
  taken = Sampling(sampling, num_frames, frame_stride)
  if captions not in CAPTIONS:
    raise UserError(
      f"data.captions is {captions!r}; expected 'explicit', which say all, or "
      "'ambiguous', which leave something open"
    )
  layout = f"videos/*.avi and {{train,test}}_{captions}.json of CATER-GEN, from {URL}"
  root = video_files.open_folder("data.path", path, f"with {layout}")
  file = root / f"{_PARTS[split]}_{captions}.json"
  entries = _read_entries(file)
  videos, skipped = video_files.look_at_listed(
    root,
    [entry.video for entry in entries],
    taken.min_frames,
    where=file.name,
    expected=f"in data.path={str(path)!r}: {layout}",
  )
  clips = [
    video_files.sampled(videos[entry.video], taken)._replace(
      annotation={"caption": entry.caption}
    )
    for entry in entries
    if entry.video in videos
  ]
  return video_files.VideoFiles(
    root,
    video_files.mixed(clips),
    fps=video_files.median_fps(clips),
    skipped=skipped,
    square=Square(resolution),
    cache_bytes=cache_bytes,
  )


def _read_entries(path: pathlib.Path) -> list[_Entry]:
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise UserError(
      f"data.path={str(path.parent)!r}: {path.name} cannot be read "
      f"({error.strerror}); expected the folder CATER-GEN-v1 or -v2 from {URL}"
    ) from error
  except ValueError as error:
    raise UserError(f"{path} is not JSON ({error}); get it again from {URL}") from error
  if not isinstance(content, dict) or not content:
    raise UserError(
      f"{path} holds no object with entries; expected {{'0': {{'video': ..., "
      f"'caption': ...}}, ...}}; get it again from {URL}"
    )
  entries: list[_Entry] = []
  for key, entry in content.items():
    values = entry if isinstance(entry, dict) else {}
    video, caption = values.get("video"), values.get("caption")
    if not isinstance(video, str) or not isinstance(caption, str):
      raise UserError(
        f"{path}, entry {key!r}: {str(entry)[:80]!r}; expected a 'video' and a "
        f"'caption'; get it again from {URL}"
      )
    # Each sentence of the generator begins with a space.
    entries.append(_Entry(video, " ".join(caption.split())))
  return entries
