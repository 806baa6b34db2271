r"""Weak scaling on paper: FLOPs and bytes of the full-size stages, and what they allow.

    PYTHONPATH=. python tests/benchmarks/scaling.py

Prints the tables of configs/SCALING.md. Nothing is compiled: FLOPs are counted from the
jaxpr, parameters and moments from shapes.
"""

import importlib.util
import pathlib

import jax

from lamd_jax.experiment import program
from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import plan
from lamd_jax.training import flops

ROOT = pathlib.Path(__file__).parents[2]
STAGES = (("bair", "mcd_vae"), ("bair", "dmg"), ("vdm_kinetics600", "base"))
MFU = 0.4  # Assumed: of the peak, what the networks reach.
# Kind, bytes of memory, bytes a second it can send, devices; from data sheets.
MACHINES = {
  "v5e": ("TPU v5 lite", 16e9, 200e9, (8, 64, 256)),
  "H200": ("NVIDIA H200", 141e9, 450e9, (1, 8)),
}
# Clips on each device, whatever the number of devices: that is weak scaling.
CLIPS = {
  ("v5e", "mcd_vae"): 1, ("v5e", "dmg"): 8, ("v5e", "base"): 1,
  ("H200", "mcd_vae"): 4, ("H200", "dmg"): 8, ("H200", "base"): 32,
}  # fmt: skip


def load(name: str):
  path = ROOT / "configs" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


def main() -> None:
  for name, stage_name in STAGES:
    config = load(name)
    rows = config[stage_name].train.batch_size
    run = make_run(config, pathlib.Path())
    stage = plan.abstract_stage(run, stage_name)
    training = program.make_program(run, stage_name, stage)
    held = plan.held(training)
    step = flops.count_flops(training.step, *training.arguments)
    ratios = {}
    for remat in ("elementwise", "block"):
      config.run.remat = remat
      again = plan.abstract_stage(run, stage_name)
      other = program.make_program(run, stage_name, again)
      ratios[remat] = flops.count_flops(other.step, *other.arguments) / step
    gb = {key: f"{value / 1e9:.3f}" for key, value in held.items()}
    print(f"\n{name} {stage_name}: {rows} clips, {step:.4g} FLOPs, {gb} GB")
    print(f"  FLOPs with remat: {ratios}", flush=True)
    weights = held["parameters"]
    state = weights + held["average"] + held["optimizer"]
    for machine, (kind, memory, link, counts) in MACHINES.items():
      peak = flops.peak(kind)
      assert peak is not None
      clips = CLIPS[machine, stage_name]
      compute = clips * step / rows / (MFU * peak.flops)
      for devices in counts:
        is_split = state + weights + held["frozen"] > 0.5 * memory
        ring = (devices - 1) / devices * weights / link
        # Whole parameters: gradients are reduced, in two passes. Split ones: they are
        # gathered for the forward and the backward pass, gradients scattered.
        network = (3 if is_split else 2) * ring
        # Read and written: the state; read: gradients.
        parts = devices if is_split else 1
        update = (2 * state + weights) / parts / peak.bandwidth
        whole = (state + weights) / parts + held["frozen"]
        times = [max(compute, network) + update, compute + network + update]
        by = {"arithmetic": compute, "network": network, "memory": update}
        limit = max(by, key=lambda x: by[x])
        print(
          f"| {machine} | {devices} | {clips} | {clips * devices}"
          f" | {'split' if is_split else 'whole'} | {whole / 1e9:.2f}"
          f" | {1e3 * compute:.1f} | {1e3 * network:.1f} | {1e3 * update:.2f}"
          f" | {1e3 * times[0]:.1f} to {1e3 * times[1]:.1f} | {limit} |",
          flush=True,
        )


if __name__ == "__main__":
  jax.config.update("jax_platforms", "cpu")
  main()
