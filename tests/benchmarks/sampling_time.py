"""How the time of sampling a video grows with its length: LaMD beside VDM.

    JAX_PLATFORMS=cpu python tests/benchmarks/sampling_time.py
    python tests/benchmarks/sampling_time.py --paper      # On a GPU.

One video of 16, 32, 64 and 128 frames from one picture, with random weights, which take
as long as trained ones: LaMD by 200 DDIM steps, its encoder and decoder included; VDM's
network by 200 calls. A call of VDM is timed and multiplied, all else is timed whole.
Compilation is left out; medians of `--repeats`. With `--paper` the networks of
`configs/bair.py` (DMG of 336 M parameters) and `configs/vdm_bair.py` in bfloat16 at
128x128, otherwise those of their `:small` at 64x64 in float32.
"""

import argparse
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from configs import bair, vdm_bair
from lamd_jax.experiment import batches
from lamd_jax.experiment.run import make_run
from lamd_jax.systems import table
from lamd_jax.systems.stage import Part

LENGTHS = (16, 32, 64, 128)
STEPS = 200


def median_seconds(run, repeats: int) -> float:
  """Of calls of a function of an integer, after one that compiles it."""
  jax.block_until_ready(run(0))
  found = []
  for i in range(repeats):
    start = time.monotonic()
    jax.block_until_ready(run(1 + i))
    found.append(time.monotonic() - start)
  return statistics.median(found)


def random_params(abstract):
  """Small numbers for every parameter, zero at first or not."""
  leaves, tree = jax.tree.flatten(abstract)
  keys = jax.random.split(jax.random.key(0), len(leaves))
  values = [
    0.02 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)
  ]
  return jax.tree.unflatten(tree, values)


def zeros(config, stage):
  """A batch of one black video, of the size that a stage sees."""
  run = make_run(config, pathlib.Path())
  shape = batches.abstract_batch(run, stage)["video"].shape
  return {"video": jnp.zeros(shape, jnp.uint8)}


def lamd_seconds(config, repeats: int) -> tuple[float, float]:
  """Of a whole sample, and of encoding and decoding alone."""
  batch = zeros(config, "dmg")
  key, parts = jax.random.key(0), {}
  for name in config.stages:
    stage = table.make_stage(config, name, parts)
    parts[name] = Part(random_params(jax.eval_shape(stage.init, key, batch)))
  sample = jax.jit(lambda stage, params, key: stage.sample(params, batch, key))
  whole = lambda i: sample(stage, parts["dmg"].params, jax.random.key(i))
  autoencoder = table.make_stage(config, "mcd_vae", {})
  side, vae = config.data.resolution // 4, autoencoder.model

  @jax.jit
  def decode(params, z):
    image = jnp.zeros((1, 4 * side, 4 * side, 3))
    run = lambda model: model.decode(z, model.encode_content(image))
    return vae.apply({"params": params}, method=run)

  z = jax.random.normal(key, (1, side, side, vae.latent_channels))
  around = lambda i: decode(parts["mcd_vae"].params, z + i)
  return median_seconds(whole, repeats), median_seconds(around, repeats)


def vdm_seconds(config, repeats: int) -> float:
  """Of a call of the network."""
  stage = table.make_stage(config, "base", {})
  batch = zeros(config, "base")
  shape = batch["video"].shape
  params = random_params(jax.eval_shape(stage.init, jax.random.key(0), batch))
  call = jax.jit(
    lambda params, x: stage.model.apply({"params": params}, x, x[:, 0, 0, 0, 0])
  )
  x = jax.random.normal(jax.random.key(1), shape)
  return median_seconds(lambda i: call(params["model"], x + i), repeats)


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--paper", action="store_true")
  parser.add_argument("--repeats", type=int, default=3)
  args = parser.parse_args()
  size = None if args.paper else "small"
  print(f"{jax.devices()[0].device_kind}, {'paper' if args.paper else 'small'} sizes")
  rows = {"LaMD": [], "of it, encoder and decoder": [], "VDM": []}
  for num_frames in LENGTHS:
    config, other = bair.get_config(size), vdm_bair.get_config(size)
    for c in (config, other):
      c.data.num_frames, c.data.resolution = num_frames, 128 if args.paper else 64
      c.compute_dtype = "bfloat16" if args.paper else "float32"
    config.sample.num_steps = STEPS
    other.base.model.max_frames = num_frames
    found = [*lamd_seconds(config, args.repeats)]
    found.append(STEPS * vdm_seconds(other, args.repeats))
    for row, seconds in zip(rows.values(), found, strict=True):
      row.append(seconds)
    print(num_frames, *(f"{x:.2f}" for x in found), flush=True)
  print(
    "| seconds a video |", " | ".join(f"{n} frames" for n in LENGTHS), "| 128 / 16 |"
  )
  for name, row in rows.items():
    cells = " | ".join(f"{x:.2f}" for x in row)
    print(f"| {name} | {cells} | {row[-1] / row[0]:.2f} |")


if __name__ == "__main__":
  main()
