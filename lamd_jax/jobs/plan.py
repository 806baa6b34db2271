"""Job: says what training would need of each device, before anything is trained.

Compiles the training step of every stage for the configured mesh, from shapes alone: no
data is opened, no weights are read, no array is made. What does not fit into a device's
memory is tried with less: in more parts, with rematerialisation, with split parameters,
with fewer examples or frames.

The compiler's figures are those of the platform it compiles for. Parameters, optimizer
and batches take the same everywhere; temporaries do not, so a plan made on a laptop for
an accelerator is an estimate.
"""

from collections.abc import Iterator
import copy
import dataclasses
import math
import os
from typing import Any, NamedTuple

from absl import logging
import jax

from lamd_jax.experiment import program, trained
from lamd_jax.experiment.run import Run, make_run
from lamd_jax.files import writing
from lamd_jax.systems import networks
from lamd_jax.systems.stage import Stage
from lamd_jax.training import flops, sharding
from lamd_jax.types import UserError, printable

PLAN = "plan.json"
REMAT = tuple(networks.POLICIES)  # From the most memory to the least.


@dataclasses.dataclass(frozen=True)
class Need:
  """Needs of one update of a stage; bytes are per device.

  Attributes:
    parameters: Parameters that are trained, a discriminator's included.
    average: Their moving average.
    optimizer: Its moments.
    frozen: Parameters of earlier stages, and of networks that a loss asks.
    batch: One.
    temporaries: Activations, gradients, and other buffers of the compiler.
    peak: Arguments, outputs that are not in their place, and temporaries.
    flops: FLOPs of the model on all devices, without recomputation.
    flops_computed: FLOPs with recomputation.
    bytes_accessed: Read and written on one device, by the compiler's estimate; None if
      there is a loop, of which it counts one turn.
    devices: Number of devices that share the work.
  """

  parameters: int
  average: int
  optimizer: int
  frozen: int
  batch: int
  temporaries: int
  peak: int
  flops: float
  flops_computed: float
  bytes_accessed: float | None
  devices: int


class Trial(NamedTuple):
  """A way to need less.

  Attributes:
    what: Name of the change.
    changes: Values of the configuration by flattened key; later sets save more.
  """

  what: str
  changes: list[dict[str, Any]]


def plan(
  run: Run, memory_gb: float | None = None, *, writes: bool = False
) -> dict[str, Any]:
  """Prints what each stage needs, and where that is too much, what would fit.

  Args:
    run: The experiment; nothing of it need be there.
    memory_gb: Memory of a device in GB (10^9 bytes); None for this machine's.
    writes: Whether to write `plan.json` into the work folder.

  Returns:
    What `plan.json` holds.
  """
  device = jax.local_devices()[0]
  limit = memory_gb * 1e9 if memory_gb else _memory(device)
  print(
    f"{jax.device_count()} x {device.device_kind}, {_size(limit)} each"
    f"{'' if memory_gb else ' (--memory_gb=N plans for another size)'}"
  )
  found: dict[str, Any] = {"device": device.device_kind, "memory": limit, "stages": {}}
  for name in run.stages:
    need = measure(run, name)
    _say(name, need, flops.peak(device.device_kind))
    said: dict[str, Any] = dataclasses.asdict(need)
    if need.peak > limit:
      print(f"  does not fit into {_size(limit)}. What would:")
      said["fits"] = dict(_fitting(run, name, limit))
      if not any(said["fits"].values()):
        print("  nothing of this alone; combine, or take larger or more devices")
    found["stages"][name] = said
  if writes:
    writing.write_json(run.folder / PLAN, found)
    print(f"plan: {printable(run.folder / PLAN)}")
  return found


def measure(run: Run, name: str) -> Need:
  """Compiles the update of a stage, and asks the compiler what it needs."""
  return ask(run, name, *compile_step(run, name))


def compile_step(run: Run, name: str) -> tuple[program.Program, Any]:
  """Returns the program of a stage around shapes, and its update, compiled."""
  logging.info("compiling %s", name)
  training = program.make_program(run, name, abstract_stage(run, name))
  return training, training.step.lower(*training.arguments).compile()


def ask(run: Run, name: str, training: program.Program, compiled: Any) -> Need:
  """Returns what a compiled update needs."""
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  is_loop = run.config[name].train.accumulate > 1
  sizes = held(training)
  return Need(
    **sizes,
    temporaries=memory.temp_size_in_bytes,
    # Not the compiler's arguments: it drops those that an update does not look at, such
    # as a frozen decoder, but they are on the device.
    peak=sum(sizes.values())
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes,
    flops=program.model_flops(training),
    flops_computed=flops.count_flops(training.step, *training.arguments),
    bytes_accessed=None if is_loop else cost.get("bytes accessed"),
    devices=run.mesh.size,
  )


def held(training: program.Program) -> dict[str, int]:
  """Bytes of a device that hold what goes into an update; nothing is compiled."""
  state, batch, _, stage = training.arguments
  of_state, of_batch, _, of_stage = training.shardings
  size = lambda *names: sum(
    _shard_bytes(getattr(state, name), getattr(of_state, name))
    for name in names
    if hasattr(state, name)
  )
  return {
    "parameters": size("params", "critic_params"),
    "average": size("ema_params"),
    "optimizer": size("opt_state", "critic_opt_state"),
    "frozen": _shard_bytes(stage, of_stage),
    "batch": _shard_bytes(batch, of_batch),
  }


def abstract_stage(run: Run, name: str) -> Stage:
  """Builds a stage around the shapes of all that is frozen in it."""
  return trained.make_stage(run, name, for_training=True, abstract=True)


def trials(run: Run, name: str) -> Iterator[Trial]:
  """Yields ways to need less memory, those that change least first."""
  config, mesh = run.config, run.mesh
  train = config[name].train
  data, shards = mesh.shape["data"], sharding.batch_parts(mesh)
  accumulate = f"{name}.train.accumulate"
  parts = [n for n in _doublings(train.batch_size // shards) if n > train.accumulate]
  yield Trial("accumulate", [{accumulate: n} for n in parts])
  remat = [{"run.remat": x} for x in REMAT[REMAT.index(config.run.remat) + 1 :]]
  yield Trial("remat", remat)
  split = [
    {"mesh.data": data // n, "mesh.fsdp": mesh.shape["fsdp"] * n}
    for n in _doublings(data)
  ]
  yield Trial("fsdp", split)
  together: dict[str, Any] = {accumulate: parts[-1]} if parts else {}
  for most in (*remat[-1:], *split[-1:]):
    together |= most
  yield Trial("all of these", [together])
  sizes = [train.batch_size // n for n in _doublings(train.batch_size // shards)]
  yield Trial("batch", [{f"{name}.train.batch_size": n, accumulate: 1} for n in sizes])
  frames = run.clip(name).num_frames
  lengths = [frames // n for n in _doublings(frames) if frames // n > 1]
  yield Trial("frames", [{"data.num_frames": n} for n in lengths])


def _fitting(
  run: Run, name: str, limit: int | float
) -> Iterator[tuple[str, dict[str, Any] | None]]:
  """Yields for each way what first fits; None if nothing does."""
  for what, changes in trials(run, name):
    fits, least = None, math.inf
    for change in filter(None, changes):
      changed = copy.deepcopy(run.config)
      changed.update_from_flattened_dict(change)
      try:
        other = make_run(changed, run.folder)
        stage = abstract_stage(other, name)
        sizes = held(program.make_program(other, name, stage))
        if sum(sizes.values()) > limit:  # What goes in is too much: no compiling.
          least = min(least, sum(sizes.values()))
          continue
        peak = measure(other, name).peak
      except UserError as e:  # Impossible for this model, such as a latent of 4 frames.
        logging.info("%s: %s", what, e)
        continue
      least = min(least, peak)
      if peak <= limit:
        fits = {"changes": change, "peak": peak}
        flags = " ".join(f"--config.{key}={value}" for key, value in change.items())
        print(f"    {what:12} {flags}: {_size(peak)}")
        break
    if fits is None and least < math.inf:
      print(f"    {what:12} no: {_size(least)} or more")
    yield what, fits


def _say(name: str, need: Need, peak: flops.Peak | None) -> None:
  """Prints the needs of a stage."""
  print(f"\n{name}, on each of {need.devices} device(s)")
  for key in (
    "parameters", "average", "optimizer", "frozen", "batch", "temporaries", "peak"
  ):  # fmt: skip
    print(f"  {key:12} {_size(getattr(need, key)):>11}")
  each = need.flops_computed / need.devices
  again = need.flops_computed / need.flops - 1 if need.flops else 0.0
  print(f"  FLOPs of a step: {need.flops:.4g}; on each device {each:.4g}", end="")
  print(f", {again:.0%} of the model's computed again" if again > 0.005 else "")
  seconds = {"arithmetic": each / peak.flops} if peak else {}
  if need.bytes_accessed is not None:
    print(f"  bytes accessed by a step, on each device: {_size(need.bytes_accessed)}")
    if peak:
      seconds["memory"] = need.bytes_accessed / peak.bandwidth
  if seconds:
    slowest = max(seconds, key=lambda x: seconds[x])
    times = ", ".join(f"{1e3 * x:.1f} ms by {what}" for what, x in seconds.items())
    print(f"  at the device's peak a step takes {times}; {slowest} is the limit")
  elif peak is None:
    print("  the peak of this device is not known, so neither is the time of a step")


def _memory(device: Any) -> int | float:
  """Bytes of a device; those of simulated ones are a share of the machine's."""
  stats = device.memory_stats()
  if stats and "bytes_limit" in stats:
    return stats["bytes_limit"]
  total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return total / jax.local_device_count()


def _shard_bytes(tree: Any, where: Any) -> int:
  """Bytes of a device's part of all arrays."""
  size = lambda x, at: math.prod(at.shard_shape(x.shape)) * x.dtype.itemsize
  return sum(jax.tree.leaves(jax.tree.map(size, tree, where)))


def _doublings(limit: int) -> list[int]:
  """2, 4, 8 and so on, as far as they divide."""
  return [n for n in (2**i for i in range(1, 64)) if n <= limit and limit % n == 0]


def _size(size: int | float) -> str:
  return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.2f} MB"
