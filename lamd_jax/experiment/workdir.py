"""The work folder of one experiment: whose it is, and what lies where.

config.json        the resolved configuration, checked before anything is written
environment.json   versions, devices, git revision of the run that began it
<stage>/           checkpoints, scalars, TensorBoard files and pictures of a stage
samples/           clips.npz, and the same clips as mp4, gif and png
metrics.json       every figure of the report, name to number
cards/             scores against real clips, each with its protocol
latents/           what a frozen stage makes of training windows, where that is kept
features/          of real clips and of captions, so that they are computed once
report.html        the report
"""

from collections.abc import Sequence
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import UInt8
import numpy as np

import lamd_jax
from lamd_jax.data import media, pipeline, sources
from lamd_jax.experiment import conditions
from lamd_jax.files import writing
from lamd_jax.systems import stage as stage_lib
from lamd_jax.training import checkpoint, sharding
from lamd_jax.types import Config, Params, UserError

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


def open_workdir(workdir: pathlib.Path, config: Config) -> None:
  """Makes a work folder, or checks that an existing one is this experiment's.

  Raises:
    UserError: The folder belongs to another configuration; nothing is changed.
  """
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f"--workdir={workdir} is a file; expected a folder")
  if is_begun(workdir):
    check_workdir(workdir, config)
  writing.write_json(workdir / CONFIG, _plain(config))
  if not (workdir / ENVIRONMENT).exists():
    writing.write_json(workdir / ENVIRONMENT, environment())


def check_workdir(workdir: pathlib.Path, config: Config) -> None:
  """Raises a `UserError` unless the folder was trained with this configuration."""
  if not is_begun(workdir):
    raise UserError(
      f"--workdir={workdir} has no {CONFIG}: expected a folder that --mode=train wrote"
    )
  there = writing.read_json(workdir / CONFIG)
  differing = [
    f"{key} (there {_short(before)}, now {_short(now)})"
    for key, before, now in _differences(there, _plain(config))
    if key.partition(".")[0] not in FREE_BLOCKS
  ]
  if differing:
    raise UserError(
      f"{workdir} belongs to another configuration: {', '.join(differing)};"
      " choose another --workdir, or delete that folder"
    )


def environment() -> dict[str, str | int]:
  """Returns what a run depends on besides its configuration."""
  devices = jax.devices()
  return {
    "lamd_jax": lamd_jax.__version__,
    "git_revision": _git_revision(),
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in PACKAGES},
    "platform": devices[0].platform,
    "device": devices[0].device_kind,
    "num_devices": len(devices),
    "num_processes": jax.process_count(),
    "cpu_cores": os.cpu_count() or 0,
    "command": " ".join(sys.argv),
  }


def load_stage(
  config: Config, workdir: pathlib.Path, name: str, mesh: Mesh
) -> stage_lib.Stage:
  """Builds a stage around the averaged parameters of the stages before it."""
  earlier: dict[str, Params] = {}
  for before in config.stages[: list(config.stages).index(name)]:
    stage = stage_lib.make_stage(config, before, earlier)
    earlier[before] = load_params(config, workdir, before, stage, mesh)[0]
  return stage_lib.make_stage(config, name, earlier)


def load_params(
  config: Config,
  workdir: pathlib.Path,
  name: str,
  stage: stage_lib.Stage,
  mesh: Mesh,
  *,
  best: str | None = None,
) -> tuple[Params, dict[str, Any]]:
  """Returns a trained stage's averaged parameters, and its checkpoint's meta.

  Those of the newest checkpoint; with what `best_of` returned, of the best. They lie on
  the mesh as `sharding.state_sharding` says.
  """
  abstract = jax.eval_shape(stage.init, jax.random.key(0), abstract_batch(config))
  folder = workdir / name / CHECKPOINTS
  return checkpoint.restore_ema_params(
    folder, sharding.place(mesh, abstract), best=best
  )


def best_of(config: Config, name: str) -> str | None:
  """Returns by which scalar a stage's checkpoint is chosen; None for the newest.

  `config.sample.checkpoint` is of the last stage. Those before it are what it was
  trained on: their newest checkpoints.
  """
  which = config.sample.get("checkpoint", checkpoint.WHICH[0])
  if which not in checkpoint.WHICH:
    raise UserError(
      f"config.sample.checkpoint={which!r}; known: {', '.join(checkpoint.WHICH)}"
    )
  if which == "latest" or name != config.stages[-1]:
    return None
  if not config.run.keep_best:
    raise UserError(
      "config.sample.checkpoint='best' needs config.run.keep_best, the scalar that it"
      " is best by: such as --config.run.keep_best=-loss while training and sampling"
    )
  return config.run.keep_best


def read_meta(
  config: Config, workdir: pathlib.Path, name: str
) -> tuple[int, dict[str, Any]]:
  """Returns the step of the checkpoint that a stage samples with, and its meta."""
  folder = workdir / name / CHECKPOINTS
  return checkpoint.read_meta(folder, best=best_of(config, name))


def abstract_batch(
  config: Config, batch_size: int = 1
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a batch."""
  side = config.data.resolution
  shape = (batch_size, config.data.num_frames, side, side, 3)
  video = jax.ShapeDtypeStruct(shape, jnp.uint8)
  return {"video": video} | conditions.abstract(config, batch_size)


def eval_batch(
  config: Config,
  source: sources.VideoSource,
  num_clips: int,
  cache: pathlib.Path | None = None,
) -> tuple[dict[str, np.ndarray], list[int]]:
  """Returns held-out clips with their conditions, always the same ones.

  Returns:
    A batch of them, and the number of the video that each is from.
  """
  frames = (config.data.num_frames, config.data.frame_stride)
  windows = pipeline.eval_windows(source, num_clips, *frames)
  numbers = [i for i, _ in windows]
  batch = {"video": pipeline.read_windows(source, windows, *frames)}
  describe = conditions.describer(config, source, numbers, cache)
  said = [describe(i) for i in numbers] if describe else [{}]
  return batch | {name: np.stack([x[name] for x in said]) for name in said[0]}, numbers


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
    folder: Where to.
    name: Beginning of the names of the files.
    videos: In the order of their numbers.
    fps: Frames per second.
    rows: Of the png; the videos by default.

  Returns:
    The paths of the mp4 files.
  """
  with writing.explain_full_disk(folder.parent):
    paths = [write_video(folder / f"{name}_{i}", x, fps) for i, x in enumerate(videos)]
    sheet = videos if rows is None else rows
    if jax.process_index() == 0:
      media.contact_sheet(sheet, folder / f"{name}.png")
  return paths


def _plain(config: Config) -> dict[str, Any]:
  """Returns the configuration as JSON would give it back."""
  return json.loads(config.to_json_best_effort())


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
