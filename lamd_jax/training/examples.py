"""A record of the examples in each update, to compare the data order of runs.

Each process writes the rows it contributed to the batch to its own file in the stage's
folder. The order depends on the seed and the number of the update alone, whatever the
number of processes; these files let anyone verify it.
"""

from collections.abc import Sequence
import json
import os
import pathlib
from typing import TextIO

import jax
from jaxtyping import Int
import numpy as np

from lamd_jax.files.reading import parse_json
from lamd_jax.files.writing import explain_full_disk
from lamd_jax.training.logging import open_to_append
from lamd_jax.types import UserError

Folder = str | os.PathLike[str]
NAME = "examples_{}.jsonl"


class Log:
  """File with a line for each update, to be used as a context manager."""

  def __init__(self, folder: Folder, rows: Sequence[int], *, is_on: bool):
    """Opens the file for appending.

    Args:
      folder: Folder of the stage.
      rows: Rows of the global batch that this process contributes, in order.
      is_on: Whether to write at all.
    """
    self._folder = pathlib.Path(folder)
    self._rows = [int(row) for row in rows]
    self._file: TextIO | None = None
    if is_on:
      with explain_full_disk(self._folder):
        self._file = open_to_append(self._folder / NAME.format(jax.process_index()))

  def write(self, step: int, index: Int[np.ndarray, " b"]) -> None:
    """Records the examples that this process contributed to an update.

    Args:
      step: Number of updates made, this one included.
      index: Index of each row's video in the source.
    """
    if self._file is None:
      return
    line = {"step": step, "rows": self._rows, "index": index.tolist()}
    with explain_full_disk(self._folder):
      self._file.write(json.dumps(line) + "\n")
      self._file.flush()

  def __enter__(self) -> "Log":
    return self

  def __exit__(self, *unused) -> None:
    if self._file is not None:
      with explain_full_disk(self._folder):
        self._file.close()


def read(folder: Folder) -> dict[int, list[int]]:
  """Returns the examples of each update, by its number, in the order of their rows.

  An interrupted run repeats some updates, perhaps with another number of processes.
  Within a file, a later line for an update replaces earlier ones; different files must
  agree on every row. A line truncated by a kill is ignored.

  Args:
    folder: Folder of a stage.

  Raises:
    UserError: Files disagree on a row, or an update lacks a row.
  """
  rows: dict[int, dict[int, int]] = {}
  paths = pathlib.Path(folder).glob(NAME.format("*"))
  for path in sorted(path for path in paths if path.is_file()):
    by_step: dict[int, dict[int, int]] = {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
      try:
        line = parse_json(text)
        pairs = zip(line["rows"], line["index"], strict=True)
        by_step[int(line["step"])] = {int(row): int(i) for row, i in pairs}
      except (ValueError, TypeError, KeyError, OverflowError):
        continue
    for step, by_row in by_step.items():
      known = rows.setdefault(step, {})
      for row, number in by_row.items():
        if known.setdefault(row, number) != number:
          raise UserError(
            f"{path}: row {row} of update {step} is example {number}, but {known[row]}"
            " in another file; the runs in this folder had different data or seeds"
          )
  for step, known in rows.items():
    if sorted(known) != list(range(len(known))):
      raise UserError(
        f"{os.fspath(folder)}: some examples of update {step} are missing;"
        " expected the files of all processes in one folder"
      )
  return {
    step: [rows[step][row] for row in sorted(rows[step])] for step in sorted(rows)
  }
