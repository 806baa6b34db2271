"""MUG: faces that go from rest to one of seven expressions and back.

Faces of 86 people in front of a blue screen, 896x896 at 19 frames per second, some 50
to 160 frames a take. Registered users get the pictures of 52 of them, about 38 GB;
papers on generation use these.

Source: Aifanti et al. 2010, "The MUG facial expression database"; researchers who sign
its license get an account, https://mug.ee.auth.gr/fed/. Not to be passed on.

Layout: a folder for each person contains one for each expression, which contains one
for each take, with its frames: `001/anger/take000/img_0000.jpg`. Three people came
twice; their folders are `002/session0/anger/take000/...`.

Split: that of LFDM (Ni et al. 2023, arXiv:2303.13744), by people, 26 and 26. For people
who came twice its code reads only `session0`, and so does this one. LaMD's split is not
known. The seven expressions are those of LFDM, in its order; takes of others, such as
`mixed`, are left out, and not every person shows every expression.

Preprocessing: LFDM presents a take as 40 frames evenly spaced over it, repeating the
last one where it has fewer (`sampling="uniform"`, the default here), resized to 128x128
without a crop; in training it draws frames at random and jitters colours, which is not
done here. LaMD shows 128x128 and 256x256; its number of frames is not known.

The caption is the expression, one word; `subject` is the number of the person, by which
LFDM groups its sFVD, the mean of the FVDs within each person.
"""

import pathlib
from typing import Annotated

from lamd_jax.data import listing, video_files
from lamd_jax.data.preprocessing import SAMPLINGS, Sampling, Square
from lamd_jax.schema import Bytes, FilePath, Frames, OneOf, Side
from lamd_jax.types import printable

URL = "https://mug.ee.auth.gr/fed/"
FPS = 19.0
EXPRESSIONS = (
  "anger",
  "disgust",
  "fear",
  "happiness",
  "neutral",
  "sadness",
  "surprise",
)
"""The label of a take is an index into this table."""
SUBJECTS = {
  "train": (
    8, 17, 21, 28, 30, 31, 34, 36, 37, 38, 39, 42, 43,
    44, 45, 55, 60, 61, 62, 63, 71, 75, 76, 77, 83, 84,
  ),
  "eval": (
    1, 2, 6, 7, 10, 13, 14, 20, 27, 32, 33, 40, 46,
    48, 49, 52, 64, 65, 66, 70, 72, 73, 74, 78, 79, 82,
  ),
}  # fmt: skip
_SESSION = "session0"


def open_mug(
  split: str,
  *,
  path: FilePath,
  num_frames: Frames,
  sampling: Annotated[str, OneOf(SAMPLINGS)] = "uniform",
  frame_stride: Frames = 1,
  resolution: Side = 128,
  cache_bytes: Bytes = 2**29,
) -> video_files.VideoFiles:
  """Lists the takes of a split; decodes one frame of each.

  Args:
    split: "train" or "eval"; no person is in both.
    path: The folder that contains those of the people.
    num_frames: Number of frames of a clip.
    sampling: Choice of frames of a take, a key of `preprocessing.SAMPLINGS`.
    frame_stride: For windows, distance in the take between neighbouring frames.
    resolution: Height and width of the squares in pixels.
    cache_bytes: Memory for decoded and resized frames.

  Returns:
    The source. Annotations are "label", an index into EXPRESSIONS, "caption", its
    word, and "subject".
  """
  taken = Sampling(sampling, num_frames, frame_stride)
  layout = f"<person>/<expression>/<take>/*.jpg of MUG, from {URL}"
  root = video_files.open_folder("data.path", path, f"with {layout}").resolve()
  found: list[tuple[str, tuple[str, ...]]] = []
  annotations: dict[str, dict[str, int | str]] = {}
  left_out: list[str] = []
  takes_there, passed_over = listing.list_videos(root, endings=())
  for name, frames in takes_there:
    known = _read_name(name)
    if isinstance(known, str):
      left_out.append(f"{printable(name)}: {known}")
    elif known["subject"] in SUBJECTS[split]:
      found.append((name, frames))
      annotations[name] = known
  takes, skipped = video_files.look_at(root, found, taken.min_frames, FPS, passed_over)
  skipped = left_out + skipped
  if not takes:
    raise video_files.none_usable(
      f"of a person of the split in data.path={str(path)!r}",
      skipped,
      taken.min_frames,
      f"a folder with {layout}",
    )
  clips = [
    video_files.sampled(take, taken)._replace(annotation=annotations[take.name])
    for take in takes
  ]
  return video_files.VideoFiles(
    root,
    video_files.mixed(clips),
    fps=video_files.median_fps(clips),
    skipped=skipped,
    square=Square(resolution),
    cache_bytes=cache_bytes,
    num_classes=len(EXPRESSIONS),
  )


def _read_name(name: str) -> dict[str, int | str] | str:
  """Returns the annotation in the path of a take, or why it is left out."""
  parts = pathlib.PurePosixPath(name).parts
  sessions = parts[1:-2]
  if len(parts) not in (3, 4) or not parts[0].isdecimal():
    return "expected <person>/<expression>/<take>"
  if sessions not in ((), (_SESSION,)):
    return f"the split has {_SESSION} alone"
  if int(parts[0]) not in SUBJECTS["train"] + SUBJECTS["eval"]:
    return "a person of neither part of the split"
  if parts[-2] not in EXPRESSIONS:
    return f"expected one of {', '.join(EXPRESSIONS)}"
  return {
    "label": EXPRESSIONS.index(parts[-2]),
    "caption": parts[-2],
    "subject": int(parts[0]),
  }
