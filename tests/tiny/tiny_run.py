"""Runs of the tiny configurations, for tests of everything that takes a `Run`."""

import pathlib
import tempfile

import tiny_config
import tiny_lamd

from lamd_jax.experiment import trained
from lamd_jax.experiment.run import make_run

FPS = 10.0


def tiny_run(config=None, folder=None):
  """Returns a run of a configuration, by default the tiny LaMD.

  Args:
    config: The configuration.
    folder: The work folder; by default one that does not exist.
  """
  config = tiny_config.get_config() if config is None else config
  folder = (
    pathlib.Path(tempfile.gettempdir(), "no", "such") if folder is None else folder
  )
  return make_run(config, folder)


def random_stages(run, seed=1):
  """Returns the stages of a run as if trained, with random parameters everywhere."""
  stages = {}
  for i, name in enumerate(run.stages):
    params = tiny_lamd.filled(trained.abstract_params(run, name), seed + i)
    stages[name] = trained.around(run, name, stages, params, {"fps": FPS, "step": 7})
  return stages
