"""Latents of the training windows, computed once by a frozen first stage.

A stage that trains on latents of an earlier, frozen stage meets the same windows again
and again. The work folder keeps their latents (see `files.rows` for the files):

    latents/<stage>/*.npy           a row for each window
    latents/<stage>/made_from.json  digests of the frozen parameters and of the clips

Latents of other parameters or clips, such as those of a stage that was trained again,
are computed anew. Where the clips lie makes no difference.
"""

from collections.abc import Callable, Mapping
import hashlib
import math
import pathlib
import shutil
from typing import Any

from absl import logging
import jax
import numpy as np
import tqdm

from lamd_jax.data import sources
from lamd_jax.experiment import statistics
from lamd_jax.experiment.run import Run
from lamd_jax.files import writing
from lamd_jax.files.rows import Rows
from lamd_jax.systems import stage as stage_lib
from lamd_jax.training import sharding
from lamd_jax.types import UserError

FOLDER = "latents"
MAX_BYTES = 2**34  # 16 GiB on disk.
NUM_READ = 32  # Windows that are read to tell the clips from others.
MIN_VISITS = 4  # Visits of each window in a training that make it worth the disk.

# From the number of a video and its first frame to the window's arrays in a batch.
Read = Callable[[int, int], Mapping[str, np.ndarray]]
Specs = Mapping[str, jax.ShapeDtypeStruct]


def open_latents(
  run: Run,
  name: str,
  stage: stage_lib.Stage,
  source: sources.VideoSource,
  batch: Mapping[str, jax.ShapeDtypeStruct],
) -> Read | None:
  """Opens the latents of all training windows, and computes those that are missing.

  Returns None if each step has to compute its own: the stage has no frozen stage in
  front, videos are mirrored at random, training visits a window less than four times,
  or all windows together would fill the disk or more than 16 GiB.

  Args:
    run: The experiment.
    name: Name of the stage to train.
    stage: The stage to train, with its frozen parts.
    source: The training videos.
    batch: Shapes of a batch.
  """
  if not isinstance(stage, stage_lib.PrecomputingStage) or jax.process_count() > 1:
    return None
  config, folder = run.config, run.folder / FOLDER / name
  if "augment" in config and config.augment.flip:
    return None
  values, clip = config[name].train, run.clip(name)
  counts = [max(source.num_frames(i) - clip.span, 0) + 1 for i in range(len(source))]
  ends = np.cumsum(counts)
  if MIN_VISITS * ends[-1] > values.steps * values.batch_size:
    return None
  encode = jax.jit(lambda stage, batch: stage.precompute(batch))
  found = jax.eval_shape(encode, stage, {"video": batch["video"]})
  specs = {k: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for k, x in found.items()}
  windows = [(i, start) for i, count in enumerate(counts) for start in range(count)]
  read_window = lambda i, start: source.read(i, start, *clip[:2])
  made_from = {
    "parameters": statistics.digest(stage),
    "clips": _digest_clips(source, windows, read_window),
  }
  kept = _open(folder, made_from, specs)
  missing = sum(i not in kept for i in range(len(windows)))
  row_bytes = sum(math.prod(x.shape) * x.dtype.itemsize for x in specs.values())
  size = len(windows) * row_bytes
  if missing:
    if size > MAX_BYTES or missing * row_bytes > shutil.disk_usage(run.folder).free / 2:
      logging.info("latents of %d windows, %.1f GB, are not kept", ends[-1], size / 1e9)
      return None
    with writing.explain_full_disk(run.folder):
      _compute(encode, stage, kept, windows, read_window, values.batch_size, run.mesh)
  starts = ends - counts

  def read(index: int, start: int) -> Mapping[str, np.ndarray]:
    row = kept.get(int(starts[index]) + start)
    if row is None:
      raise UserError(
        f"a row of {folder} is damaged; run the same command again: it is computed anew"
      )
    return row

  return read


def _compute(
  encode: Callable[..., Mapping[str, jax.Array]],
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
    found = encode(stage, sharding.put_batch({"video": video}, mesh))
    kept.add(numbers, {k: np.asarray(x)[: len(some)] for k, x in found.items()})
  logging.info("latents of %d windows are kept", len(windows))


def _open(folder: pathlib.Path, made_from: Mapping[str, Any], specs: Specs) -> Rows:
  """Opens the rows of a folder, which is emptied if they were made from others."""
  try:
    return Rows(folder, made_from, specs)
  except UserError as e:
    logging.warning("latents are computed anew: %s", str(e).partition(";")[0])
    shutil.rmtree(folder)
    return Rows(folder, made_from, specs)


def _digest_clips(
  source: sources.VideoSource,
  windows: list[tuple[int, int]],
  read: Callable[[int, int], np.ndarray],
) -> str:
  """Returns a digest of the training clips by which to tell other ones.

  To read them all would take as long as to compute their latents. It has the length of
  each video, the size of its file, and some windows from the first to the last.
  """
  sha = hashlib.sha256()
  # Sources without files have no stamp.
  stamp = getattr(source, "stamp", source.num_frames)
  for i in range(len(source)):
    sha.update(f"{source.num_frames(i)} {stamp(i)} ".encode())
  step = -(-len(windows) // NUM_READ)
  for window in [*windows[::step], windows[-1]]:
    sha.update(np.ascontiguousarray(read(*window)).data)
  return sha.hexdigest()[:16]
