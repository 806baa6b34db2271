"""Work folders of one uninterrupted job per tiny system, made once per test run."""

import contextlib
import json
import pathlib
from unittest import mock

from made_once import made_once
import ml_collections
import tiny_config
import tiny_vdm

from lamd_jax.data import pipeline
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import check, evaluate, generate, train
from lamd_jax.report import page

STARTUP_SECONDS = 1.5


def lamd_config() -> ml_collections.ConfigDict:
  """Returns the tiny LaMD that keeps its best checkpoint, too."""
  config = tiny_config.get_config()
  config.run.keep_best = "loss"  # The highest: the first checkpoint, not the last.
  return config


def lamd() -> tuple[pathlib.Path, list[list[int]]]:
  """Returns the work folder of LaMD, and which videos each batch had, in order."""
  folder = made_once("whole_lamd", lambda folder: _make(lamd_config(), folder))
  return folder / "run", json.loads((folder / "indices.json").read_text())


def vdm() -> pathlib.Path:
  """Returns the work folder of VDM."""
  config = tiny_vdm.get_config()
  return made_once("whole_vdm", lambda folder: _make(config, folder)) / "run"


def do(config: ml_collections.ConfigDict, folder: pathlib.Path) -> None:
  """Does what the command line does without --mode."""
  run = make_run(config, folder)
  check.check(run)
  workdir_lib.open_workdir(run)
  train.train(run)
  generate.sample_clips(run)
  evaluate.evaluate(run, STARTUP_SECONDS)
  page.write_report(folder)


@contextlib.contextmanager
def noting_indices(indices: list[list[int]]):
  """Adds which videos each batch has to a list."""
  batches = pipeline.batches

  def noting(*args, **kwargs):
    for batch in batches(*args, **kwargs):
      indices.append(batch["index"].tolist())
      yield batch

  with mock.patch.object(pipeline, "batches", noting):
    yield


def _make(config, folder):
  folder.mkdir()
  indices = []
  with noting_indices(indices):
    do(config, folder / "run")
  (folder / "indices.json").write_text(json.dumps(indices))
