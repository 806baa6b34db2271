"""Cost of a step of the sampling loop without the network.

    JAX_PLATFORMS=cpu python tests/benchmarks/sampler_loop.py

Samples with a denoise function that returns what it is given, and runs a
`jax.lax.scan` of as many steps with an empty body; prints the difference in
microseconds a step, the median of several runs, alternating.
"""

import statistics
import time

import jax
import jax.numpy as jnp

from lamd_jax.diffusion import process, samplers, schedules

STEPS, RUNS = 1000, 21
SAMPLERS = {
  "ddim": samplers.ddim(),
  "ddim, eta 1": samplers.ddim(1.0),
  "ancestral": samplers.ancestral(),
  "heun": samplers.heun(),
  "dpm_solver_2m": samplers.dpm_solver_2m(),
  "dpm_solver_2m, stochastic": samplers.dpm_solver_2m(stochastic=True),
  "langevin(ancestral)": samplers.langevin(samplers.ancestral()),
}


def nothing(x_t, logsnr):
  """A denoise function without a network."""
  del logsnr
  return process.Prediction(x=x_t, eps=x_t, v=x_t)


def seconds(run, *args):
  """Time of one call."""
  start = time.perf_counter()
  jax.block_until_ready(run(*args))
  return time.perf_counter() - start


def main():
  """Prints a line for each sampler."""
  x_init, key = jnp.ones((1, 16)), jax.random.key(0)
  grid = schedules.CosineSchedule().sampling_grid(STEPS)
  empty = jax.jit(lambda x, grid: jax.lax.scan(lambda x, level: (x, None), x, grid)[0])
  seconds(empty, x_init, grid)
  for name, sampler in SAMPLERS.items():
    run = jax.jit(
      lambda key, x, grid, sampler=sampler: samplers.sample(
        key, x, denoise_fn=nothing, sampler=sampler, logsnr_grid=grid
      )
    )
    seconds(run, key, x_init, grid)
    differences = [
      seconds(run, key, x_init, grid) - seconds(empty, x_init, grid)
      for _ in range(RUNS)
    ]
    each = 1e6 * statistics.median(differences) / STEPS
    print(f"{name:28s} {each:6.1f} us a step")


if __name__ == "__main__":
  main()
