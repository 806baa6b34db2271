"""A folder of videos with a csv that describes them, such as Kinetics.

The csv has a header; columns that no key names are ignored. A row names a video file or
a folder of frames. Kinetics itself is published as such files, with labels and times in
web videos, and whoever downloads it cuts the videos: add a column with the paths of
yours. Many videos have disappeared by then, so rows without a video are counted, not
refused.

Clips are shuffled in a fixed order, because such files are often sorted by class and
evaluation takes the first clips.
"""

import collections
import csv as csv_lib
import decimal
import pathlib
import re
from typing import Any, NamedTuple

from absl import logging

from lamd_jax.data import video_files
from lamd_jax.data.preprocessing import Square
from lamd_jax.data.sets import video_folder
from lamd_jax.schema import Bytes, FilePath, Frames, Side
from lamd_jax.types import UserError, printable

TRAIN = "train"
"""Value of the split column for training videos."""


# As pandas and people write them; decimal, so that digits beyond a float's count too.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_MOST_NAMED = 50  # Classes in the line of the log.


class _Columns(NamedTuple):
  """Names of columns; None for columns that are not read."""

  path: str
  label: str | None
  caption: str | None
  split: str | None


class _Row(NamedTuple):
  """A row of the csv; "" for columns that are not read."""

  name: str
  label: str
  caption: str
  split: str


def open_video_csv(
  split: str,
  *,
  path: FilePath,
  csv: FilePath,
  num_frames: Frames,
  path_column: str = "path",
  label_column: str | None = None,
  caption_column: str | None = None,
  split_column: str | None = None,
  eval_value: str | None = None,
  eval_csv: FilePath | None = None,
  empty_captions: bool = False,
  frame_stride: Frames = 1,
  resolution: Side = 64,
  cache_bytes: Bytes = 2**29,
) -> video_files.VideoFiles:
  """Reads the csv and probes the videos; decodes one frame of each.

  The held-out videos are those of `eval_csv`, or those marked in `split_column`;
  without either, names decide, as for a folder of videos.

  Args:
    split: "train" or "eval".
    path: The folder with the videos.
    csv: The csv file; with an `eval_csv`, the one for training.
    num_frames: Number of frames of a window.
    path_column: Column with the paths of the videos, relative to the folder.
    label_column: Column with the classes, by name or by number. They are numbered from
      0 in the order of the names, or of the numbers, of all training rows; 1 and 1.0
      are one number. The log says which class has which number.
    caption_column: Column with the captions.
    split_column: Column with the split: "train" for training; other values are for
      evaluation or unused.
    eval_value: Value of `split_column` for evaluation; optional where there is only one
      other than "train".
    eval_csv: A second csv file, with the same columns, for evaluation.
    empty_captions: Whether captions may be empty.
    frame_stride: Distance in the video between neighbouring frames of a window.
    resolution: Height and width of the squares in pixels.
    cache_bytes: Memory for decoded and resized frames.

  Returns:
    The source. Annotations are "label" and "class_name", and "caption", where columns
    are named for them. A video in several rows, each with its own caption, is trained
    on with every caption and evaluated with the first.
  """
  if split_column and eval_csv:
    raise UserError(
      f"data.split_column={split_column!r} and data.eval_csv={str(eval_csv)!r} both "
      "say what is held out; give one of them"
    )
  if eval_value and not split_column:
    raise UserError(f"data.eval_value={eval_value!r} needs data.split_column")
  root = video_files.open_folder("data.path", path, "with the videos of data.csv")
  columns = _Columns(path_column, label_column, caption_column, split_column)
  rows = _read("data.csv", csv, columns, root)
  parts = {"train": rows, "eval": rows}
  if eval_csv:
    parts["eval"] = _read("data.eval_csv", eval_csv, columns, root)
  elif split_column:
    parts = _split(rows, split_column, eval_value)
  if caption_column and not empty_captions:
    _require_captions(parts, caption_column)
  classes = None
  if label_column:
    parts, classes = _classes(parts, label_column)
    if split == "train":
      numbered = [f"{printable(name)} is {i}" for name, i in classes.items()]
      more = f", ... ({len(numbered)} classes)" if len(numbered) > _MOST_NAMED else ""
      logging.info("labels: %s%s", ", ".join(numbered[:_MOST_NAMED]), more)
  has_split = bool(eval_csv or split_column)
  if split == "eval" and has_split:
    _warn_of_overlap(parts)

  span = (num_frames - 1) * frame_stride + 1
  videos, skipped = video_files.look_at_listed(
    root,
    [row.name for row in parts[split]],
    span,
    where=eval_csv if eval_csv and split == "eval" else csv,
    expected=f"column {path_column!r} to name files in data.path={str(path)!r}",
  )
  by_path = {video.name: video for video in videos.values()}
  fps = video_files.median_fps(by_path.values())
  if not has_split:
    divided = video_folder.divide(list(by_path.values()), span, split)
    by_path = {video.name: video for video in divided}
  videos = {x: by_path[y.name] for x, y in videos.items() if y.name in by_path}
  used = [row for row in parts[split] if row.name in videos]
  if split == "eval":  # Counting a clip twice makes a small set look large.
    used = list({videos[row.name].name: row for row in reversed(used)}.values())
  annotated = [
    videos[row.name]._replace(annotation=_annotation(row, columns, classes))
    for row in used
  ]
  return video_files.VideoFiles(
    root,
    video_files.mixed(annotated),
    fps=fps,
    skipped=skipped,
    square=Square(resolution),
    cache_bytes=cache_bytes,
    num_classes=None if classes is None else len(classes),
  )


def _annotation(
  row: _Row, columns: _Columns, classes: dict[str, int] | None
) -> dict[str, int | str]:
  annotation: dict[str, int | str] = {}
  if classes is not None:
    annotation |= {"label": classes[row.label], "class_name": row.label}
  if columns.caption:
    annotation["caption"] = row.caption
  return annotation


def _read(key: str, file: str, columns: _Columns, root: pathlib.Path) -> list[_Row]:
  """Reads all rows, each with a path."""
  path = pathlib.Path(file).expanduser()
  what = f"{key}={str(file)!r}"
  if not path.is_file():
    raise UserError(f"{what} is not a file; expected a csv with a header")
  try:
    # Excel begins its files with a byte order mark.
    with open(path, encoding="utf-8-sig", newline="") as stream:
      reader = csv_lib.reader(stream, strict=True)
      header = [name.strip() for name in next(reader, [])]
      places = [_place(what, header, *item) for item in columns._asdict().items()]
      rows: list[_Row] = []
      for values in reader:
        if not values:  # An empty line.
          continue
        if len(values) != len(header):
          raise UserError(
            f"{what}, line {reader.line_num}: {len(values)} values, the header has "
            f"{len(header)}; a text with commas needs quotes around it"
          )
        row = _Row(*("" if i is None else values[i].strip() for i in places))
        if not row.name:
          raise UserError(
            f"{what}, line {reader.line_num}: nothing in column {columns.path!r}"
          )
        rows.append(row._replace(name=_relative(row.name, root)))
  except (csv_lib.Error, UnicodeDecodeError, OSError) as error:
    raise UserError(f"{what} cannot be read as a csv in UTF-8 ({error})") from error
  if not rows:
    raise UserError(f"{what} has no rows below its header; expected one for each video")
  return rows


def _place(what: str, header: list[str], key: str, column: str | None) -> int | None:
  """Returns the position of a column."""
  if not column:
    return None
  if header.count(column) != 1:
    found = "several columns" if column in header else "no column"
    raise UserError(
      f"{what} has {found} {column!r} (data.{key}_column); its columns are: "
      f"{', '.join(header)}"
    )
  return header.index(column)


def _relative(name: str, root: pathlib.Path) -> str:
  """Returns a path in the folder relative to it; other paths unchanged."""
  path = pathlib.PurePath(name)
  for base in (root.absolute(), root.resolve()):
    if path.is_absolute() and path.is_relative_to(base):
      path = path.relative_to(base)
  return path.as_posix()


def _split(
  rows: list[_Row], column: str, eval_value: str | None
) -> dict[str, list[_Row]]:
  """Returns the rows for training and those for evaluation."""
  found: dict[str, list[_Row]] = collections.defaultdict(list)
  for row in rows:
    found[row.split].append(row)
  values = ", ".join(map(repr, sorted(found)))
  others = sorted(set(found) - {TRAIN})
  if TRAIN not in found or not others:
    raise UserError(
      f"data.split_column={column!r} has the values {values}; expected {TRAIN!r} and "
      "another one, for evaluation"
    )
  if eval_value is None and len(others) == 1:
    eval_value = others[0]
  if eval_value not in others:
    given = "is not set" if eval_value is None else f"is {eval_value!r}"
    raise UserError(
      f"data.eval_value {given}; data.split_column={column!r} has, besides {TRAIN!r}, "
      f"the values {', '.join(map(repr, others))}: give one of them"
    )
  return {"train": found[TRAIN], "eval": found[eval_value]}


def _require_captions(parts: dict[str, list[_Row]], column: str) -> None:
  rows = list(dict.fromkeys(row for part in parts.values() for row in part))
  if empty := [row.name for row in rows if not row.caption]:
    raise UserError(
      f"data.caption_column={column!r} is empty in {len(empty)} of {len(rows)} rows, "
      f"the first is that of {empty[0]!r}; complete it, or allow such rows: "
      "--config.data.empty_captions=True"
    )


def _classes(
  parts: dict[str, list[_Row]], column: str
) -> tuple[dict[str, list[_Row]], dict[str, int]]:
  """Returns the rows with one spelling for each class, and the number of each class."""
  rows = list(dict.fromkeys(row for part in parts.values() for row in part))
  if empty := [row.name for row in rows if not row.label]:
    raise UserError(
      f"data.label_column={column!r} is empty in {len(empty)} of {len(rows)} rows, "
      f"the first is that of {empty[0]!r}; complete it"
    )
  labels = sorted({row.label for row in parts["train"]}, key=lambda x: (len(x), x))
  are_numbers = all(_NUMBER.fullmatch(label) for label in labels)
  key_of = lambda label: label
  if are_numbers:
    is_number = _NUMBER.fullmatch
    key_of = lambda label: decimal.Decimal(label) if is_number(label) else label
  names: dict[Any, str] = {}  # The shortest spelling of each number.
  for label in labels:
    names.setdefault(key_of(label), label)
  ordered = [names[key] for key in sorted(names)]
  for row in parts["eval"]:
    if key_of(row.label) not in names:
      raise UserError(
        f"{row.name!r} is for evaluation and has the label {row.label[:200]!r}, which "
        f"no video for training has; expected one of its {len(ordered)} labels, such "
        f"as {ordered[0][:200]!r}"
      )
  renamed = {
    split: [row._replace(label=names[key_of(row.label)]) for row in part]
    for split, part in parts.items()
  }
  return renamed, {name: number for number, name in enumerate(ordered)}


def _warn_of_overlap(parts: dict[str, list[_Row]]) -> None:
  trained = {row.name for row in parts["train"]}
  evaluated = {row.name for row in parts["eval"]}
  if both := sorted(trained & evaluated):
    logging.warning(
      "%d of the %d videos for evaluation are trained on too, the first is %s; figures "
      "say nothing about new ones",
      len(both),
      len(evaluated),
      printable(both[0]),
    )
