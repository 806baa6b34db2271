"""Where arrays live: one mesh, and one table of rules for states and for batches.

A step is an ordinary `jax.jit` whose arguments carry a `NamedSharding`; XLA splits the
program and puts the communication in. This is what pjit was, until it became part of
`jax.jit`.
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
MIN_BYTES_TO_SPLIT = 2**22  # Under 4 MiB, gathering costs more than keeping copies.
# What an axis of an array is for -> the axis of the mesh that splits it. In order: a
# rule holds where the array has such an axis, its size divides, and the mesh's axis
# does not split the array yet; further axes may split what is split already.
RULES = (
  ("batch", "data"),
  ("batch", "fsdp"),
  ("frames", "context"),
  ("heads", "tensor"),
  ("out", "tensor"),
  # FSDP is there for memory: whichever axis divides.
  ("in", "fsdp"),
  ("out", "fsdp"),
  ("channels", "fsdp"),
  ("position", "fsdp"),
  ("heads", "fsdp"),
)
# An axis that is split only where no other is. With jaxlib 0.10.2 XLA makes wrong
# gradients of convolutions whose kernel is split over its inputs and over its outputs,
# as often each: tests/training/sharding_test.py has the smallest case.
ALONE = "channels"
# What a batch has beside its examples along the first axis. The images that are trained
# on together with videos are no frames of one.
BATCH_AXES = {"video": ("batch", "frames"), "low": ("batch", "frames")}


def make_mesh(sizes: Mapping[str, int] | None = None) -> Mesh:
  """Returns a mesh over all devices, with the axes `AXES`.

  Args:
    sizes: Devices along each axis. One may be -1 and takes all that remain; an
      axis left out has size 1. By default all devices are along `data`.

  Raises:
    UserError: The sizes do not multiply to the number of devices, or neither `data`
      nor `fsdp` goes over all slices of devices.
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
  types = (AxisType.Auto,) * len(AXES)
  return Mesh(arrange(sizes, jax.devices()), AXES, axis_types=types)


def arrange(sizes: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
  """Returns devices in the order of a mesh: neighbours are close to each other.

  Between slices (of TPUs; or machines with GPUs) the network is slow. Only `data`
  crosses it, or `fsdp` where `data` does not come out even.

  Args:
    sizes: Of each of `AXES`; they multiply to the number of devices.
    devices: All of them, `jax.Device`s.

  Raises:
    UserError: Neither axis is a multiple of the number of slices.
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
    f"mesh {dict(sizes)} on {slices} slices of devices: between them only data or"
    f" fsdp can be split; make one of the two a multiple of {slices}"
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def parameter_axes(path: Sequence[Any], ndim: int) -> tuple[str | None, ...] | None:
  """Returns what the axes of a parameter are for, None where nothing says it.

  Args:
    path: Where it is in its tree, as `jax.tree_util` has it: by the conventions of
      `flax.linen` its last two names say what it is. Moments of an optimizer lie under
      the names of their parameters.
    ndim: How many axes it has.

  Returns:
    A name of `RULES` for each axis, or None for one that is never split.
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
    case _, "kernel", _:  # Of a convolution: first its taps.
      return *(None,) * (ndim - 2), "channels", "out"
    case _, "embedding", 2:  # A product with one-hot rows.
      return "in", "out"
    case _, "positional_embedding", 2:
      return "position", "out"
    case _, "relative_keys" | "relative_values", 2:
      return "position", None
  return None


def state_sharding(mesh: Mesh, tree: Any) -> Any:
  """Returns a sharding for each array, by the rules.

  Arrays of up to 4 MiB are whole on every device, as are those that no rule knows.
  Moments of the optimizer and averages lie as their parameters do.

  Args:
    mesh: From `make_mesh`.
    tree: Arrays or `jax.ShapeDtypeStruct`s, for example of a `TrainState`, or of the
      frozen parameters in a stage.
  """

  def rule(path, x):
    axes = parameter_axes(path, x.ndim)
    if axes is None or x.size * x.dtype.itemsize <= MIN_BYTES_TO_SPLIT:
      axes = (None,) * x.ndim
    return NamedSharding(mesh, _spec(mesh, axes, x.shape))

  return jax.tree_util.tree_map_with_path(rule, tree)


def batch_sharding(mesh: Mesh, batch: Mapping[str, Any]) -> dict[str, NamedSharding]:
  """Returns a sharding for each array of a batch.

  Examples are split over `data` and `fsdp`, the frames of videos over `context`; what
  does not divide is not split.

  Args:
    mesh: From `make_mesh`.
    batch: Arrays or shapes of the global batch.
  """
  return {
    name: NamedSharding(mesh, _spec(mesh, BATCH_AXES.get(name, ("batch",)), x.shape))
    for name, x in batch.items()
  }


def _spec(
  mesh: Mesh, axes: Sequence[str | None], shape: Sequence[int]
) -> PartitionSpec:
  """How the rules split an array with such axes."""
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
  # One name stands for itself: specs are compared by value.
  return PartitionSpec(
    *(split[0] if len(split) == 1 else split or None for split in over)
  )


def place(mesh: Mesh, tree: Any) -> Any:
  """Returns shapes that carry their sharding, as a checkpoint is restored into."""
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    tree,
    state_sharding(mesh, tree),
  )


def put(tree: Tree, shardings: Any) -> Tree:
  """Moves arrays that every process has whole to where they belong.

  Args:
    tree: Arrays on the host or on one device; what lies there already stays.
    shardings: A `NamedSharding` for each.
  """

  def move(x, sharding):
    if isinstance(x, jax.Array) and x.sharding == sharding:
      return x
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  return jax.tree.map(move, tree, shardings)


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> Batch:
  """Moves a batch that every process has whole to the devices; of any size."""
  batch = dict(batch)
  return put(batch, batch_sharding(mesh, batch))


def batch_parts(mesh: Mesh) -> int:
  """Returns into how many parts a batch is split: not over `tensor` nor `context`."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
  """Raises a `UserError` unless every device gets the same number of examples.

  Args:
    batch_size: Global, over all devices and processes.
    mesh: From `make_mesh`.
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
  """Returns which examples of a global batch a process needs, in their order.

  Where `tensor` or `context` goes over several processes, these need the same ones.

  Args:
    mesh: From `make_mesh`.
    batch_size: Global; see `check_batch_size`.
    devices: Of the process; by default this one's.
  """
  sharding = NamedSharding(mesh, _spec(mesh, ("batch",), (batch_size,)))
  found = sharding.devices_indices_map((batch_size,))
  held = (found[x] for x in (mesh.local_devices if devices is None else devices))
  return sorted({i for (rows,) in held for i in range(*rows.indices(batch_size))})


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> Batch:
  """Moves this process's examples of a batch to its devices.

  Args:
    batch: Arrays on the host with the examples along the first axis: those that
      `local_rows` names. What all processes give is the global batch.
    mesh: From `make_mesh`.
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
