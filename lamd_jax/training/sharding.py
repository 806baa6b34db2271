"""Placement of arrays on devices: one mesh, and one table of sharding rules.

A training step is an ordinary `jax.jit` whose arguments carry a `NamedSharding`; XLA
partitions the program and inserts the communication. This used to be called pjit,
until it became part of `jax.jit`.
"""

from collections.abc import Collection, Mapping, Sequence
import math
from typing import Any, TypeVar

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from lamd_jax.types import Batch, UserError

Tree = TypeVar("Tree")

AXES = ("data", "fsdp", "tensor", "context")
MIN_BYTES_TO_SPLIT = 2**22  # Up to 4 MiB, gathering costs more than keeping copies.
# Role of an array's axis, and the mesh axis that shards it. Rules are tried in order.
# A rule applies if the array has such an axis, its size is divisible, and the mesh axis
# does not shard the array yet. An axis may be sharded over several mesh axes.
RULES = (
  ("batch", "data"),
  ("batch", "fsdp"),
  ("frames", "context"),
  ("heads", "tensor"),
  ("out", "tensor"),
  # FSDP saves memory, so any axis that is divisible will do.
  ("in", "fsdp"),
  ("out", "fsdp"),
  ("channels", "fsdp"),
  ("position", "fsdp"),
  ("heads", "fsdp"),
)
# An axis that is sharded only if no other is. With jaxlib 0.10.2, XLA computes wrong
# gradients of convolutions whose kernel is sharded equally over its inputs and its
# outputs: tests/training/sharding_test.py has the smallest case.
ALONE = "channels"
# Axes of batch arrays that have more than the examples to shard. The images for joint
# training are not the frames of a video.
BATCH_AXES = {"video": ("batch", "frames"), "low": ("batch", "frames")}


def make_mesh(sizes: Mapping[str, int] | None = None) -> Mesh:
  """Returns a mesh over all devices, with the axes `AXES`.

  Args:
    sizes: Number of devices along each axis. One may be -1 and takes all remaining
      devices; an axis that is not given has size 1. By default all devices are along
      `data`.

  Raises:
    UserError: The sizes do not multiply to the number of devices, or neither `data`
      nor `fsdp` can span all slices of devices.
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
  # With Auto, the compiler chooses the sharding of intermediate arrays. With explicit
  # axes, folding frames into the batch would be an error.
  types = (AxisType.Auto,) * len(AXES)
  return Mesh(arrange(sizes, jax.devices()), AXES, axis_types=types)


def arrange(sizes: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
  """Arranges devices in the shape of a mesh, with neighbours physically close.

  The network between slices of TPUs, or between machines with GPUs, is slow. Only
  `data` crosses it, or `fsdp` if the size of `data` is not a multiple of the number of
  slices.

  Args:
    sizes: Size of each of `AXES`; they multiply to the number of devices.
    devices: All devices, `jax.Device` objects.

  Raises:
    UserError: The size of neither axis is a multiple of the number of slices.
  """
  within = [sizes[name] for name in AXES]
  split: dict[str, Any] = dict(devices=devices, allow_split_physical_axes=True)
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if slices == 1:
    return mesh_utils.create_device_mesh(within, **split)
  for i, name in enumerate(AXES[:2]):
    if sizes[name] % slices == 0:
      between = [1] * len(AXES)
      between[i], within[i] = slices, within[i] // slices
      return mesh_utils.create_hybrid_device_mesh(within, between, **split)
  raise UserError(
    f"mesh {dict(sizes)} on {slices} slices of devices: only data or fsdp can span"
    f" several slices; make one of the two a multiple of {slices}"
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays that every device holds in full."""
  return NamedSharding(mesh, PartitionSpec())


def parameter_axes(path: Sequence[Any], ndim: int) -> tuple[str | None, ...] | None:
  """Returns the role of each axis of a parameter, None if the name is not known.

  Args:
    path: Path of the parameter in its tree, as given by `jax.tree_util`. By the
      conventions of `flax.linen`, the last two names identify the parameter; optimizer
      moments lie under the names of their parameters.
    ndim: Number of axes.

  Returns:
    A role from `RULES` for each axis, or None for an axis that is never sharded.
  """
  names = [getattr(entry, "key", None) for entry in path]
  layer, name = [None, None, *names][-2:]
  match layer, name, ndim:
    case (_, _, 0 | 1) | (_, "bias" | "scale", _):
      return (None,) * ndim
    case "query" | "key" | "value", "kernel", 3:
      return "in", "heads", None
    case "out", "kernel", 3:
      return "heads", None, "out"
    case _, "kernel", 2:
      return "in", "out"
    case _, "kernel", _:  # A convolution: its taps come first.
      return *(None,) * (ndim - 2), "channels", "out"
    case _, "embedding", 2:  # Multiplied with one-hot rows.
      return "in", "out"
    case _, "positional_embedding", 2:
      return "position", "out"
    case _, "relative_keys" | "relative_values", 2:
      return "position", None
  return None


def state_sharding(mesh: Mesh, tree: Any) -> Any:
  """Returns a sharding for each array of a state, by `RULES`.

  Arrays of up to 4 MiB, and those that no rule covers, are replicated. Optimizer
  moments and moving averages are sharded like their parameters.

  Args:
    mesh: Mesh from `make_mesh`.
    tree: Arrays or shapes, such as a `TrainState` or the frozen parameters in a stage.
  """

  def rule(path, x):
    axes = parameter_axes(path, x.ndim)
    if axes is None or x.size * x.dtype.itemsize <= MIN_BYTES_TO_SPLIT:
      axes = (None,) * x.ndim
    return NamedSharding(mesh, _spec(mesh, axes, x.shape))

  return jax.tree_util.tree_map_with_path(rule, tree)


def batch_sharding(mesh: Mesh, batch: Mapping[str, Any]) -> dict[str, NamedSharding]:
  """Returns a sharding for each array of a batch.

  Examples are sharded over `data` and `fsdp`, the frames of videos over `context`. An
  axis whose size is not divisible is not sharded.

  Args:
    mesh: Mesh from `make_mesh`.
    batch: Arrays or shapes of the global batch.
  """
  return {
    name: NamedSharding(mesh, _spec(mesh, BATCH_AXES.get(name, ("batch",)), x.shape))
    for name, x in batch.items()
  }


def _spec(
  mesh: Mesh, axes: Sequence[str | None], shape: Sequence[int]
) -> PartitionSpec:
  """Returns the partition spec that `RULES` give an array with axes of these roles."""
  over: list[tuple[str, ...]] = [()] * len(axes)
  for axis, name in RULES:
    if mesh.shape[name] == 1 or any(name in split for split in over):
      continue
    if axis == ALONE and any(over):
      continue
    for i in (i for i, there in enumerate(axes) if there == axis):
      parts = math.prod(mesh.shape[n] for n in (*over[i], name))
      if shape[i] % parts == 0:
        over[i] = (*over[i], name)
        break
  # A single name is not put in a tuple: specs are compared by value.
  return PartitionSpec(
    *(split[0] if len(split) == 1 else split or None for split in over)
  )


def place(mesh: Mesh, tree: Any) -> Any:
  """Returns shapes with shardings, into which a checkpoint can be restored."""
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    tree,
    state_sharding(mesh, tree),
  )


def put(tree: Tree, shardings: Any) -> Tree:
  """Places arrays, of which every process has a full copy, on the devices.

  Args:
    tree: Arrays on the host or on one device; those already in place are left alone.
    shardings: A `NamedSharding` for each array.
  """

  def move(x, sharding):
    if isinstance(x, jax.Array) and x.sharding == sharding:
      return x
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  return jax.tree.map(move, tree, shardings)


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> Batch:
  """Places a batch of any size, of which every process has a full copy, on devices."""
  batch = dict(batch)
  return put(batch, batch_sharding(mesh, batch))


def batch_parts(mesh: Mesh) -> int:
  """Returns the number of parts a batch is sharded into: `data` times `fsdp`."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
  """Raises a `UserError` unless every device gets the same number of examples.

  Args:
    batch_size: Global batch size, over all devices and processes.
    mesh: Mesh from `make_mesh`.
  """
  parts = batch_parts(mesh)
  if batch_size >= 1 and batch_size % parts == 0:
    return
  below = batch_size // parts * parts
  nearest = f"{below} or {below + parts}" if below > 0 else f"{parts}"
  raise UserError(
    f"batch_size={batch_size} cannot be split evenly over {parts} devices (mesh.data x"
    f" mesh.fsdp); nearest sizes: {nearest}"
  )


def local_rows(
  mesh: Mesh, batch_size: int, devices: Collection[Any] | None = None
) -> list[int]:
  """Returns the rows of a global batch that a process needs, in ascending order.

  Processes that differ only along `tensor` or `context` need the same rows.

  Args:
    mesh: Mesh from `make_mesh`.
    batch_size: Global batch size that passes `check_batch_size`.
    devices: Devices of the process; by default those of this process.
  """
  sharding = NamedSharding(mesh, _spec(mesh, ("batch",), (batch_size,)))
  found = sharding.devices_indices_map((batch_size,))
  held = (found[x] for x in (mesh.local_devices if devices is None else devices))
  return sorted({i for (rows,) in held for i in range(*rows.indices(batch_size))})


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> Batch:
  """Places this process's rows of a batch on its devices; returns the global batch.

  Args:
    batch: Arrays on the host with one row per example, the rows that `local_rows`
      returns.
    mesh: Mesh from `make_mesh`.
  """
  parts = batch_parts(mesh)
  share = len(local_rows(mesh, parts))
  shapes = {}
  for name, x in batch.items():
    size = len(x) * parts // share
    check_batch_size(size, mesh)
    shapes[name] = jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)

  def move(x, shape, sharding):
    rows = local_rows(mesh, shape.shape[0])

    def part(index):
      first, end, _ = index[0].indices(shape.shape[0])
      place = rows.index(first)
      return x[(slice(place, place + end - first), *index[1:])]

    return jax.make_array_from_callback(shape.shape, sharding, part)

  return jax.tree.map(move, dict(batch), shapes, batch_sharding(mesh, shapes))
