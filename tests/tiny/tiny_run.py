"""Runs of the tiny configurations, for tests of everything that takes a `Run`."""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import optax
import tiny_config
import tiny_lamd

from lamd_jax.experiment import trained, workdir
from lamd_jax.experiment.run import make_run
from lamd_jax.experiment.workdir import CHECKPOINTS
from lamd_jax.training import checkpoint
from lamd_jax.training.state import init_state

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


def save_stage(run, name, params, *, step=None):
  """Writes a checkpoint of a stage, as its training does at a step.

  Args:
    run: The run; its folder is written to.
    name: Name of the stage.
    params: The averaged parameters. Those in training are others: all 9.
    step: Number of updates; by default the stage's last.
  """
  folder = run.stage_folder(name) / CHECKPOINTS
  step = run.config[name].train.steps if step is None else step
  state = init_state(params, optax.identity()).replace(
    step=jnp.array(step, jnp.int32), params=jax.tree.map(lambda x: 0 * x + 9, params)
  )
  meta = {"step": step, "seconds": 1.0, "fps": FPS}
  with checkpoint.open_manager(folder) as manager:
    checkpoint.save(manager, step, state, meta, {"loss": -float(step)})
    checkpoint.finish(manager)


def trained_folder(config, folder):
  """Writes a trained work folder with random parameters; returns its run."""
  run = tiny_run(config, folder)
  workdir.open_workdir(run)
  for name, stage in random_stages(run).items():
    save_stage(run, name, stage.params)
  return run
