"""Where arrays live: one mesh, one rule for the state, one for batches."""

from collections.abc import Mapping
import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from lamd_jax.types import Batch, UserError

AXES = ("data", "fsdp", "tensor", "context")
MIN_BYTES_TO_SPLIT = 2**22  # Under 4 MiB, gathering costs more than keeping copies.


def make_mesh(sizes: Mapping[str, int] | None = None) -> Mesh:
  """Returns a mesh over all devices, with the axes `data` and `fsdp`.

  Batches are split over both. `fsdp` also splits large parameters.

  Args:
    sizes: Devices along each axis. One may be -1 and takes all that remain; an
      axis left out has size 1. By default all devices are along `data`.

  Raises:
    UserError: The sizes do not multiply to the number of devices.
  """
  given = dict(sizes or {"data": -1})
  if unknown := [name for name in given if name not in AXES]:
    raise UserError(f"unknown mesh axis {unknown[0]!r}; known: {', '.join(AXES)}")
  sizes = {name: given.get(name, 1) for name in AXES}
  devices = jax.device_count()
  fixed = math.prod(size for size in sizes.values() if size != -1)
  if fixed > 0 and devices % fixed == 0:
    sizes = {k: devices // fixed if n == -1 else n for k, n in sizes.items()}
  if min(sizes.values()) < 1 or math.prod(sizes.values()) != devices:
    raise UserError(
      f"mesh {given} does not fit {devices} device(s): the sizes must multiply to"
      f" {devices}, or one of them be -1 and the others divide it"
    )
  # Auto: the compiler chooses how to split what is inside a step. With explicit
  # axes, folding frames into the batch is an error.
  return jax.make_mesh(
    tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES)
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a batch: the first axis, over all devices."""
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def state_sharding(mesh: Mesh, tree: Any) -> Any:
  """Returns a sharding for each array, from its shape alone.

  An array over 4 MiB is split over `fsdp` along the largest axis that divides;
  all others are whole on every device. Moments of the optimizer have the shapes of
  their parameters, so they follow.

  Args:
    mesh: From `make_mesh`.
    tree: Arrays or `jax.ShapeDtypeStruct`s, for example of a `TrainState`.
  """
  fsdp = mesh.shape["fsdp"]

  def rule(x):
    spec = [None] * x.ndim
    axes = [i for i, size in enumerate(x.shape) if size % fsdp == 0]
    if axes and fsdp > 1 and x.size * x.dtype.itemsize > MIN_BYTES_TO_SPLIT:
      spec[max(axes, key=lambda i: x.shape[i])] = "fsdp"
    return NamedSharding(mesh, PartitionSpec(*spec))

  return jax.tree.map(rule, tree)


def place(mesh: Mesh, tree: Any) -> Any:
  """Returns shapes that carry their sharding, as a checkpoint is restored into."""
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    tree,
    state_sharding(mesh, tree),
  )


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
  """Raises a `UserError` unless every device gets the same number of examples.

  Args:
    batch_size: Global, over all devices and processes.
    mesh: From `make_mesh`.
  """
  if batch_size >= 1 and batch_size % mesh.size == 0:
    return
  below = batch_size // mesh.size * mesh.size
  nearest = f"{below} or {below + mesh.size}" if below > 0 else f"{mesh.size}"
  raise UserError(
    f"batch_size={batch_size} cannot be split evenly over {mesh.size} devices;"
    f" nearest sizes: {nearest}"
  )


def local_part(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns this process's part of a global batch: the n-th block of n processes."""
  index, count = jax.process_index(), jax.process_count()
  block = lambda x: x[index * len(x) // count : (index + 1) * len(x) // count]
  return {name: block(x) for name, x in batch.items()}


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> Batch:
  """Moves this process's part of a batch to its devices.

  Args:
    batch: Arrays on the host with the examples along the first axis; each process
      gives different examples, together they are the global batch.
    mesh: From `make_mesh`.
  """
  sharding = batch_sharding(mesh)
  for x in batch.values():
    check_batch_size(x.shape[0] * jax.process_count(), mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, x)
    for name, x in batch.items()
  }
