"""UCF-101: 13,320 short clips of 101 human actions.

Clips of sports, instruments, housework and the like, cut from web videos: avi,
320x240, most at 25 frames per second, 29 to 1,776 frames. Each class has 25 groups
(`_g01_`), each cut from one video, so clips of a group look alike.

Source: Soomro et al. 2012 (arXiv:1212.0402); videos (6.5 GB) and split files at
https://www.crcv.ucf.edu/data/UCF101.php. The authors state no license, and the videos
are other people's: use them for research, and ask before passing them on.

Splits, in `ucfTrainTestlist`: three divisions of the 13,320 videos, none with a group
on both sides; 1: 9,537 for training, 3,783 for testing; 2: 9,586 and 3,734; 3: 9,624
and 3,696. Papers on generation differ here, and their numbers cannot be compared with
each other: VDM (Ho et al. 2022), LVDM's diffusion, DIGAN, StyleGAN-V and MoCoGAN-HD
train on all 13,320 and take real clips for FVD from them too; TATS, and LVDM's
autoencoder, train on the 9,537 of split 1. Hence `split_number` has no default.

Resizing, which papers rarely describe: the short side, antialiased, then the centre
square, as for all video files here. Clips are shuffled in a fixed order, so the first
ones, which evaluation takes, cover many classes.
"""

import pathlib
import re
from typing import Annotated, Literal

from absl import logging

from lamd_jax.data import video_files
from lamd_jax.data.preprocessing import Square
from lamd_jax.data.regular_files import read_text
from lamd_jax.schema import Bytes, FilePath, Frames, Range, Side
from lamd_jax.types import UserError

URL = "https://www.crcv.ucf.edu/data/UCF101.php"
ALL = "all"
_SPLITS = ("1", "2", "3", ALL)


def open_ucf101(
  split: str,
  *,
  path: FilePath,
  splits_path: FilePath,
  split_number: Annotated[int, Range(1, 3)] | Literal["1", "2", "3", "all"],
  num_frames: Frames,
  frame_stride: Frames = 1,
  resolution: Side = 64,
  cache_bytes: Bytes = 2**29,
) -> video_files.VideoFiles:
  """Reads the split files and probes the videos; decodes one frame of each.

  Args:
    split: "train" or "eval".
    path: The folder UCF-101, with a folder for each class.
    splits_path: The folder ucfTrainTestlist.
    split_number: 1, 2 or 3, for training on its training list and evaluation on its
      test list; or "all", for both on all videos, with a warning.
    num_frames: Number of frames of a window.
    frame_stride: Distance in the video between neighbouring frames of a window.
    resolution: Height and width of the squares in pixels.
    cache_bytes: Memory for decoded and resized frames.

  Returns:
    The source. Annotations are "label", from 0 in the order of classInd.txt, and
    "caption", the name of the class in words.
  """
  layout = f"UCF-101 as it is distributed at {URL}, <ClassName>/v_<ClassName>_*.avi"
  root = video_files.open_folder("data.path", path, f"with {layout}")
  lists = video_files.open_folder(
    "data.splits_path",
    splits_path,
    f"with classInd.txt, trainlist01.txt, ... of ucfTrainTestlist from {URL}",
  )
  number = str(split_number)
  if number not in _SPLITS:
    raise UserError(
      f"data.split_number is {split_number!r}; expected 1, 2 or 3, or 'all' to train "
      "and to evaluate on all 13,320 videos"
    )
  labels = _read_labels(lists)
  kinds = {"train": ("train",), "eval": ("test",)}[split]
  if number == ALL:  # The lists of every split hold all videos together.
    kinds, number = ("train", "test"), "1"
    if split == "eval":
      logging.warning(
        "data.split_number='all': evaluation uses the videos that training sees, as "
        "papers do that train on all of UCF-101; its figures say nothing about new ones"
      )
  files = [f"{kind}list0{number}.txt" for kind in kinds]
  listed = [_read_list(lists / file, labels) for file in files]
  names = [name for part in listed for name in part]
  videos, skipped = video_files.look_at_listed(
    root,
    names,
    (num_frames - 1) * frame_stride + 1,
    where=" and ".join(files),
    expected=f"in data.path={str(path)!r}: {layout}",
  )
  annotated = [
    video._replace(annotation=_annotation(pathlib.PurePosixPath(name).parts[0], labels))
    for name, video in videos.items()
  ]
  return video_files.VideoFiles(
    root,
    video_files.mixed(annotated),
    fps=video_files.median_fps(annotated),
    skipped=skipped,
    square=Square(resolution),
    cache_bytes=cache_bytes,
    num_classes=len(labels),
  )


def readable(class_name: str) -> str:
  """Returns a class name in words: "ApplyEyeMakeup" becomes "apply eye makeup"."""
  return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", class_name).lower()


def _annotation(class_name: str, labels: dict[str, int]) -> dict[str, int | str]:
  return {"label": labels[class_name], "caption": readable(class_name)}


def _read_lines(path: pathlib.Path) -> list[tuple[int, list[str]]]:
  """Returns number and words of each line that is not empty."""
  try:
    text = read_text(path)
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, "strerror", None) or "it is not a text file"
    raise UserError(
      f"data.splits_path={str(path.parent)!r}: {path.name} cannot be read ({reason}); "
      f"expected the folder ucfTrainTestlist from {URL}"
    ) from error
  lines = enumerate(text.splitlines(), 1)
  return [(number, line.split()) for number, line in lines if line.strip()]


def _read_labels(lists: pathlib.Path) -> dict[str, int]:
  """Reads class name -> number from 0 from lines such as "1 ApplyEyeMakeup"."""
  path = lists / "classInd.txt"
  labels: dict[str, int] = {}
  for number, words in _read_lines(path):
    # The lines are in order, so every number has exactly one class.
    if len(words) != 2 or words[0] != str(len(labels) + 1) or words[1] in labels:
      raise UserError(
        f"{path}, line {number}: {' '.join(words)!r}; expected {len(labels) + 1} and "
        f"the name of a class; get ucfTrainTestlist from {URL} again"
      )
    labels[words[1]] = len(labels)
  if not labels:
    raise UserError(f"{path} is empty; get ucfTrainTestlist from {URL} again")
  return labels


def _read_list(path: pathlib.Path, labels: dict[str, int]) -> list[str]:
  """Reads names of videos from lines such as "Archery/v_Archery_g08_c01.avi 3"."""
  names: list[str] = []
  for number, (name, *rest) in _read_lines(path):
    class_name, _, file = name.partition("/")
    label = labels.get(class_name)
    # Test lists omit the number.
    is_right = label is not None and rest in ([], [str(label + 1)])
    if not file or not is_right:
      known = "its number in classInd.txt" if label is None else f"{label + 1}"
      raise UserError(
        f"{path}, line {number}: {' '.join([name, *rest])!r}; expected a class of "
        f"classInd.txt, '/', the file and {known}; get ucfTrainTestlist from {URL} "
        "again"
      )
    names.append(name)
  return names
