r"""Is the peak of --mode=plan what a training step takes? On CPU, for four steps.

    PYTHONPATH=. python tests/benchmarks/plan_memory.py

Each in a process of its own: the plan's peak; the step is compiled, the allocator gives
back what compiling took, the arrays of the plan are made, two steps are run; measured
is the high-water mark of resident memory (VmHWM, reset by /proc/self/clear_refs) less
what was resident before there were arrays. glibc is told to give back what is freed at
once: what it would keep is no need of the step. Not in the plan is what the runtime
takes by itself: some 25 MB, and more with the batch, which weighs most in small steps.
Linux only.
"""

import ctypes
import gc
import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np

from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import plan

ROOT = pathlib.Path(__file__).parents[2]
CASES = (
  ("quickstart", "mcd_vae", {"mcd_vae.train.batch_size": 16}),
  ("quickstart", "mcd_vae", {"mcd_vae.train.batch_size": 32}),
  ("quickstart", "dmg", {"dmg.train.batch_size": 256}),
  ("vdm_shapes", "base", {"base.train.batch_size": 32}),
)
GIVING_BACK = {
  "MALLOC_ARENA_MAX": "1",
  "MALLOC_MMAP_THRESHOLD_": "65536",
  "MALLOC_TRIM_THRESHOLD_": "65536",
}


def status(key: str) -> int:
  """Bytes in a line of /proc/self/status."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith(f"{key}:"):
      return int(line.split()[1]) * 1024
  raise KeyError(key)


def load(name: str):
  path = ROOT / "configs" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


def case(number: int) -> None:
  """Prints planned and measured bytes."""
  name, stage_name, changes = CASES[number]
  config = load(name)
  config.update_from_flattened_dict(changes)
  run = make_run(config, pathlib.Path())
  training, compiled = plan.compile_step(run, stage_name)
  need = plan.ask(run, stage_name, training, compiled)
  # Only copies: to fill arrays by JAX would compile a program for each shape.
  key = jax.random.key(0)
  gc.collect()
  ctypes.CDLL(None).malloc_trim(0)
  before = status("VmRSS")
  pathlib.Path("/proc/self/clear_refs").write_text("5")

  def filled(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return key
    return jax.device_put(np.full(x.shape, 1e-3, x.dtype), may_alias=False)

  state, *others = jax.tree.map(filled, training.arguments)
  for _ in range(2):
    state, metrics = compiled(state, *others)
    jax.block_until_ready((state, metrics))
  measured = status("VmHWM") - before
  print(
    f"| {name}, {stage_name}, batch {config[stage_name].train.batch_size}"
    f" | {need.peak / 1e6:.0f} | {measured / 1e6:.0f}"
    f" | {need.peak / measured - 1:+.1%} |",
    flush=True,
  )


if __name__ == "__main__":
  if len(sys.argv) > 1:
    case(int(sys.argv[1]))
  else:
    print("| stage | planned (MB) | measured (MB) | planned against measured |")
    print("| --- | --- | --- | --- |", flush=True)
    for i in range(len(CASES)):
      subprocess.run(
        [sys.executable, __file__, str(i)], check=True, env=os.environ | GIVING_BACK
      )
