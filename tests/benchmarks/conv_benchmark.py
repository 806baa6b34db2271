"""Times the convolution of lamd_jax beside XLA's own, on this machine's default device.

    JAX_PLATFORMS=cpu python tests/benchmarks/conv_benchmark.py

For each size: the forward pass, and the forward pass with both gradients, as a median
over rounds in which the two take turns, so that a busy machine slows both. The last
column is how many times faster lamd_jax is. On an accelerator both are the same
program and the ratio is 1.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from lamd_jax.nn.conv import convolve

SIZES = [
  # Input (b f h w c), kernel, channels out, strides.
  ((8, 16, 32, 32, 24), (1, 3, 3), 24, (1, 1, 1)),
  ((8, 16, 32, 32, 24), (3, 1, 1), 24, (1, 1, 1)),
  ((8, 16, 32, 32, 24), (3, 3, 3), 24, (1, 1, 1)),
  ((8, 16, 32, 32, 24), (1, 3, 3), 48, (1, 2, 2)),
  ((8, 16, 32, 32, 3), (1, 3, 3), 24, (1, 1, 1)),
  ((8, 16, 16, 16, 48), (1, 3, 3), 48, (1, 1, 1)),
  ((8, 16, 8, 8, 96), (3, 3, 3), 96, (1, 1, 1)),
  ((32, 1, 8, 8, 64), (1, 3, 3), 64, (1, 1, 1)),
]


def direct(x, kernel, strides):
  """XLA's own convolution."""
  return jax.lax.conv_general_dilated(
    x, kernel, strides, "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
  )


def forward(fn, strides):
  """The compiled forward pass."""
  return jax.jit(lambda x, kernel: fn(x, kernel, strides))


def with_gradients(fn, strides):
  """The compiled forward pass and both gradients."""

  def run(x, kernel):
    y, vjp = jax.vjp(lambda x, kernel: fn(x, kernel, strides), x, kernel)
    return y, *vjp(y)

  return jax.jit(run)


def medians(fns, args, rounds):
  """Seconds of each function, the functions taking turns."""
  seconds = [[] for _ in fns]
  for i in range(rounds + 1):
    for fn, times in zip(fns, seconds, strict=True):
      start = time.perf_counter()
      jax.block_until_ready(fn(*args))
      if i:  # The first round compiles.
        times.append(time.perf_counter() - start)
  return [statistics.median(times) for times in seconds]


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rounds", type=int, default=7)
  rounds = parser.parse_args().rounds
  print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, milliseconds")
  print("| input | kernel | out | strides | pass | XLA | lamd_jax | ratio |")
  print("| --- | --- | --- | --- | --- | --- | --- | --- |")
  for shape, size, out, strides in SIZES:
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], shape)
    kernel = jax.random.normal(keys[1], (*size, shape[-1], out))
    for name, make in (("forward", forward), ("with gradients", with_gradients)):
      fns = [make(fn, strides) for fn in (direct, convolve)]
      results = zip(fns[0](x, kernel), fns[1](x, kernel), strict=True)
      for theirs, ours in results:
        error = jnp.max(jnp.abs(theirs - ours)) / jnp.max(jnp.abs(theirs))
        if error > 1e-4:
          raise AssertionError(f"{shape} {size}: results differ by {error:.1e}")
      theirs, ours = medians(fns, (x, kernel), rounds)
      cells = [
        "x".join(map(str, shape)),
        "x".join(map(str, size)),
        out,
        "x".join(map(str, strides)),
        name,
        f"{1e3 * theirs:.1f}",
        f"{1e3 * ours:.1f}",
        f"{theirs / ours:.2f}",
      ]
      print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
  main()
