"""Job: write a trained work folder as weights and a description, for use anywhere."""

import pathlib

from lamd_jax.experiment.model import Model
from lamd_jax.experiment.run import Run

FOLDER = "exported"


def export(run: Run) -> pathlib.Path:
  """Saves the model of a work folder into its subfolder `exported`.

  Returns:
    That folder, which `lamd_jax.load` reads.
  """
  model = Model(run)
  model.save(run.folder / FOLDER)
  return run.folder / FOLDER
