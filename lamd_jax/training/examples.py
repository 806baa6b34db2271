"""Which examples each update saw, so that the order of two runs can be compared.

Each process writes the rows that it gave to the batch, in a file of its own in the
stage's folder. The order itself depends on the seed and the number of the update
alone, whatever the number of processes: this is how to see that.
"""

from collections.abc import Sequence
import json
import os
import pathlib
from typing import TextIO

import jax
from jaxtyping import Int
import numpy as np

from lamd_jax.files.writing import explain_full_disk
from lamd_jax.training.logging import open_to_append
from lamd_jax.types import UserError

Folder = str | os.PathLike[str]
NAME = "examples_{}.jsonl"


class Log:
  """Writes a line for each update; use it as a context manager."""

  def __init__(self, folder: Folder, rows: Sequence[int], *, is_on: bool):
    """Opens the file to append to it.

    Args:
      folder: Of the stage.
      rows: Which rows of the global batch this process gives, in their order.
      is_on: Whether to write at all.
    """
    self._folder = pathlib.Path(folder)
    self._rows = [int(row) for row in rows]
    self._file: TextIO | None = None
    if is_on:
      with explain_full_disk(self._folder):
        self._file = open_to_append(self._folder / NAME.format(jax.process_index()))

  def write(self, step: int, index: Int[np.ndarray, " b"]) -> None:
    """Notes the examples that this process gave to an update.

    Args:
      step: Updates made, this one included.
      index: Number of each row's video.
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
  """Returns the examples of each update in the order of their rows, by its number.

  A run that was interrupted makes some updates again, perhaps with another number of
  processes: in each file a later line for an update replaces earlier ones, and what
  files say of the same row must agree. A line cut off by a kill is left out.

  Args:
    folder: Of a stage.

  Raises:
    UserError: Files disagree on a row, or one is missing in an update.
  """
  rows: dict[int, dict[int, int]] = {}
  for path in sorted(pathlib.Path(folder).glob(NAME.format("*"))):
    by_step: dict[int, dict[int, int]] = {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
      try:
        line = json.loads(text)
        pairs = zip(line["rows"], line["index"], strict=True)
        by_step[int(line["step"])] = {int(row): int(i) for row, i in pairs}
      except (ValueError, TypeError, KeyError):
        continue
    for step, by_row in by_step.items():
      known = rows.setdefault(step, {})
      for row, number in by_row.items():
        if known.setdefault(row, number) != number:
          raise UserError(
            f"{path}: row {row} of update {step} is example {number}, in another file"
            f" it is {known[row]}; the runs in this folder had other data or seeds"
          )
  for step, known in rows.items():
    if sorted(known) != list(range(len(known))):
      raise UserError(
        f"{os.fspath(folder)}: the examples of update {step} are not all there;"
        " expected the files of all processes in one folder"
      )
  return {
    step: [rows[step][row] for row in sorted(rows[step])] for step in sorted(rows)
  }
