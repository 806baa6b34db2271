"""Samplers on data whose denoiser and flow are known in closed form."""

import functools
import itertools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.diffusion import guidance, process, samplers, schedules

MEAN, STD = -0.4, 0.6  # The data: N(MEAN, STD^2), each element by itself.
COSINE = schedules.CosineSchedule(logsnr_min=-12.0, logsnr_max=12.0)
LDM = schedules.make_schedule("sqrt_linear")
STOCHASTIC = functools.partial(samplers.ddim_step, eta=1.0)


def best_denoise_fn(x_t, logsnr):
  """The conditional mean of x given x_t, for the Gaussian above."""
  alpha, sigma = process.alpha_sigma(logsnr, x_t.ndim)
  gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
  return process.convert(MEAN + gain * (x_t - alpha * MEAN), x_t, logsnr, "x")


def flow(x_init, first, last):
  """Where the probability flow takes x_init: it keeps quantiles of a Gaussian."""
  abar = lambda logsnr: 1 / (1 + np.exp(-float(logsnr)))
  std = lambda logsnr: np.sqrt(abar(logsnr) * STD**2 + 1 - abar(logsnr))
  score = (x_init - np.sqrt(abar(first)) * MEAN) / std(first)
  return np.sqrt(abar(last)) * MEAN + std(last) * score


def moments(grid):
  """Mean and variance at the end of the ancestral chain from N(0, 1), in float64.

  Each step is linear in x_t for Gaussian data. Written with abar as in Ho et al.
  2020, equations 6 and 7, with beta = 1 - abar_t / abar_s.
  """
  abar = 1 / (1 + np.exp(-np.asarray(grid, np.float64)))
  mean, variance = 0.0, 1.0
  for a_t, a_s in itertools.pairwise(abar):
    beta = 1 - a_t / a_s
    of_x = np.sqrt(a_s) * beta / (1 - a_t)
    of_x_t = np.sqrt(1 - beta) * (1 - a_s) / (1 - a_t)
    gain = np.sqrt(a_t) * STD**2 / (a_t * STD**2 + 1 - a_t)
    slope = of_x_t + of_x * gain
    mean = slope * mean + of_x * MEAN * (1 - gain * np.sqrt(a_t))
    variance = slope**2 * variance + beta * (1 - a_s) / (1 - a_t)
  return mean, variance


def draw(shape=(2, 3, 4, 1), seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def run(step_fn, grid, x_init, denoise_fn=best_denoise_fn):
  return samplers.sample(
    jax.random.key(1),
    x_init,
    denoise_fn=denoise_fn,
    step_fn=step_fn,
    logsnr_grid=grid,
  )


class SamplersTest(parameterized.TestCase):
  @parameterized.parameters((COSINE, 0.02), (LDM, 0.04))
  def test_ddim_follows_the_flow_to_first_order(self, schedule, tolerance):
    x_init = draw()
    errors = []
    for num_steps in (50, 100):
      grid = schedule.sampling_grid(num_steps)
      got = run(samplers.ddim_step, grid, x_init)
      chex.assert_shape(got, x_init.shape)
      errors.append(np.max(np.abs(got - flow(x_init, grid[0], grid[-1]))))
    self.assertLess(errors[1], tolerance)
    self.assertBetween(errors[0] / errors[1], 1.7, 2.3)  # Half the step.

  @parameterized.parameters(samplers.ancestral_step, STOCHASTIC)
  def test_random_samplers_have_the_moments_of_the_chain(self, step_fn):
    grid = LDM.sampling_grid(50)
    got = run(step_fn, grid, draw((4, 5000)))
    mean, variance = moments(grid)
    np.testing.assert_allclose(got.mean(), mean, atol=0.02)
    np.testing.assert_allclose(got.var(), variance, rtol=0.03)
    # And a fine chain ends at the data, which says that `moments` is right.
    mean, variance = moments(LDM.sampling_grid(999))
    np.testing.assert_allclose(mean, MEAN, atol=0.005)
    np.testing.assert_allclose(variance, STD**2, rtol=0.02)

  @parameterized.product(
    step_fn=(samplers.ddim_step, STOCHASTIC, samplers.ancestral_step),
    num_steps=(1, 2, 5),
  )
  def test_a_network_that_knows_the_answer_gives_it(self, step_fn, num_steps):
    answer = draw((2, 3), seed=5)
    oracle = lambda x_t, logsnr: process.convert(answer, x_t, logsnr, "x")
    grid = COSINE.sampling_grid(num_steps)
    got = run(step_fn, grid, draw((2, 3)), oracle)
    chex.assert_trees_all_close(got, answer, atol=0.02)  # sigma at the end: exp(-6).

  def test_with_trained_levels_the_answer_keeps_the_noise_of_the_first(self):
    answer = draw((2, 3), seed=5)
    oracle = lambda x_t, logsnr: process.convert(answer, x_t, logsnr, "x")
    x_init = draw((2, 3))
    got = run(samplers.ddim_step, LDM.sampling_grid(7), x_init, oracle)
    # DDIM with an oracle never changes the noise it finds in the start.
    first = 1 + 6 * 1000 // 7
    abar = np.cumprod(1 - np.array(LDM.betas))
    eps = (x_init - np.sqrt(abar[first]) * answer) / np.sqrt(1 - abar[first])
    expected = np.sqrt(1 - 0.0015) * answer + np.sqrt(0.0015) * eps
    np.testing.assert_allclose(got, expected, atol=1e-4)

  @parameterized.parameters(0.0, 0.4, 1.0)
  def test_a_ddim_step_is_that_of_latent_diffusion(self, eta):
    # ldm/models/diffusion/ddim.py, p_sample_ddim, with the sigma of
    # make_ddim_sampling_parameters, in float64.
    abar = np.cumprod(1 - np.array(LDM.betas))
    step, previous = 401, 376
    x_t, eps = (np.asarray(draw((3, 4), seed=s), np.float64) for s in (2, 3))
    key = jax.random.key(4)
    noise = np.asarray(jax.random.normal(key, (3, 4)), np.float64)
    a_t, a_prev = abar[step], abar[previous]
    sigma = eta * np.sqrt((1 - a_prev) / (1 - a_t) * (1 - a_t / a_prev))
    pred_x0 = (x_t - np.sqrt(1 - a_t) * eps) / np.sqrt(a_t)
    direction = np.sqrt(1 - a_prev - sigma**2) * eps
    expected = np.sqrt(a_prev) * pred_x0 + direction + sigma * noise

    at = lambda i: jnp.full(3, LDM.logsnr(jnp.array(i / 999)))
    x_t, eps = jnp.asarray(x_t, jnp.float32), jnp.asarray(eps, jnp.float32)
    prediction = process.convert(eps, x_t, at(step), "eps")
    got = samplers.ddim_step(key, prediction, x_t, at(step), at(previous), eta=eta)
    np.testing.assert_allclose(got, expected, atol=3e-5)

  def test_an_ancestral_step_is_that_of_ddpm(self):
    # Ho et al. 2020, equations 6 and 7, for neighbouring steps, in float64.
    betas = np.array(LDM.betas)
    abar = np.cumprod(1 - betas)
    i = 300
    x_t, x = (np.asarray(draw((3, 4), seed=s), np.float64) for s in (2, 3))
    key = jax.random.key(4)
    noise = np.asarray(jax.random.normal(key, (3, 4)), np.float64)
    mean = np.sqrt(abar[i - 1]) * betas[i] / (1 - abar[i]) * x
    mean += np.sqrt(1 - betas[i]) * (1 - abar[i - 1]) / (1 - abar[i]) * x_t
    variance = (1 - abar[i - 1]) / (1 - abar[i]) * betas[i]

    at = lambda i: jnp.full(3, LDM.logsnr(jnp.array(i / 999)))
    x_t, x = jnp.asarray(x_t, jnp.float32), jnp.asarray(x, jnp.float32)
    prediction = process.convert(x, x_t, at(i), "x")
    got = samplers.ancestral_step(key, prediction, x_t, at(i), at(i - 1))
    np.testing.assert_allclose(got, mean + np.sqrt(variance) * noise, atol=3e-5)

  def test_ddim_with_eta_one_is_ancestral_sampling(self):
    at = [jnp.array([-3.0, -1.0]), jnp.array([-2.5, 1.5])]
    x_t = draw((2, 3))
    prediction = best_denoise_fn(x_t, at[0])
    key = jax.random.key(3)
    chex.assert_trees_all_close(
      STOCHASTIC(key, prediction, x_t, *at),
      samplers.ancestral_step(key, prediction, x_t, *at),
      atol=1e-5,
    )

  def test_every_step_draws_its_own_noise(self):
    noises = []

    def step_fn(key, prediction, x_t, logsnr_t, logsnr_s):
      jax.debug.callback(lambda x: noises.append(float(x)), jax.random.normal(key))
      return x_t

    run(step_fn, COSINE.sampling_grid(6), draw((2, 3)))
    jax.effects_barrier()
    self.assertLen(set(noises), 6)

  def test_one_trace_whatever_the_key(self):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def sample(key, x_init):
      return samplers.sample(
        key,
        x_init,
        denoise_fn=best_denoise_fn,
        step_fn=STOCHASTIC,
        logsnr_grid=LDM.sampling_grid(4),
      )

    outputs = [sample(jax.random.key(i), jnp.ones((2, 3))) for i in (0, 0, 1)]
    chex.assert_trees_all_equal(outputs[0], outputs[1])
    self.assertFalse(jnp.allclose(outputs[0], outputs[2]))


class GuidanceTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.x_t, self.logsnr = draw((2, 3)), jnp.array([-1.0, 2.0])
    self.wrong = lambda x_t, logsnr: process.convert(0 * x_t, x_t, logsnr, "x")

  def eps(self, scale):
    guided = guidance.classifier_free(best_denoise_fn, self.wrong, scale)
    return guided(self.x_t, self.logsnr).eps

  def test_scale_one_is_the_conditional_model_and_asks_no_other(self):
    def never(x_t, logsnr):
      raise AssertionError("evaluated")

    guided = guidance.classifier_free(best_denoise_fn, never, 1.0)
    chex.assert_trees_all_equal(
      guided(self.x_t, self.logsnr), best_denoise_fn(self.x_t, self.logsnr)
    )

  def test_scale_zero_is_the_unconditional_model(self):
    expected = self.wrong(self.x_t, self.logsnr).eps
    chex.assert_trees_all_close(self.eps(0.0), expected, atol=1e-6)

  def test_scale_three_goes_three_times_as_far(self):
    start, end = self.eps(0.0), self.eps(1.0)
    chex.assert_trees_all_close(self.eps(3.0) - start, 3 * (end - start), atol=1e-5)


if __name__ == "__main__":
  absltest.main()
