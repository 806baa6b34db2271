"""Schedules against the papers' formulas, written independently in float64."""

import math

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.diffusion import schedules
from lamd_jax.types import UserError

COSINE = schedules.CosineSchedule()
LDM = schedules.make_schedule("sqrt_linear")
DDPM = schedules.make_schedule("linear")
COSINE_BETA = schedules.make_schedule("cosine_beta")
SMALL = schedules.DiscreteSchedule(schedules.linear_betas(7, 0.1, 0.4))


def abar_by_loop(betas):
  """The product of 1 - beta, one factor at a time."""
  product, products = 1.0, []
  for beta in betas:
    product *= 1.0 - beta
    products.append(product)
  return np.array(products)


def grid_times(schedule):
  n = len(schedule.betas)
  return jnp.arange(n, dtype=jnp.float32) / (n - 1)


class AnyScheduleTest(parameterized.TestCase):
  @parameterized.parameters(COSINE, COSINE_BETA, LDM, DDPM, SMALL)
  def test_it_is_a_schedule_that_falls_and_can_be_hashed(self, schedule):
    self.assertIsInstance(schedule, schedules.Schedule)
    self.assertIsInstance(hash(schedule), int)
    logsnr = schedule.logsnr(jnp.linspace(0.0, 1.0, 777))
    self.assertEqual(logsnr.dtype, jnp.float32)
    chex.assert_tree_all_finite(logsnr)
    self.assertTrue(jnp.all(jnp.diff(logsnr) < 0))

  @parameterized.parameters(COSINE, LDM, DDPM, SMALL)
  def test_a_sampling_grid_rises_and_has_a_level_more_than_steps(self, schedule):
    for num_steps in (1, 2, 5, 6):
      grid = schedule.sampling_grid(num_steps)
      chex.assert_shape(grid, (num_steps + 1,))
      self.assertTrue(jnp.all(jnp.diff(grid) > 0))

  @parameterized.parameters(COSINE, LDM, SMALL)
  def test_training_times_are_uniform_and_independent(self, schedule):
    t = np.asarray(schedule.draw_times(jax.random.key(0), (20_000,)))
    self.assertBetween(t.min(), 0.0, 0.01)
    self.assertBetween(t.max(), 0.99, 1.0)
    np.testing.assert_allclose(t.mean(), 0.5, atol=0.01)
    num = len(getattr(schedule, "betas", range(10**9)))
    variance = (1 / 12) * (num + 1) / (num - 1)  # Of n equal steps on [0, 1].
    np.testing.assert_allclose(t.var(), variance, rtol=0.02)
    self.assertLess(abs(np.corrcoef(t[1:], t[:-1])[0, 1]), 0.03)

  def test_an_unknown_name_lists_the_known_ones(self):
    with self.assertRaisesRegex(
      UserError, "'cosin'.*cosine, cosine_beta, linear, lvdm, sqrt_linear"
    ):
      schedules.make_schedule("cosin")


class CosineScheduleTest(parameterized.TestCase):
  def test_both_ends_are_exact(self):
    schedule = schedules.CosineSchedule(logsnr_min=-15.0, logsnr_max=12.0)
    ends = schedule.logsnr(jnp.array([0.0, 1.0]))
    np.testing.assert_array_equal(ends, [12.0, -15.0])

  def test_in_between_it_is_the_formula_in_float64(self):
    b = math.atan(math.exp(-10.0))
    a = math.atan(math.exp(10.0)) - b
    t = np.linspace(0.001, 0.999, 57).astype(np.float32)
    expected = [-2.0 * math.log(math.tan(a * float(x) + b)) for x in t]
    np.testing.assert_allclose(COSINE.logsnr(jnp.asarray(t)), expected, atol=1e-3)

  def test_values_of_video_diffusion_models(self):
    # Ho et al. 2022 on [-20, 20], by the formula in float64.
    t = jnp.array([0.0, 0.25, 0.5, 0.75, 1.0])
    logsnr = COSINE.logsnr(t)
    np.testing.assert_allclose(logsnr, [20, 1.7626, 0, -1.7626, -20], atol=1e-4)
    alpha = np.sqrt(jax.nn.sigmoid(logsnr))
    np.testing.assert_allclose(alpha[-1], 4.53999e-5, rtol=1e-5)
    np.testing.assert_allclose(alpha, np.cos(np.pi / 2 * np.asarray(t)), atol=5e-5)

  def test_half_way_signal_and_noise_are_equal(self):
    np.testing.assert_allclose(COSINE.logsnr(jnp.array(0.5)), 0.0, atol=1e-5)

  def test_time_undoes_logsnr(self):
    t = jnp.linspace(0.0, 1.0, 101)
    np.testing.assert_allclose(COSINE.time(COSINE.logsnr(t)), t, atol=1e-5)
    np.testing.assert_allclose(COSINE.timestep(COSINE.logsnr(t)), 999 * t, atol=1e-2)

  def test_ends_that_are_swapped_say_so(self):
    with self.assertRaisesRegex(UserError, "must be below"):
      schedules.CosineSchedule(logsnr_min=3.0, logsnr_max=-3.0).logsnr(jnp.ones(1))

  def test_sampling_without_steps_says_so(self):
    with self.assertRaisesRegex(UserError, "num_steps=0"):
      COSINE.sampling_grid(0)


class DiscreteScheduleTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("ldm", LDM, [(0.0015**0.5 + i / 999 * (0.0195**0.5 - 0.0015**0.5)) ** 2
                  for i in range(1000)]),
    ("ddpm", DDPM, [1e-4 + i / 999 * (0.02 - 1e-4) for i in range(1000)]),
    ("lvdm", schedules.make_schedule("lvdm"),
     [(0.0015**0.5 + i / 999 * (0.0155**0.5 - 0.0015**0.5)) ** 2
      for i in range(1000)]),
    ("stable_diffusion", schedules.make_schedule("stable_diffusion"),
     [(0.00085**0.5 + i / 999 * (0.012**0.5 - 0.00085**0.5)) ** 2
      for i in range(1000)]),
  )  # fmt: skip
  def test_levels_are_those_of_a_loop_over_betas(self, schedule, betas):
    abar = abar_by_loop(betas)
    logsnr = np.asarray(schedule.logsnr(grid_times(schedule)), np.float64)
    np.testing.assert_allclose(logsnr, np.log(abar / (1 - abar)), atol=2e-6)

  def test_the_constants_of_latent_diffusion(self):
    abar = np.asarray(jax.nn.sigmoid(LDM.logsnr(jnp.array([0.0, 1.0]))))
    np.testing.assert_allclose(abar[0], 1 - 0.0015, atol=1e-6)
    # sum of log(1 - beta), by the integral of its series to third order.
    np.testing.assert_allclose(LDM.betas[-1], 0.0195, rtol=1e-12)
    a, b = 0.0015**0.5, 0.0195**0.5
    moments = [(b**k - a**k) / (k * (b - a)) for k in (3, 5, 7)]
    ends = [(a**k + b**k) / 2 for k in (2, 4, 6)]  # Trapezoidal rule's ends.
    sums = [999 * m + e for m, e in zip(moments, ends, strict=True)]
    log_abar = -sum(s / k for s, k in zip(sums, (1, 2, 3), strict=True))
    np.testing.assert_allclose(np.log(abar[1]), log_abar, rtol=1e-5)

  def test_cosine_betas_follow_the_squared_cosine(self):
    # Nichol & Dhariwal 2021, equation 17: before the cut, abar_t = f(t) / f(0).
    f = lambda step: math.cos((step / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
    for step in (0, 10, 500, 990):
      abar = jax.nn.sigmoid(COSINE_BETA.logsnr(jnp.array(step / 999)))
      np.testing.assert_allclose(abar, f(step + 1) / f(0), rtol=2e-4)
    self.assertEqual(max(COSINE_BETA.betas), 0.999)
    self.assertEqual(COSINE_BETA.betas[-1], 0.999)

  def test_the_noise_of_lvdm_conditions(self):
    # He et al. 2022: at steps 100 and 249, from their constants in float64.
    logsnr = schedules.make_schedule("lvdm").logsnr(jnp.array([100, 249]) / 999)
    alpha, sigma = np.sqrt(jax.nn.sigmoid(logsnr)), np.sqrt(jax.nn.sigmoid(-logsnr))
    np.testing.assert_allclose(alpha, [0.910, 0.733], atol=6e-4)
    np.testing.assert_allclose(sigma, [0.414, 0.680], atol=6e-4)

  def test_with_as_many_steps_as_levels_it_is_all_of_them_and_clean_data(self):
    grid = np.asarray(SMALL.sampling_grid(7))
    levels = np.asarray(SMALL.logsnr(jnp.arange(7.0) / 6))
    np.testing.assert_allclose(grid[:-1], levels[::-1], rtol=1e-6)
    self.assertEqual(grid[-1], np.inf)

  def test_the_last_level_of_ddpm_is_the_known_one(self):
    abar = jax.nn.sigmoid(DDPM.logsnr(jnp.ones(1)))
    np.testing.assert_allclose(abar, 4.0358e-5, rtol=1e-4)

  @parameterized.parameters(LDM, DDPM, SMALL)
  def test_at_trained_levels_the_timestep_is_a_whole_number(self, schedule):
    n = len(schedule.betas)
    timestep = jax.jit(lambda t: schedule.timestep(schedule.logsnr(t)))
    np.testing.assert_array_equal(timestep(grid_times(schedule)), np.arange(n))

  def test_between_levels_it_is_linear_and_its_inverse_too(self):
    t = jnp.array([2.25, 2.5, 5.75]) / 6
    levels = np.asarray(SMALL.logsnr(jnp.arange(7.0) / 6), np.float64)
    expected = [
      0.75 * levels[2] + 0.25 * levels[3],
      0.5 * levels[2] + 0.5 * levels[3],
      0.25 * levels[5] + 0.75 * levels[6],
    ]
    np.testing.assert_allclose(SMALL.logsnr(t), expected, rtol=1e-6)
    np.testing.assert_allclose(
      SMALL.timestep(SMALL.logsnr(t)), [2.25, 2.5, 5.75], rtol=1e-5
    )

  def test_times_are_drawn_from_the_trained_levels(self):
    t = SMALL.draw_times(jax.random.key(1), (3000,))
    counts = np.bincount(np.asarray(jnp.round(t * 6), int), minlength=7)
    np.testing.assert_allclose(t, np.round(t * 6) / 6, atol=1e-7)
    np.testing.assert_allclose(counts, 3000 / 7, atol=70)

  @parameterized.parameters(200, 50, 10, 1)
  def test_the_sampling_grid_is_that_of_latent_diffusion(self, num_steps):
    # ldm/modules/diffusionmodules/util.py, make_ddim_timesteps ("uniform") and
    # make_ddim_sampling_parameters.
    abar = abar_by_loop(LDM.betas)
    steps = np.arange(0, 1000, 1000 // num_steps) + 1
    alphas, alphas_prev = abar[steps], np.array([abar[0], *abar[steps[:-1]]])
    got = np.asarray(jax.nn.sigmoid(LDM.sampling_grid(num_steps)))[::-1]
    np.testing.assert_allclose(got[1:], alphas, rtol=1e-5)
    np.testing.assert_allclose(got[:-1], alphas_prev, rtol=1e-5)

  def test_the_sampling_grid_visits_trained_levels_only(self):
    for num_steps in (3, 7, 300, 999):
      visited = np.asarray(LDM.timestep(LDM.sampling_grid(num_steps)))
      np.testing.assert_array_equal(visited, np.round(visited))
      self.assertEqual(visited[-1], 0)

  @parameterized.parameters(0, 1001)
  def test_more_steps_than_levels_says_so(self, num_steps):
    with self.assertRaisesRegex(UserError, f"num_steps={num_steps}.*1 to 1000"):
      LDM.sampling_grid(num_steps)

  @parameterized.parameters(((),), ((0.1,),), ((0.1, 1.0),), ((0.0, 0.1),))
  def test_impossible_betas_say_so(self, betas):
    with self.assertRaisesRegex(UserError, "betas"):
      schedules.DiscreteSchedule(betas).logsnr(jnp.ones(1))


if __name__ == "__main__":
  absltest.main()
