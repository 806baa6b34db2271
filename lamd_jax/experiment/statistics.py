"""Numbers measured once after a training, such as the scale of a stage's latents.

They lie in `<stage>/statistics.json` with a digest of the parameters they belong to.
"""

from collections.abc import Callable, Mapping
import hashlib
import types
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

from lamd_jax.experiment.run import Run
from lamd_jax.files import reading, writing
from lamd_jax.systems.first_stage import Moments
from lamd_jax.systems.stage import MeasuredStage
from lamd_jax.systems.table import bare_stage
from lamd_jax.training import sharding
from lamd_jax.types import Params, UserError

FILE = "statistics.json"
AGAIN = "--mode=train measures again"
NUM_CLIPS = 256  # Training clips that are looked at, at least.


def measure(
  run: Run,
  name: str,
  stage: MeasuredStage,
  params: Params,
  open_batches: Callable[..., Any],
) -> None:
  """Measures the latents of a trained stage on training clips, and writes the result.

  Args:
    run: The experiment.
    name: Name of the stage.
    stage: The stage.
    params: Its averaged parameters.
    open_batches: Opens its training batches, from `start_step` on.
  """
  batch_size = run.config[name].train.batch_size
  count = -(-NUM_CLIPS // batch_size)
  reading = open_batches(start_step=0)
  encode = jax.jit(
    lambda stage, params, batch, key: stage.measure(params, batch, key),
    out_shardings=sharding.replicated(run.mesh),
  )
  moments = Moments()
  for number in range(count):
    batch = sharding.shard_batch(next(reading), run.mesh)
    key = jax.random.fold_in(run.key(name), number)
    moments.add(np.asarray(encode(stage, params, batch, key)))
  reading.close()
  found = {**moments.result(), "num_clips": count * batch_size}
  found["parameters"] = digest(params)
  writing.write_json(run.stage_folder(name) / FILE, found)
  logging.info("stage %s: latents of %d clips measured", name, count * batch_size)


def is_there(run: Run, name: str) -> bool:
  """Whether a stage was measured, if it is to be."""
  is_measured = isinstance(bare_stage(run.config, name), MeasuredStage)
  return not is_measured or (run.stage_folder(name) / FILE).exists()


def forget(run: Run, name: str) -> None:
  """Removes what was measured for a stage that is about to be trained on."""
  if jax.process_index() == 0:
    (run.stage_folder(name) / FILE).unlink(missing_ok=True)


def read(run: Run, name: str, params: Params) -> Mapping[str, Any]:
  """Returns what was measured for a stage; {} if nothing was.

  Raises:
    UserError: It was measured with other parameters.
  """
  path = run.stage_folder(name) / FILE
  if not path.exists():
    return types.MappingProxyType({})
  found = reading.read_json(path, f"delete it; {AGAIN}")
  if found.get("parameters") != digest(params):
    raise UserError(
      f"{path} belongs to other parameters than the checkpoint of stage {name}; delete"
      f" the file; {AGAIN}"
    )
  return found


def digest(params: Params) -> str:
  """Returns a hash of parameters and their names, 16 hexadecimal digits.

  All processes of a run call it together, as each may have a part of an array.

  Args:
    params: A tree of arrays, such as parameters, or a stage with its frozen ones.
  """
  sha = hashlib.sha256()
  for path, x in jax.tree.leaves_with_path(params):
    if isinstance(x, jax.Array) and not (
      x.is_fully_addressable or x.is_fully_replicated
    ):
      x = multihost_utils.process_allgather(x, tiled=True)
    sha.update(jax.tree_util.keystr(path).encode())
    sha.update(np.ascontiguousarray(jax.device_get(x)).data)
  return sha.hexdigest()[:16]
