"""Video diffusion models in JAX: train, sample and measure."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from lamd_jax.experiment.model import Model

__version__ = "0.1.0"


def load(path: str | os.PathLike[str]) -> "Model":
  """Loads a trained model from a work folder, or from what `Model.save` wrote.

  Args:
    path: The folder.

  Returns:
    The model: `animate`, `generate`, `extend`, `transfer` and `reconstruct` go from
    arrays to arrays, and `save` writes it for use elsewhere.

  Raises:
    UserError: The folder holds no model.
  """
  from lamd_jax.experiment import model  # Here, so that the name alone costs nothing.

  return model.load(path)
