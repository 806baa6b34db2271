"""CATER-GEN: rendered solids that slide, rotate and are lifted as a sentence says.

Made by the authors of MAGE with the generator of CATER, for videos from an image and a
text. In v1 a cone and a snitch (a golden object of three rings) move; v2 shows solids
of several shapes, sizes, colours and materials, of which one or two move. Each video
has two captions. The explicit one is complete: "the small gray metal cone is sliding to
(-1, 2)."; positions are columns and rows from -3 to 3, without 0. The ambiguous one
omits attributes and names quadrants: "the cone is sliding to the second quadrant."; it
fits more than one video. In v1 both captions name only shapes.

Source: Hu et al. 2022 (MAGE, arXiv:2112.02815); https://github.com/Youncy-Hu/MAGE links
folders of Google Drive: v1 1ICIP5qY1rTod-hTLz5zJSxlbrHrGrdt4, v2
1xJM7gNDCslpM8MJNYT1fqgiG8yyIl6ue. MAGE's code is under the Apache License 2.0; no
license is stated for the data.

Layout of both versions: `videos/*.avi`, and `train_explicit.json`,
`train_ambiguous.json`, `test_explicit.json` and `test_ambiguous.json`, each an object
{"0": {"video": "videos/....avi", "caption": "..."}, "1": ...}.

Split: that of these files, which the generator divides 80 to 20, of up to 30,000 videos
(so 24,000 and 6,000 in v2). The number of videos in v1, their size and their length
were not found.

Preprocessing: MAGE resizes the short side to 128 pixels, draws a speed, takes 10 frames
from the first one on, 3 to 6 frames apart, and repeats the last frame of a video that
ends before; the speed is a condition of its network. LaMD has no such condition that is
known, so here a clip is evenly spaced over the whole video (`sampling="uniform"`; MAGE
uses such clips too, along with its own, with ambiguous captions) and shows where things
end up. LaMD's sampling, its resolution and the captions behind its table are not known:
measure with both captions, and say which.

`vocabulary.VOCABULARIES` has the words of the captions.
"""

import json
import pathlib
from typing import Annotated, NamedTuple

from lamd_jax.data import video_files
from lamd_jax.data.preprocessing import SAMPLINGS, Sampling, Square
from lamd_jax.data.regular_files import read_text
from lamd_jax.schema import Bytes, FilePath, Frames, OneOf, Side
from lamd_jax.types import UserError

URL = "https://github.com/Youncy-Hu/MAGE"
CAPTIONS = ("explicit", "ambiguous")
_PARTS = {"train": "train", "eval": "test"}


class _Entry(NamedTuple):
  """A video, by its path relative to the folder, and its caption."""

  video: str
  caption: str


def open_cater_gen(
  split: str,
  *,
  path: FilePath,
  captions: Annotated[str, OneOf(CAPTIONS)],
  num_frames: Frames,
  sampling: Annotated[str, OneOf(SAMPLINGS)] = "uniform",
  frame_stride: Frames = 1,
  resolution: Side = 128,
  cache_bytes: Bytes = 2**29,
) -> video_files.VideoFiles:
  """Reads a file of captions and probes the videos; decodes one frame of each.

  Args:
    split: "train" or "eval", which is `test` in the names of the files.
    path: The folder CATER-GEN-v1 or CATER-GEN-v2.
    captions: "explicit" or "ambiguous".
    num_frames: Number of frames of a clip.
    sampling: Choice of frames of a video, a key of `preprocessing.SAMPLINGS`.
    frame_stride: For windows, distance in the video between neighbouring frames.
    resolution: Height and width of the squares in pixels.
    cache_bytes: Memory for decoded and resized frames.

  Returns:
    The source, with the annotation "caption".
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
    content = json.loads(read_text(path))
  except OSError as error:
    raise UserError(
      f"data.path={str(path.parent)!r}: {path.name} cannot be read "
      f"({error.strerror}); expected the folder CATER-GEN-v1 or -v2 from {URL}"
    ) from error
  except (ValueError, RecursionError) as error:
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
