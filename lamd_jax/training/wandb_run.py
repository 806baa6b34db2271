"""Optional logging to Weights and Biases; a resumed training continues its run."""

from collections.abc import Mapping
import importlib
import math
import os
import pathlib
from typing import Any
import uuid

import numpy as np

from lamd_jax.types import UserError

ID = "wandb_id.txt"


def check(project: str) -> None:
  """Raises a `UserError` if a project is named but wandb is not installed."""
  if project:
    _import(project)


class WandbRun:
  """Run at Weights and Biases whose id is kept in the stage's folder."""

  def __init__(self, project: str, folder: pathlib.Path):
    """Starts the run, or continues the one this folder belongs to.

    Args:
      project: Name of the project at wandb.
      folder: Folder of the stage. Its name and that of the work folder name the run.

    Raises:
      UserError: wandb is not installed or fails to start.
    """
    self._wandb = _import(project)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ID
    if not path.exists():
      part = path.with_name(f".{ID}.part")
      part.write_text(uuid.uuid4().hex, encoding="utf-8")
      os.replace(part, path)
    try:
      self._run = self._wandb.init(
        project=project,
        id=path.read_text(encoding="utf-8").strip(),
        resume="allow",
        name="/".join(folder.absolute().parts[-2:]),
        dir=str(folder),
      )
      # After a kill some steps are logged again, but wandb's own counter never falls.
      self._run.define_metric("step")
      self._run.define_metric("*", step_metric="step")
    except Exception as e:
      raise UserError(
        f"config.run.wandb={project!r}: wandb did not start"
        f" ({str(e).partition(chr(10))[0]}); run `wandb login`, or set"
        " WANDB_MODE=offline, or turn it off: --config.run.wandb=''"
      ) from e

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Logs the finite ones among some scalars."""
    finite = {name: x for name, x in values.items() if math.isfinite(x)}
    self._run.log({"step": step, **finite})

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Logs an image, uint8 `h w 3`."""
    self._run.log({"step": step, name: self._wandb.Image(image)})

  def close(self) -> None:
    """Waits for pending uploads and ends the run."""
    self._run.finish()


def _import(project: str) -> Any:
  try:
    return importlib.import_module("wandb")
  except ImportError as e:
    raise UserError(
      f"config.run.wandb={project!r}: wandb is not installed; pip install"
      " 'lamd-jax[wandb]', or turn it off: --config.run.wandb=''"
    ) from e
