"""The work folder of one experiment: its owner and its contents.

.lock              which process writes here, or was the last one that did
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

from collections.abc import Iterator, Sequence
import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any, NamedTuple

from absl import logging
import jax
from jaxtyping import UInt8
import numpy as np

from lamd_jax import __version__
from lamd_jax.data import media
from lamd_jax.experiment.run import Run
from lamd_jax.files import lock, reading, writing
from lamd_jax.training import processes
from lamd_jax.types import UserError

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
# Keys that name a place, by what follows their last dot. They may change: where data
# lie is not what a model is.
PLACES = ("path", "data_dir", "perceptual_weights", "encoder")
# Such keys, where the last part of the place tells what it is.
NAMED_PLACES = ("csv", "eval_csv", "splits_path", "vocabulary")
MOST = 10  # Differences in a message.
PACKAGE = pathlib.Path(__file__).parent.parent
SETUP = 'name="lamd-jax"'  # In the setup.py of a checkout.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def is_begun(workdir: pathlib.Path) -> bool:
  """Whether a folder is the work folder of some experiment."""
  return (workdir / CONFIG).exists()


class Difference(NamedTuple):
  """A key on which the configuration of a work folder and a given one differ.

  Attributes:
    key: The key, with dots.
    before: Its value in the folder.
    now: The value given.
  """

  key: str
  before: Any
  now: Any

  def __str__(self) -> str:
    """Returns the key with both values."""
    return f"{self.key} (there {_short(self.before)}, now {_short(self.now)})"

  @property
  def is_free(self) -> bool:
    """Whether the key may change: it does not say which model it is."""
    return self.key.partition(".")[0] in FREE_BLOCKS

  @property
  def is_steps(self) -> bool:
    """Whether the key is the length of a stage's training."""
    return self.key.endswith(".train.steps")

  @property
  def is_moved(self) -> bool:
    """Whether both values may be one thing in two places, or under two spellings."""
    name = self.key.rpartition(".")[2]
    if not all(isinstance(x, str | None) for x in (self.before, self.now)):
      return False
    if name in PLACES:  # Without an encoder, another one is the installed one.
      return name != "encoder" or bool(self.before and self.now)
    both = pathlib.PurePath(self.before or ""), pathlib.PurePath(self.now or "")
    return name in NAMED_PLACES and both[0].name == both[1].name != ""


@contextlib.contextmanager
def only_writer(folder: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a work folder, which is made if need be, for a whole run.

  The first of several processes takes it for all.

  Raises:
    UserError: Another run holds it, or the folder is not writable.
  """
  if folder.exists() and not folder.is_dir():
    raise UserError(f"--workdir={folder} is a file; expected a folder")
  with contextlib.ExitStack() as stack:
    error = None
    if processes.is_first():
      try:
        stack.enter_context(lock.only_writer(folder))
      except UserError as e:
        error = e
    if not processes.as_first_sees(error is None):
      raise error or UserError(f"{folder} could not be locked by the first process")
    yield


def open_workdir(run: Run) -> None:
  """Makes a work folder, or checks that an existing one is this experiment's.

  A stage may be trained for more steps than the folder was begun with, not for fewer.

  Raises:
    UserError: The folder belongs to another configuration; nothing is changed.
  """
  if run.folder.exists() and not run.folder.is_dir():
    raise UserError(f"--workdir={run.folder} is a file; expected a folder")
  if is_begun(run.folder):
    check_workdir(run, for_training=True)
  writing.write_json(run.folder / CONFIG, _plain(run))
  if not (run.folder / ENVIRONMENT).exists():
    writing.write_json(run.folder / ENVIRONMENT, environment())


def check_workdir(run: Run, *, for_training: bool = False) -> None:
  """Raises a `UserError` unless the folder was trained with this configuration.

  Args:
    run: The experiment.
    for_training: Whether stages are to be trained on. How long they were to be trained
      matters to nothing else.
  """
  if not is_begun(run.folder):
    raise UserError(
      f"--workdir={run.folder} has no {CONFIG}: expected a folder that --mode=train"
      " wrote"
    )
  there = reading.read_json(run.folder / CONFIG)
  found = [x for x in _differences(there, _plain(run)) if not x.is_free]
  steps = [x for x in found if x.is_steps]
  moved = [x for x in found if x.is_moved]
  if other := [x for x in found if x not in steps + moved]:
    raise UserError(
      f"{run.folder} belongs to another configuration: {_listed(other)}; choose"
      " another --workdir"
    )
  if for_training and (fewer := [x for x in steps if not _is_more(x)]):
    raise UserError(
      f"{run.folder} was trained for more steps: {_listed(fewer)}; ask for as many or"
      " more, or choose another --workdir"
    )
  if for_training and steps:
    logging.info(
      "%s is trained for more steps: %s; learning rates follow the schedules of the new"
      " lengths from here on",
      *(run.folder, _listed(steps)),
    )
  if moved and not all(_is_one_place(x) for x in moved):
    logging.warning(
      "%s goes on with other places: %s; what lies there has to be the same",
      *(run.folder, _listed(moved)),
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


def _listed(found: Sequence[Difference]) -> str:
  """Returns differences in words, the first of many."""
  more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
  return ", ".join(map(str, found[:MOST])) + more


def _is_more(steps: Difference) -> bool:
  """Whether a stage is to be trained for more steps than before."""
  both = steps.before, steps.now
  return all(isinstance(x, int) for x in both) and both[0] < both[1]


def _is_one_place(moved: Difference) -> bool:
  """Whether two spellings of a path lead to one place."""
  real = [
    os.path.realpath(os.path.expanduser(x or "")) for x in (moved.before, moved.now)
  ]
  return real[0] == real[1]


def _differences(there: Any, now: Any, path: str = "") -> Iterator[Difference]:
  """Yields the keys whose values in two nested dicts differ."""
  if isinstance(there, dict) and isinstance(now, dict):
    for key in sorted(there.keys() | now.keys()):
      inner = f"{path}.{key}" if path else key
      yield from _differences(there.get(key, "absent"), now.get(key, "absent"), inner)
  elif there != now:
    yield Difference(path, there, now)


def _git_revision(package: pathlib.Path = PACKAGE) -> str:
  """Returns the commit of this source tree, with a + if it was changed since.

  An installed package, also one inside a repository of something else, has no commit of
  its own; its version is returned.
  """
  # A hook of git sets these, for another repository.
  of_others = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
  kept = {k: v for k, v in os.environ.items() if k not in of_others}
  run = lambda *args: subprocess.run(
    ["git", "-C", str(package), *args],
    capture_output=True,
    text=True,
    check=True,
    timeout=10,
    env=kept,
  ).stdout.strip()
  try:
    root = pathlib.Path(run("rev-parse", "--show-toplevel"))
    setup = (root / "setup.py").read_text(encoding="utf-8")
    if root != package.resolve().parent or SETUP not in setup:
      return __version__
    run("ls-files", "--error-unmatch", "__init__.py")  # Fails unless it is tracked.
    return run("rev-parse", "HEAD") + ("+" if run("status", "--porcelain") else "")
  except (OSError, ValueError, subprocess.SubprocessError):
    return __version__
