"""What a frozen first stage makes of the training windows, computed once and kept.

Where a stage trains on latents of an earlier, frozen one, and its windows come again
and again as they are, the work folder keeps what the earlier one makes of each:

    latents/<stage>/*.npy           an array for each name, a row for each window
    latents/<stage>/made_from.json  of which parameters and which clips
"""

from collections.abc import Callable, Mapping
import hashlib
import json
import math
import pathlib
import shutil
from typing import Any

from absl import logging
import jax
import numpy as np
import tqdm

from lamd_jax.data import sources
from lamd_jax.experiment.run import Run
from lamd_jax.files import writing
from lamd_jax.systems import stage as stage_lib
from lamd_jax.training import sharding
from lamd_jax.types import UserError

FOLDER = "latents"
MADE_FROM = "made_from.json"
MAX_BYTES = 2**34  # 16 GiB; read from disk as they are needed.
MIN_VISITS = 4  # Of each window in a training, so that it is worth the disk.

# From the number of a video and its first frame to what a batch has of the window.
Read = Callable[[int, int], Mapping[str, np.ndarray]]


def open_latents(
  run: Run,
  name: str,
  stage: stage_lib.Stage,
  source: sources.VideoSource,
  batch: Mapping[str, jax.ShapeDtypeStruct],
) -> Read | None:
  """Computes what is not there yet; None where each step has to compute its own.

  That is where a stage has no frozen part in front, where videos are mirrored at
  random, where a training meets a window less than four times, or where all windows
  together would fill the disk or more than 16 GiB.

  Args:
    run: The experiment.
    name: Name of the stage that is about to be trained.
    stage: The stage, around its frozen parts.
    source: The training videos.
    batch: Shapes of a batch.

  Raises:
    UserError: What is there was made by another model or of other clips.
  """
  if not isinstance(stage, stage_lib.PrecomputingStage) or jax.process_count() > 1:
    return None
  config = run.config
  if "augment" in config and config.augment.flip:
    return None
  values, span = config[name].train, run.clip(name).span
  counts = [max(source.num_frames(i) - span, 0) + 1 for i in range(len(source))]
  ends = np.cumsum(counts)
  if MIN_VISITS * ends[-1] > values.steps * values.batch_size:
    return None
  encode = jax.jit(lambda stage, batch: stage.precompute(batch))
  rows = jax.eval_shape(encode, stage, {"video": batch["video"]})
  row_bytes = [math.prod(x.shape[1:]) * x.dtype.itemsize for x in rows.values()]
  size = ends[-1] * sum(row_bytes)
  folder = run.folder / FOLDER / name
  made_from = _made_from(run, name, stage)
  if not folder.exists():
    if size > min(MAX_BYTES, shutil.disk_usage(run.folder).free / 2):
      logging.info("latents of %d windows, %.1f GB, are not kept", ends[-1], size / 1e9)
      return None
    windows = [(i, start) for i, count in enumerate(counts) for start in range(count)]
    with writing.explain_full_disk(run.folder):
      _compute(run, name, stage, encode, rows, source, windows, folder, made_from)
  _check(folder, made_from)
  arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in rows}
  starts = ends - counts

  def read(index: int, start: int) -> Mapping[str, np.ndarray]:
    return {key: np.asarray(x[starts[index] + start]) for key, x in arrays.items()}

  return read


def _compute(run, name, stage, encode, rows, source, windows, folder, made_from):
  """Writes an array for each name into a folder, whole or not at all."""
  part = folder.with_name(f".{folder.name}.part")
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir(parents=True)
  arrays = {
    key: np.lib.format.open_memmap(
      part / f"{key}.npy", "w+", x.dtype, (len(windows), *x.shape[1:])
    )
    for key, x in rows.items()
  }
  clip, batch_size = run.clip(name), next(iter(rows.values())).shape[0]
  stage = sharding.put(stage, sharding.state_sharding(run.mesh, stage))
  for first in tqdm.trange(0, len(windows), batch_size, desc="latents", disable=None):
    some = windows[first : first + batch_size]
    # The last batch is filled up, so that there is one compilation.
    filled = some + some[-1:] * (batch_size - len(some))
    video = np.stack([source.read(i, start, *clip[:2]) for i, start in filled])
    found = encode(stage, sharding.put_batch({"video": video}, run.mesh))
    for key, array in arrays.items():
      array[first : first + len(some)] = np.asarray(found[key])[: len(some)]
  for array in arrays.values():
    array.flush()
  (part / MADE_FROM).write_text(json.dumps(made_from, indent=2) + "\n")
  part.rename(folder)
  logging.info("latents of %d windows are in %s", len(windows), folder)


def _made_from(run: Run, name: str, stage: stage_lib.Stage) -> dict[str, Any]:
  """What latents depend on: every frozen parameter, and which clips."""
  digest = hashlib.sha256()
  for path, x in jax.tree.leaves_with_path(stage):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(jax.device_get(x)).data)
  data = json.loads(json.dumps(run.data(name)))
  return {"parameters": digest.hexdigest()[:16], "data": data}


def _check(folder: pathlib.Path, made_from: Mapping[str, Any]) -> None:
  try:
    there = json.loads((folder / MADE_FROM).read_text())
  except (OSError, ValueError):
    there = {}
  for key, value in made_from.items():
    if there.get(key) != value:
      what = {"parameters": "another model", "data": "other clips"}[key]
      raise UserError(
        f"{folder} was made by {what} ({key} {there.get(key, 'unknown')}, here"
        f" {value}); delete it, and it is computed anew"
      )
