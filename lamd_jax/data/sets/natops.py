"""NATOPS: 24 gestures for handling aircraft on the deck of a carrier.

20 people in front of one fixed camera, each with 20 repetitions of each gesture: 9,600
samples of 2.3 seconds on average, 320x240 at 20 frames per second. The archives also
contain masks and depth, which are not used here.

Source: Song et al. 2011, "Tracking Body and Hands for Gesture Recognition: NATOPS
Aircraft Handling Signals Database"; https://github.com/yalesong/natops has the script
that downloads all of it into `data`. The authors state no license for the videos: use
them for research, and ask before passing them on.

Layout: `data/gesture01/g01s01.avi`, one video for each gesture and person with all
repetitions, and `data/segmentation.txt`, which says where they are. That file was not
available when this was written; its format is known from LFDM's code, which reads
sections that begin with `// Subject`, in the order of the people; in each section, for
each gesture in order, a line of three numbers separated by commas, and below it for
each repetition a line such as `1:23,70`: its number, its first and its last frame,
counted from 1. All other lines are ignored.

Split: that of LFDM (Ni et al. 2023, arXiv:2303.13744), by people: 10 for training,
4,800 clips; 9 for testing, 4,320; the first person is in neither. LaMD's split is not
known.

Preprocessing, as in LFDM: rows 10 to 238 and columns 30 to 289 are cut out; the longer
side is resized to 128 pixels, with black bars above and below (`fit="pad"`); a clip is
40 frames evenly spaced over the repetition, repeating the last one where it has fewer
(`sampling="uniform"`; some of LFDM's training draws frames at random and jitters
colours, which is not done here). These are the defaults; LaMD's are not known. With
`fit="crop"` there are no bars, and hands of outstretched arms may be cut off.

The caption is the name of the gesture; `subject` is the number of the person, by which
LFDM groups its sFVD, the mean of the FVDs within each person.
"""

import pathlib
import re
from typing import Annotated

from absl import logging

from lamd_jax.data import video_files
from lamd_jax.data.preprocessing import FITS, SAMPLINGS, Sampling, Square
from lamd_jax.data.regular_files import read_text
from lamd_jax.schema import Bytes, FilePath, Frames, OneOf, Side
from lamd_jax.types import UserError

URL = "https://github.com/yalesong/natops"
GESTURES = (
  "I have command",
  "all clear",
  "not clear",
  "spread wings",
  "fold wings",
  "lock wings",
  "up hook",
  "down hook",
  "remove tiedowns",
  "remove chocks",
  "insert chocks",
  "move ahead",
  "turn left",
  "turn right",
  "next marshaller",
  "slow down",
  "stop",
  "nosegear steering",
  "hot brakes",
  "brakes on",
  "brakes off",
  "install tiedowns",
  "fire",
  "cut engine",
)
"""The label of a clip is an index into this table; file names count from 1."""
SUBJECTS = {
  "train": (3, 4, 8, 9, 12, 13, 15, 17, 19, 20),
  "eval": (2, 5, 6, 7, 10, 11, 14, 16, 18),
}
BOX = (10, 239, 30, 290)
"""The part that is cut out: first row, row after the last, and the same for columns."""
_NUM_SUBJECTS = 20
_GESTURE = re.compile(r"\d+\s*,\s*\d+\s*,\s*\d+")
_REPETITION = re.compile(r"\d+\s*:\s*(\d{1,9})\s*,\s*(\d{1,9})\b")

# By person and gesture, from 1: first and last frame of each repetition, from 0.
_Segments = dict[tuple[int, int], list[tuple[int, int]]]


def open_natops(
  split: str,
  *,
  path: FilePath,
  num_frames: Frames,
  sampling: Annotated[str, OneOf(SAMPLINGS)] = "uniform",
  frame_stride: Frames = 1,
  resolution: Side = 128,
  fit: Annotated[str, OneOf(FITS)] = "pad",
  cache_bytes: Bytes = 2**29,
) -> video_files.VideoFiles:
  """Reads the segmentation and probes the videos; decodes one frame of each.

  Args:
    split: "train" or "eval"; no person is in both.
    path: The folder `data`, with segmentation.txt.
    num_frames: Number of frames of a clip.
    sampling: Choice of frames of a repetition, a key of `preprocessing.SAMPLINGS`.
    frame_stride: For windows, distance in the video between neighbouring frames.
    resolution: Height and width of the squares in pixels.
    fit: Conversion of the cut-out into a square, a key of `preprocessing.FITS`.
    cache_bytes: Memory for decoded and resized frames.

  Returns:
    The source, with a clip for each repetition. Annotations are "label", an index into
    GESTURES, "caption", its words, and "subject".
  """
  taken = Sampling(sampling, num_frames, frame_stride)
  square = Square(resolution, fit, BOX)
  layout = f"segmentation.txt and gesture01/g01s01.avi, ... of NATOPS, from {URL}"
  root = video_files.open_folder("data.path", path, f"with {layout}")
  segments = _read_segmentation(root / "segmentation.txt")
  places = {
    f"gesture{gesture:02d}/g{gesture:02d}s{subject:02d}.avi": (subject, gesture)
    for gesture in range(1, len(GESTURES) + 1)
    for subject in SUBJECTS[split]
  }
  expected = f"in data.path={str(path)!r}: {layout}"
  videos, skipped = video_files.look_at_listed(
    root, places, taken.min_frames, where="the split", expected=expected
  )
  clips: list[video_files.Video] = []
  lines: list[str] = []
  for name, video in videos.items():
    subject, gesture = places[name]
    annotation: dict[str, int | str] = {
      "label": gesture - 1,
      "caption": GESTURES[gesture - 1],
      "subject": subject,
    }
    for number, (first, last) in enumerate(segments[subject, gesture], 1):
      called = f"{name}, repetition {number}"
      clip = video._replace(
        first=first, num_frames=last - first + 1, annotation=annotation
      )
      if last >= video.num_frames:
        lines.append(
          f"{called}: ends with frame {last + 1}, the video has {video.num_frames}"
        )
      elif line := video_files.too_short(clip, taken.min_frames, called):
        lines.append(line)
      else:
        clips.append(video_files.sampled(clip, taken))
  if lines:
    total = len(lines) + len(clips)
    logging.warning("left out: %d of %d repetitions: %s", len(lines), total, lines[0])
  if not clips:
    raise video_files.none_usable(
      "in segmentation.txt", lines, taken.min_frames, expected
    )
  return video_files.VideoFiles(
    root,
    # Shuffled, so that repetitions of one gesture by one person are not in a row.
    video_files.mixed(clips, lambda clip: f"{clip.name}:{clip.first}"),
    fps=video_files.median_fps(clips),
    skipped=skipped + lines,
    square=square,
    cache_bytes=cache_bytes,
    num_classes=len(GESTURES),
  )


def _read_segmentation(path: pathlib.Path) -> _Segments:
  again = f"get it again from {URL}"
  try:
    text = read_text(path, errors="replace")
  except OSError as error:
    raise UserError(
      f"data.path={str(path.parent)!r}: {path.name} cannot be read "
      f"({error.strerror}); expected the folder 'data' of NATOPS, from {URL}"
    ) from error
  segments: _Segments = {}
  subject = gesture = 0
  for number, line in enumerate(map(str.strip, text.splitlines()), 1):
    if line.startswith("// Subject"):
      if subject and gesture != len(GESTURES):
        raise UserError(
          f"{path}, line {number}: {gesture} gestures in the section above, expected "
          f"{len(GESTURES)}; {again}"
        )
      subject, gesture = subject + 1, 0
    elif _GESTURE.match(line):
      gesture += 1
      segments[subject, gesture] = []
    elif found := _REPETITION.match(line):
      first, last = (int(value) - 1 for value in found.groups())
      if (subject, gesture) not in segments or not 0 <= first <= last:
        raise UserError(
          f"{path}, line {number}: {line!r}; expected, below a line of three numbers, "
          f"a repetition as in '1:23,70', frames counted from 1; {again}"
        )
      segments[subject, gesture].append((first, last))
  if (subject, gesture) != (_NUM_SUBJECTS, len(GESTURES)):
    raise UserError(
      f"{path} has {subject} sections '// Subject', {gesture} gestures in the last; "
      f"expected {_NUM_SUBJECTS} of {len(GESTURES)}; {again}"
    )
  return segments
