"""Job: measure what was sampled, and write the figures."""

import pathlib
import time

from absl import logging
import numpy as np

from lamd_jax import workdir as workdir_lib
from lamd_jax.metrics import protocol
from lamd_jax.training import checkpoint
from lamd_jax.types import Config, UserError


def evaluate(
  config: Config, workdir: pathlib.Path, startup_seconds: float
) -> dict[str, float]:
  """Writes `metrics.json`, flat, from the sampled clips and the stages' checkpoints.

  Args:
    config: The configuration.
    workdir: Its work folder, with samples.
    startup_seconds: From the start of the process to the start of its first job.

  Returns:
    The figures. `wall_seconds` is all the time spent on training, sampling and
    measuring, in all runs, and this process's start.
  """
  started = time.monotonic()
  path = workdir / workdir_lib.CLIPS
  if not path.exists():
    raise UserError(f"nothing to evaluate: {path} is missing; run --mode=sample first")
  try:
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
      real, reconstructed, sampled = (
        file[name] for name in ("real", "reconstructed", "sampled")
      )
      sample_seconds = float(file["seconds"])
  except Exception as e:  # Damage shows as any error at all.
    raise UserError(
      f"{path} is damaged ({e}); delete it and run --mode=sample again"
    ) from e
  figures: dict[str, float] = dict(protocol.video_figures(real, reconstructed, sampled))
  seconds = {"startup": startup_seconds, "sample": sample_seconds}
  memory = [workdir_lib.peak_memory_gb()]
  for name in config.stages:
    steps, meta = checkpoint.read_meta(workdir / name / workdir_lib.CHECKPOINTS)
    seconds[name] = meta["seconds"]
    memory.append(meta["peak_memory_gb"])
    figures[f"{name}_steps"] = steps
    figures[f"num_parameters_{name}"] = meta["num_parameters"]
  skipped = workdir / "skipped_files.txt"
  if skipped.exists():
    figures["skipped_files"] = len(skipped.read_text(encoding="utf-8").splitlines())
  seconds["evaluate"] = time.monotonic() - started
  figures |= {f"{name}_seconds": value for name, value in seconds.items()}
  figures["wall_seconds"] = sum(seconds.values())
  figures["peak_memory_gb"] = max(memory)
  workdir_lib.write_json(workdir / workdir_lib.METRICS, figures)
  for name, value in figures.items():
    if name in protocol.FIGURES:
      logging.info("%s = %.4g", name, value)
  logging.info("%s", protocol.sentence(figures))
  return figures
