"""The work folder of one experiment: its owner and its contents.

config.json        the resolved configuration, checked before anything is written
environment.json   versions, devices, git revision of the run that began it
<stage>/           checkpoints, scalars, TensorBoard files and pictures of a stage
samples/           clips.npz, and the same clips as mp4, gif and png
metrics.json       every figure of the report, name to number
cards/             scores against real clips, each with its protocol
latents/           latents of the training windows, where they are worth keeping
features/          features of real clips and of captions, computed once
report.html        the report
"""

from collections.abc import Sequence
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax
from jaxtyping import UInt8
import numpy as np

from lamd_jax.data import media
from lamd_jax.experiment.run import Run
from lamd_jax.files import writing
from lamd_jax.types import UserError
from lamd_jax.version import __version__

CHECKPOINTS = "checkpoints"
CONFIG = "config.json"
ENVIRONMENT = "environment.json"
METRICS = "metrics.json"
CLIPS = "samples/clips.npz"
CARDS = "cards"
FEATURES = "features"
# Blocks that say how to run or to look at a model, not which model it is: they may
# change from one run in a work folder to the next.
FREE_BLOCKS = ("mesh", "run", "sample", "evaluate")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def is_begun(workdir: pathlib.Path) -> bool:
  """Whether a folder is the work folder of some experiment."""
  return (workdir / CONFIG).exists()


def open_workdir(run: Run) -> None:
  """Makes a work folder, or checks that an existing one is this experiment's.

  Raises:
    UserError: The folder belongs to another configuration; nothing is changed.
  """
  if run.folder.exists() and not run.folder.is_dir():
    raise UserError(f"--workdir={run.folder} is a file; expected a folder")
  if is_begun(run.folder):
    check_workdir(run)
  writing.write_json(run.folder / CONFIG, _plain(run))
  if not (run.folder / ENVIRONMENT).exists():
    writing.write_json(run.folder / ENVIRONMENT, environment())


def check_workdir(run: Run) -> None:
  """Raises a `UserError` unless the folder was trained with this configuration."""
  if not is_begun(run.folder):
    raise UserError(
      f"--workdir={run.folder} has no {CONFIG}: expected a folder that --mode=train"
      " wrote"
    )
  there = writing.read_json(run.folder / CONFIG)
  differing = [
    f"{key} (there {_short(before)}, now {_short(now)})"
    for key, before, now in _differences(there, _plain(run))
    if key.partition(".")[0] not in FREE_BLOCKS
  ]
  if differing:
    raise UserError(
      f"{run.folder} belongs to another configuration: {', '.join(differing)};"
      " choose another --workdir, or delete that folder"
    )


def environment() -> dict[str, str | int]:
  """Returns what a run depends on besides its configuration."""
  devices = jax.devices()
  return {
    "lamd_jax": __version__,
    "git_revision": _git_revision(),
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in PACKAGES},
    "platform": devices[0].platform,
    "device": devices[0].device_kind,
    "num_devices": len(devices),
    "num_processes": jax.process_count(),
    "cpu_cores": os.cpu_count() or 0,
    "command": shlex.join(sys.argv),
  }


def write_video(
  stem: pathlib.Path, video: UInt8[np.ndarray, "f h w 3"], fps: float
) -> pathlib.Path:
  """Writes a video as mp4 and as gif; returns the path of the mp4.

  Of several processes, only the first writes.
  """
  if jax.process_index() == 0:
    media.write_mp4(stem.with_suffix(".mp4"), video, fps)
    media.write_gif(stem.with_suffix(".gif"), video, fps)
  return stem.with_suffix(".mp4")


def write_videos(
  folder: pathlib.Path,
  name: str,
  videos: UInt8[np.ndarray, "n f h w 3"],
  fps: float,
  rows: Sequence[UInt8[np.ndarray, "f h w 3"]] | None = None,
) -> list[pathlib.Path]:
  """Writes videos as `name_0.mp4` and so on, gifs too, and the frames of all as a png.

  Args:
    folder: Folder to write into.
    name: Beginning of the names of the files.
    videos: In the order of their numbers.
    fps: Frames per second.
    rows: Rows of the png; the videos by default.

  Returns:
    The paths of the mp4 files.
  """
  with writing.explain_full_disk(folder.parent):
    paths = [write_video(folder / f"{name}_{i}", x, fps) for i, x in enumerate(videos)]
    sheet = videos if rows is None else rows
    if jax.process_index() == 0:
      media.contact_sheet(sheet, folder / f"{name}.png")
  return paths


def _plain(run: Run) -> dict[str, Any]:
  """Returns the configuration as JSON would give it back."""
  return json.loads(run.config.to_json_best_effort())


def _short(value: Any) -> str:
  """A value in a message; of a whole block that it is there."""
  return "a block" if isinstance(value, dict) else str(value)


def _differences(there: Any, now: Any, path: str = ""):
  """Yields (key, value there, value now) where two nested dicts differ."""
  if isinstance(there, dict) and isinstance(now, dict):
    for key in sorted(there.keys() | now.keys()):
      inner = f"{path}.{key}" if path else key
      yield from _differences(there.get(key, "absent"), now.get(key, "absent"), inner)
  elif there != now:
    yield path, there, now


def _git_revision() -> str:
  """Returns the commit of this source tree, with a + if it was changed since."""
  folder = pathlib.Path(__file__).parent
  git = ["git", "-C", str(folder)]
  try:
    run = lambda *args: subprocess.run(
      [*git, *args], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
    return run("rev-parse", "HEAD") + ("+" if run("status", "--porcelain") else "")
  except (OSError, subprocess.SubprocessError):
    return "unknown"
