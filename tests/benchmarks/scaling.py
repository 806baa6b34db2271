r"""Weak scaling on paper: FLOPs and bytes of the full-size stages, and what they allow.

    PYTHONPATH=. python tests/benchmarks/scaling.py

Prints the tables of configs/SCALING.md. Nothing is compiled: FLOPs are counted from the
jaxpr, parameters and moments from shapes.
"""

import importlib.util
import pathlib

import jax

from lamd_jax import plan, program
from lamd_jax.training import flops, sharding

ROOT = pathlib.Path(__file__).parents[2]
STAGES = (("bair", "mcd_vae"), ("bair", "dmg"), ("vdm_kinetics600", "base"))
# Machine: devices, kind, memory of one in bytes, bytes each can send in a second.
MACHINES = {
  "v5e-256": (256, "TPU v5 lite", 16e9, 200e9),
  "8x H200": (8, "NVIDIA H200", 141e9, 450e9),
}
MFU = 0.4


def load(name: str):
  path = ROOT / "configs" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


def main() -> None:
  mesh = sharding.make_mesh({"data": 1})
  for name, stage_name in STAGES:
    config = load(name)
    rows = config[stage_name].train.batch_size
    stage = plan.abstract_stage(config, stage_name)
    training = program.make_program(config, stage_name, stage, mesh)
    held = plan.held(training)
    step = flops.count_flops(training.step, *training.arguments)
    config.run.remat = "block"
    again = plan.abstract_stage(config, stage_name)
    blocks = program.make_program(config, stage_name, again, mesh)
    with_remat = flops.count_flops(blocks.step, *blocks.arguments)
    gb = {key: f"{value / 1e9:.3f}" for key, value in held.items()}
    print(f"\n{name} {stage_name}: {rows} clips, {step:.4g} FLOPs, {gb} GB")
    print(f"  remat block: {with_remat / step:.3f} of the FLOPs")
    for machine, (devices, kind, memory, link) in MACHINES.items():
      peak = flops.peak(kind)
      assert peak is not None
      compute = step / devices / (MFU * peak.flops)
      # All-reduce of float32 gradients by a ring: nearly twice their size is sent.
      reduce = 2 * (devices - 1) / devices * held["parameters"] / link
      # Parameters, average and moments are read and written, gradients read.
      update = (
        2 * (held["parameters"] + held["average"] + held["optimizer"])
        + held["parameters"]
      ) / peak.bandwidth
      kept = sum(held.values()) + held["parameters"] - held["batch"]
      print(
        f"  {machine}: {rows / devices:g} clips a device,"
        f" {step / devices:.4g} FLOPs, {1e3 * compute:.1f} ms at MFU {MFU:.0%};"
        f" all-reduce {1e3 * reduce:.2f} ms; update {1e3 * update:.2f} ms;"
        f" state and gradients {kept / 1e9:.2f} of {memory / 1e9:.0f} GB"
      )


if __name__ == "__main__":
  jax.config.update("jax_platforms", "cpu")
  main()
