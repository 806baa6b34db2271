"""A training step and a denoising call of VDM beside video-diffusion-pytorch 0.7.0.

    python -m venv peer && peer/bin/pip install torch==2.13.0 tqdm pillow
    peer/bin/pip install --no-deps video-diffusion-pytorch==0.7.0 einops einops-exts \
      rotary-embedding-torch
    JAX_PLATFORMS=cpu python tests/benchmarks/vdm_peer.py --peer=peer/bin/python

Both at width 32 with multiples 1, 2, 4 and 8, on 2 videos of 16 frames of 32x32, in
float32, with Adam. The peer has attention at every level; ours is timed so too, and in
the paper's layout without it at full resolution. One residual block a level gives about
the peer's number of parameters. Each is a process of its own, in turns, so that a
slower minute of the machine strikes all.
"""

import argparse
import json
import statistics
import subprocess
import sys

SHAPE = (2, 16, 32, 32)
OURS = {"ours, paper's layout": (2, 4, 8), "ours, attention everywhere": (1, 2, 4, 8)}

PEER = """
import json, sys, time
from unittest import mock
for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
  sys.modules[name] = mock.MagicMock()  # For reading of files alone.
import torch
from video_diffusion_pytorch import GaussianDiffusion, Unet3D
b, f, h, w = json.loads(sys.argv[1])
repeats = int(sys.argv[2])
torch.manual_seed(0)
model = Unet3D(dim=32, dim_mults=(1, 2, 4, 8))
diffusion = GaussianDiffusion(model, image_size=h, num_frames=f, loss_type="l2")
optimizer = torch.optim.Adam(diffusion.parameters(), 1e-4)
video = torch.rand(b, 3, f, h, w)
level = torch.zeros(b, dtype=torch.long)

def step():
  optimizer.zero_grad()
  diffusion(video).backward()
  optimizer.step()

def call():
  with torch.inference_mode():
    model(video, level)

found = {"parameters": sum(p.numel() for p in model.parameters())}
for name, fn in (("step", step), ("call", call)):
  fn()
  found[name] = []
  for _ in range(repeats):
    start = time.monotonic()
    fn()
    found[name].append(time.monotonic() - start)
print(json.dumps(found))
"""


def ours(attention_factors, repeats):
  """Seconds of steps and calls of this library, and its number of parameters."""
  import time

  import jax
  import jax.numpy as jnp
  import numpy as np

  from lamd_jax.diffusion import schedules
  from lamd_jax.models import unet3d
  from lamd_jax.systems.vdm import base as base_lib
  from lamd_jax.training import optimizer, state, step

  model = unet3d.UNet3D(
    model_channels=32,
    channel_mults=(1, 2, 4, 8),
    num_res_blocks=1,
    attention_factors=attention_factors,
    head_channels=32,
    embedding_channels=128,
    num_embedding_layers=2,
    max_frames=SHAPE[1],
  )
  stage = base_lib.VDMStage(
    model, None, schedules.make_schedule("cosine"), "eps", 0.0, base_lib.Sampling()
  )
  tx, learning_rate_fn = optimizer.make_optimizer(1000, 1e-4)
  rng = np.random.default_rng(0)
  batch = {"video": jnp.asarray(rng.integers(0, 256, (*SHAPE, 3), np.uint8))}
  key = jax.random.key(0)
  start = jax.jit(lambda key, batch: state.init_state(stage.init(key, batch), tx))
  loss_fn = lambda stage, *args: stage.loss(*args, train=True)
  train_step = jax.jit(
    step.make_train_step(loss_fn, tx, 0.999, learning_rate_fn), donate_argnums=0
  )
  current = start(key, batch)
  size = sum(x.size for x in jax.tree.leaves(current.params))
  apply = jax.jit(lambda params, x: model.apply({"params": params}, x, jnp.zeros(2)))
  x = jnp.zeros((*SHAPE, 3))
  found = {"parameters": size, "step": [], "call": []}
  for i in range(repeats + 1):
    started = time.monotonic()
    current, _ = train_step(current, batch, key, stage)
    jax.block_until_ready(current)
    if i:
      found["step"].append(time.monotonic() - started)
  for i in range(repeats + 1):
    started = time.monotonic()
    jax.block_until_ready(apply(current.params["model"], x))
    if i:
      found["call"].append(time.monotonic() - started)
  return found


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--peer", help="a Python with the peer and PyTorch")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--rounds", type=int, default=2)
  parser.add_argument("--only", choices=OURS, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.only:
    print(json.dumps(ours(OURS[args.only], args.repeats)))
    return
  repeats = str(args.repeats)
  commands = {
    "video-diffusion-pytorch 0.7.0": [
      args.peer, "-c", PEER, json.dumps(SHAPE), repeats
    ],
  } | {
    name: [sys.executable, __file__, f"--only={name}", f"--repeats={repeats}"]
    for name in OURS
  }  # fmt: skip
  found = {name: {"step": [], "call": []} for name in commands}
  for _ in range(args.rounds):
    for name, command in commands.items():
      run = subprocess.run(command, check=True, capture_output=True, text=True)
      result = json.loads(run.stdout.splitlines()[-1])
      found[name]["parameters"] = result["parameters"]
      for what in ("step", "call"):
        found[name][what] += result[what]
      print(name, result, file=sys.stderr, flush=True)
  median = {
    name: {what: statistics.median(x[what]) for what in ("step", "call")}
    for name, x in found.items()
  }
  peer = next(iter(median.values()))
  print(
    "| | million parameters | s / step | times as fast | s / call | times as fast |"
  )
  print("| --- | --- | --- | --- | --- | --- |")
  for name, x in median.items():
    size = found[name]["parameters"] / 1e6
    print(
      f"| {name} | {size:.1f} | {x['step']:.2f} | {peer['step'] / x['step']:.2f} |"
      f" {x['call']:.2f} | {peer['call'] / x['call']:.2f} |"
    )


if __name__ == "__main__":
  main()
