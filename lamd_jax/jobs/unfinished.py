"""Finished segments of a generation that is still running, so that it can go on.

They lie in `unfinished/` of the work folder until the generation is done: a row for
each segment, in a folder named by a digest of everything that the segments depend on.
"""

from collections.abc import Iterator
import contextlib
import hashlib
import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from lamd_jax.experiment import trained
from lamd_jax.experiment.run import Run
from lamd_jax.files.rows import Rows
from lamd_jax.systems.pipeline import Keep, Request, Stages

FOLDER = "unfinished"


@contextlib.contextmanager
def keeping(run: Run, request: Request, stages: Stages) -> Iterator[Keep]:
  """Yields the finished segments of a request by number; removes them at the end.

  A run that was killed, or failed, leaves them for the same request.

  Args:
    run: The experiment.
    request: The request.
    stages: The trained stages; one that is not trained is not used.
  """
  if jax.process_count() > 1:  # Each would have to see the same ones.
    yield {}
    return
  folder = run.folder / FOLDER / _digest(run, request, stages)
  yield _Segments(folder)
  shutil.rmtree(folder, ignore_errors=True)
  with contextlib.suppress(OSError):  # Others may be in it.
    folder.parent.rmdir()


class _Segments:
  """Segments on disk; one that is damaged is missing. See `Keep`."""

  def __init__(self, folder: pathlib.Path):
    self._rows = Rows(folder, {})

  def __contains__(self, number: object) -> bool:
    return isinstance(number, int) and self._rows.get(number) is not None

  def __getitem__(self, number: int) -> np.ndarray:
    row = self._rows.get(number)
    if row is None:
      raise KeyError(number)
    return row["segment"]

  def __setitem__(self, number: int, segment: np.ndarray) -> None:
    self._rows.add([number], {"segment": segment[None]})


def _digest(run: Run, request: Request, stages: Stages) -> str:
  """Returns a hash of everything that the segments of a request depend on."""
  of = hashlib.sha256()
  values: dict[str, Any] = {
    "task": request.task,
    "count": request.count,
    "num_frames": request.num_frames,
    "options": dict(request.options),
    "seed": run.config.seed,
    "sample": run.config.sample.to_dict(),
    "parameters": trained.digests(run, stages),
    "arrays": {name: str(x.shape) for name, x in sorted(request.conditions.items())},
  }
  of.update(json.dumps(values, sort_keys=True, default=str).encode())
  videos = [request.video, *request.motions]
  for x in [x for _, x in sorted(request.conditions.items())] + videos:
    if x is not None:
      of.update(f"{x.shape} {x.dtype}".encode() + np.ascontiguousarray(x).tobytes())
  return of.hexdigest()[:16]
