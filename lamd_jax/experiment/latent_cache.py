"""Latents of the training windows, computed once by a frozen first stage.

A stage that trains on latents of an earlier, frozen stage meets the same windows again
and again. The work folder keeps their latents (see `files.rows` for the files):

    latents/<stage>/*.npy           a row for each window
    latents/<stage>/made_from.json  a digest of the frozen parameters, and the clips
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
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.files import writing
from lamd_jax.files.rows import Rows
from lamd_jax.systems import stage as stage_lib
from lamd_jax.training import sharding
from lamd_jax.types import Config, UserError

FOLDER = "latents"
MAX_BYTES = 2**34  # 16 GiB on disk.
MIN_VISITS = 4  # Visits of each window in a training that make it worth the disk.

# From the number of a video and its first frame to the window's arrays in a batch.
Read = Callable[[int, int], Mapping[str, np.ndarray]]


def open_latents(
  config: Config,
  name: str,
  stage: stage_lib.Stage,
  source: sources.VideoSource,
  workdir: pathlib.Path,
  mesh: jax.sharding.Mesh,
) -> Read | None:
  """Opens the latents of all training windows, and computes those that are missing.

  Returns None if each step has to compute its own: the stage has no frozen stage in
  front, videos are mirrored at random, training visits a window less than four times,
  or all windows together would fill the disk or more than 16 GiB.

  Args:
    config: The configuration.
    name: Name of the stage to train.
    stage: The stage to train, with its frozen parts.
    source: The training videos.
    workdir: The work folder.
    mesh: The devices that compute.

  Raises:
    UserError: The latents there were made by another model or from other clips.
  """
  if not isinstance(stage, stage_lib.PrecomputingStage) or jax.process_count() > 1:
    return None
  if "augment" in config and config.augment.flip:
    return None
  values = config[name].train
  span = (config.data.num_frames - 1) * config.data.frame_stride + 1
  counts = [max(source.num_frames(i) - span, 0) + 1 for i in range(len(source))]
  ends = np.cumsum(counts)
  if MIN_VISITS * ends[-1] > values.steps * values.batch_size:
    return None
  batch = workdir_lib.abstract_batch(config, values.batch_size)
  run = jax.jit(lambda stage, batch: stage.precompute(batch))
  found = jax.eval_shape(run, stage, {"video": batch["video"]})
  specs = {k: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for k, x in found.items()}
  kept = Rows(workdir / FOLDER / name, _made_from(config, stage), specs)
  windows = [(i, start) for i, count in enumerate(counts) for start in range(count)]
  missing = sum(i not in kept for i in range(len(windows)))
  row_bytes = sum(math.prod(x.shape) * x.dtype.itemsize for x in specs.values())
  size = len(windows) * row_bytes
  if missing:
    if size > MAX_BYTES or missing * row_bytes > shutil.disk_usage(workdir).free / 2:
      logging.info("latents of %d windows, %.1f GB, are not kept", ends[-1], size / 1e9)
      return None
    with writing.explain_full_disk(workdir):
      read_window = lambda i, start: source.read(
        i, start, config.data.num_frames, config.data.frame_stride
      )
      _compute(run, stage, kept, windows, read_window, values.batch_size, mesh)
  starts = ends - counts

  def read(index: int, start: int) -> Mapping[str, np.ndarray]:
    row = kept.get(int(starts[index]) + start)
    if row is None:
      raise UserError(
        f"a row of {workdir / FOLDER / name} is damaged; run the same command again: it"
        " is computed anew"
      )
    return row

  return read


def _compute(
  run: Callable[..., Mapping[str, jax.Array]],
  stage: stage_lib.Stage,
  kept: Rows,
  windows: list[tuple[int, int]],
  read: Callable[[int, int], np.ndarray],
  batch_size: int,
  mesh: jax.sharding.Mesh,
) -> None:
  """Adds the rows that are missing.

  A run that resumes computes the same batches as one that was never killed, so that
  latents do not depend on it to the last bit.
  """
  stage = sharding.put(stage, sharding.state_sharding(mesh, stage))
  for first in tqdm.trange(0, len(windows), batch_size, desc="latents", disable=None):
    numbers = range(first, min(first + batch_size, len(windows)))
    if all(i in kept for i in numbers):
      continue
    some = windows[first : first + batch_size]
    # The last batch is padded: a new shape would compile again.
    filled = [*some, *(some[-1:] * (batch_size - len(some)))]
    video = np.stack([read(i, start) for i, start in filled])
    found = run(stage, sharding.put_batch({"video": video}, mesh))
    kept.add(numbers, {k: np.asarray(x)[: len(some)] for k, x in found.items()})
  logging.info("latents of %d windows are kept", len(windows))


def _made_from(config: Config, stage: stage_lib.Stage) -> dict[str, Any]:
  """Returns what latents depend on: all frozen parameters, and the clips."""
  digest = hashlib.sha256()
  for path, x in jax.tree.leaves_with_path(stage):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(jax.device_get(x)).data)
  data = json.loads(config.data.to_json_best_effort())
  return {"parameters": digest.hexdigest()[:16], "data": data}
