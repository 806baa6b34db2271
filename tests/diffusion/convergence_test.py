"""Samplers end at the data, for data whose best denoiser is known."""

import functools
import math

from absl.testing import absltest, parameterized
import analytic
from analytic import SAMPLERS
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.diffusion import samplers, schedules

SCHEDULES = {
  name: schedules.make_schedule(name)
  for name in ("cosine", "cosine_beta", "linear", "sqrt_linear")
}
MEAN, STD = -0.4, 0.6
# Cut where a grid of a hundred steps still resolves the ends.
SMOOTH = {
  "cosine_6": schedules.CosineSchedule(logsnr_min=-6.0, logsnr_max=6.0),
  "linear": SCHEDULES["linear"],
}


@functools.partial(analytic.jit, static_argnames=("name", "parameterization"))
def run(name, parameterization, x_init, grid, weights, means, std):
  predict = analytic.mixture(weights, means, std)
  return samplers.sample(
    jax.random.key(1),
    x_init,
    denoise_fn=analytic.denoiser(predict, parameterization),
    sampler=SAMPLERS[name],
    logsnr_grid=grid,
  )


@functools.partial(analytic.jit, static_argnames="name")
def run_gaussian(name, x_init, grid):
  return samplers.sample(
    jax.random.key(1),
    x_init,
    denoise_fn=analytic.denoiser(analytic.gaussian(MEAN, STD)),
    sampler=SAMPLERS[name],
    logsnr_grid=grid,
  )


def share_left(weights, means, std):
  """Where the two parts are equally likely, and what lies left of it."""
  between = std**2 * np.log(weights[0] / weights[1]) / (means[1] - means[0])
  between += 0.5 * (means[0] + means[1])
  cdf = lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2)))
  parts = zip(weights, means, strict=True)
  return between, sum(w * cdf((between - mean) / std) for w, mean in parts)


class MarginalTest(parameterized.TestCase):
  @parameterized.product(name=tuple(SAMPLERS), parameterization=("x", "eps", "v"))
  def test_a_gaussian_and_a_mixture_come_out(self, name, parameterization):
    x_init = jax.random.normal(jax.random.key(0), (2000,))
    x_init = (x_init - x_init.mean()) / x_init.std()
    for schedule in SCHEDULES.values():
      grid = samplers.ending_clean(schedule.sampling_grid(250))
      go = functools.partial(run, name, parameterization, x_init, grid)
      got = np.asarray(go(np.array([0.5, 0.5]), np.array([MEAN, MEAN]), STD))
      np.testing.assert_allclose(got.mean(), MEAN, atol=0.04)
      np.testing.assert_allclose(got.std(), STD, rtol=0.06)
      got = np.asarray(go(analytic.WEIGHTS, analytic.MEANS, analytic.STD))
      between, share = share_left(analytic.WEIGHTS, analytic.MEANS, analytic.STD)
      np.testing.assert_allclose((got < between).mean(), share, atol=0.03)

  @parameterized.parameters(*SAMPLERS)
  def test_many_chains_have_the_weights_and_moments_of_a_mixture(self, name):
    x_init = jax.random.normal(jax.random.key(0), (50_000,))
    grid = samplers.ending_clean(SCHEDULES["cosine"].sampling_grid(200))
    mixture = analytic.WEIGHTS, analytic.MEANS, analytic.STD
    got = np.asarray(run(name, "v", x_init, grid, *mixture), np.float64)
    between, share = share_left(*mixture)
    np.testing.assert_allclose((got < between).mean(), share, atol=0.02)
    mean = analytic.WEIGHTS @ analytic.MEANS
    second = analytic.WEIGHTS @ (analytic.MEANS**2 + analytic.STD**2)
    np.testing.assert_allclose(got.mean(), mean, atol=0.03)
    np.testing.assert_allclose(got.var(), second - mean**2, rtol=0.03)


class OrderTest(parameterized.TestCase):
  def errors(self, name, schedule, steps):
    x_init = jnp.linspace(-2.0, 2.0, 9)
    errors = []
    for num_steps in steps:
      grid = schedule.logsnr(jnp.linspace(1.0, 0.0, num_steps + 1))
      got = run_gaussian(name, x_init, grid)
      flow = analytic.gaussian_flow(x_init, grid[0], grid[-1], MEAN, STD)
      errors.append(np.abs(np.asarray(got) - flow).max())
    return errors

  @parameterized.product(
    case=(("ddim", 1.0), ("heun", 2.0), ("dpm_solver_2m", 2.0)), schedule=tuple(SMOOTH)
  )
  def test_halving_the_step_divides_the_error_by_2_to_the_order(self, case, schedule):
    name, order = case
    errors = self.errors(name, SMOOTH[schedule], (100, 200))
    self.assertAlmostEqual(np.log2(errors[0] / errors[1]), order, delta=0.2)

  @parameterized.product(
    case=(("ddim", 1.0), ("heun", 2.0), ("dpm_solver_2m", 2.0)),
    schedule=tuple(SCHEDULES),
  )
  def test_on_no_schedule_is_it_worse(self, case, schedule):
    # Heun's first step from almost pure noise, in sigma / alpha, is so long that its
    # error falls faster than the others, until the grid resolves that end.
    name, order = case
    errors = self.errors(name, SCHEDULES[schedule], (400, 800))
    self.assertGreater(np.log2(errors[0] / errors[1]), order - 0.2)


if __name__ == "__main__":
  absltest.main()
