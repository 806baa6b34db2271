"""Single steps against their papers' equations, and what the loop promises."""

import functools
import itertools

from absl.testing import absltest, parameterized
import analytic
from analytic import SAMPLERS
import chex
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.diffusion import process, samplers, schedules

MEAN, STD = -0.4, 0.6  # The data: N(MEAN, STD^2), each element by itself.
COSINE = schedules.CosineSchedule(logsnr_min=-12.0, logsnr_max=12.0)
VDM = schedules.CosineSchedule()
LDM = schedules.make_schedule("sqrt_linear")
MANY = LDM.sampling_grid(50)  # Samplers start alike on all grids of many steps.
best_denoise_fn = analytic.denoiser(analytic.gaussian(MEAN, STD))


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


@functools.partial(jax.jit, static_argnames=("sampler", "denoise_fn"))
def run(sampler, grid, x_init, denoise_fn=best_denoise_fn):
  return samplers.sample(
    jax.random.key(1),
    x_init,
    denoise_fn=denoise_fn,
    sampler=sampler,
    logsnr_grid=grid,
  )


def knows(answer):
  return lambda x_t, logsnr: process.convert(answer, x_t, logsnr, "x")


def ldm_level(step, num=3):
  return jnp.full(num, LDM.logsnr(jnp.array(step / 999)))


def one_step(sampler, x_t, prediction, *levels, key=None):
  """One step with a fixed prediction."""
  key = jax.random.key(4) if key is None else key
  denoise_fn = lambda x_t, logsnr: prediction
  return sampler.step(key, denoise_fn, x_t, *levels, sampler.init(x_t, MANY))[0]


class TableTest(parameterized.TestCase):
  @parameterized.parameters(
    ("ddim", samplers.ddim(0.7)),
    ("ddpm", samplers.ancestral()),
    ("heun", samplers.heun()),
    ("dpmpp_2m", samplers.dpm_solver_2m()),
  )
  def test_a_name_is_its_method_and_eta_is_for_ddim(self, name, expected):
    _, make = samplers.SAMPLERS[name]
    grid = LDM.sampling_grid(3)
    got, again = (run(sampler, grid, draw()) for sampler in (make(0.7), expected))
    np.testing.assert_array_equal(got, again)

  def test_every_name_has_its_own_label(self):
    labels = [label for label, _ in samplers.SAMPLERS.values()]
    self.assertLen(set(labels), 4)
    self.assertEqual(samplers.SAMPLERS["ddim"][0], "DDIM")


class StepTest(parameterized.TestCase):
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

    levels = ldm_level(step), ldm_level(previous)
    x_t, eps = jnp.asarray(x_t, jnp.float32), jnp.asarray(eps, jnp.float32)
    prediction = process.convert(eps, x_t, levels[0], "eps")
    got = one_step(samplers.ddim(eta), x_t, prediction, *levels, key=key)
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

    levels = ldm_level(i), ldm_level(i - 1)
    x_t, x = jnp.asarray(x_t, jnp.float32), jnp.asarray(x, jnp.float32)
    prediction = process.convert(x, x_t, levels[0], "x")
    got = one_step(samplers.ancestral(), x_t, prediction, *levels, key=key)
    np.testing.assert_allclose(got, mean + np.sqrt(variance) * noise, atol=3e-5)
    # Their other variance, beta.
    got = one_step(samplers.ancestral(1.0), x_t, prediction, *levels, key=key)
    np.testing.assert_allclose(got, mean + np.sqrt(betas[i]) * noise, atol=3e-5)

  @parameterized.parameters((0.0, 0.121330), (0.3, 0.175365), (1.0, 0.414203))
  def test_coefficients_of_video_diffusion_models(self, gamma, variance):
    # From t = 0.5 to 0.25 on the schedule of Ho et al. 2022, worked out by hand.
    levels = [VDM.logsnr(jnp.full(200_000, t)) for t in (0.5, 0.25)]
    sampler = samplers.ancestral(gamma)

    def step(x, x_t):
      x, x_t = (jnp.full((200_000,), value) for value in (x, x_t))
      prediction = process.convert(x, x_t, levels[0], "x")
      return one_step(sampler, x_t, prediction, *levels)

    noise = step(0.0, 0.0)
    np.testing.assert_allclose(jnp.var(noise), variance, rtol=0.01)
    np.testing.assert_allclose(step(1.0, 0.0) - noise, 0.765339, atol=1e-5)
    np.testing.assert_allclose(step(0.0, 1.0) - noise, 0.224197, atol=1e-5)

  def test_ddim_with_eta_one_is_ancestral_sampling(self):
    levels = jnp.array([-3.0, -1.0]), jnp.array([-2.5, 1.5])
    x_t = draw((2, 3))
    prediction = best_denoise_fn(x_t, levels[0])
    chex.assert_trees_all_close(
      one_step(samplers.ddim(1.0), x_t, prediction, *levels),
      one_step(samplers.ancestral(), x_t, prediction, *levels),
      atol=1e-5,
    )

  def test_a_heun_step_is_that_of_karras(self):
    # Algorithm 1 without churn, in y = x / alpha and s = sigma / alpha, float64.
    levels = [-1.0, 0.5]
    x_t = draw((1, 4))
    alpha = [1 / np.sqrt(1 + np.exp(-level)) for level in levels]
    s = [np.exp(-0.5 * level) for level in levels]

    def slope(y, s):  # (y - D(y; s)) / s for N(MEAN, STD^2).
      return (y - (MEAN * s**2 + STD**2 * y) / (s**2 + STD**2)) / s

    y = np.asarray(x_t, np.float64) / alpha[0]
    first = slope(y, s[0])
    second = slope(y + (s[1] - s[0]) * first, s[1])
    expected = alpha[1] * (y + (s[1] - s[0]) * 0.5 * (first + second))
    sampler = samplers.heun()
    got, _ = sampler.step(
      jax.random.key(0), best_denoise_fn, x_t, *(jnp.array([x]) for x in levels), ()
    )
    np.testing.assert_allclose(got, expected, atol=2e-6)

  @parameterized.parameters(False, True)
  def test_two_steps_of_dpm_solver(self, stochastic):
    # Lu et al. 2022, equations 9 and 12, and section 4.3, with lambda = logsnr / 2.
    logsnr = [-1.0, 0.0, 1.5]
    half = [0.5 * x for x in logsnr]
    alpha = [1 / np.sqrt(1 + np.exp(-x)) for x in logsnr]
    sigma = [1 / np.sqrt(1 + np.exp(x)) for x in logsnr]
    x, key, sampler = draw((1, 4)), jax.random.key(7), SAMPLERS["dpm_solver_2m"]
    if stochastic:
      sampler = SAMPLERS["dpm_solver_2m_sde"]
    memory, outputs, expected = sampler.init(x, MANY), [], np.asarray(x, np.float64)
    for i in range(2):
      levels = jnp.array([logsnr[i]]), jnp.array([logsnr[i + 1]])
      outputs.append(np.asarray(best_denoise_fn(x, levels[0]).x, np.float64))
      x, memory = sampler.step(key, best_denoise_fn, x, *levels, memory)
      h = half[i + 1] - half[i]
      ahead = outputs[-1]
      if i == 1:
        r = (half[1] - half[0]) / h
        ahead = (1 + 1 / (2 * r)) * outputs[1] - 1 / (2 * r) * outputs[0]
      if stochastic:
        noise = np.asarray(jax.random.normal(key, x.shape), np.float64)
        expected = (
          sigma[i + 1] / sigma[i] * np.exp(-h) * expected
          + alpha[i + 1] * (1 - np.exp(-2 * h)) * ahead
          + sigma[i + 1] * np.sqrt(1 - np.exp(-2 * h)) * noise
        )
      else:
        expected = sigma[i + 1] / sigma[i] * expected
        expected = expected - alpha[i + 1] * (np.exp(-h) - 1) * ahead
      np.testing.assert_allclose(x, expected, atol=2e-6)

  @parameterized.parameters(False, True)
  def test_below_15_steps_the_last_one_of_dpm_solver_is_of_first_order(self, is_few):
    # Of first order, DPM-Solver++ is DDIM: Lu et al. 2022, section 4.
    grid = VDM.sampling_grid(14 if is_few else 15)
    path = samplers.sample_trajectory(
      jax.random.key(1),
      draw(),
      denoise_fn=best_denoise_fn,
      sampler=SAMPLERS["dpm_solver_2m"],
      logsnr_grid=grid,
    )
    levels = (jnp.full(2, level) for level in grid[-2:])
    x_t, ending = path[-2], path[-1]
    prediction = best_denoise_fn(x_t, jnp.full(2, grid[-2]))
    alone = one_step(samplers.ddim(), x_t, prediction, *levels)
    self.assertEqual(np.allclose(ending, alone, atol=1e-5), is_few)

  @parameterized.product(name=tuple(schedules.SCHEDULES), num_steps=(8, 10, 14))
  def test_dpm_solver_keeps_the_size_of_samples_in_few_steps(self, name, num_steps):
    # The flow keeps N(0, 1) as it is: standard deviations were 1.05 to 1.4.
    grid = schedules.make_schedule(name).sampling_grid(num_steps)
    x_init = jnp.array([-1.0, 1.0])
    normal = analytic.denoiser(analytic.gaussian(0.0, 1.0))
    got = run(SAMPLERS["dpm_solver_2m"], grid, x_init, normal)
    np.testing.assert_allclose(got, x_init, atol=0.1)

  def test_from_15_steps_on_dpm_solver_is_of_second_order_to_the_end(self):
    # Written out in float64, as Lu et al. 2022, algorithm 2, on 15 steps of LDM's grid,
    # the longest of which is four times as long as the one before.
    grid = np.asarray(LDM.sampling_grid(15), np.float64)
    x, last = 1.0, None
    for i, (t, s) in enumerate(itertools.pairwise(grid)):
      alpha_t, alpha_s = (1 / np.sqrt(1 + np.exp(-level)) for level in (t, s))
      sigma_t, sigma_s = (1 / np.sqrt(1 + np.exp(level)) for level in (t, s))
      gain = alpha_t * STD**2 / (alpha_t**2 * STD**2 + sigma_t**2)
      predicted = MEAN + gain * (x - alpha_t * MEAN)
      ahead = predicted
      if last is not None:
        r = (t - grid[i - 1]) / (s - t)
        ahead = (1 + 1 / (2 * r)) * predicted - 1 / (2 * r) * last
      x = sigma_s / sigma_t * x - alpha_s * np.expm1(-0.5 * (s - t)) * ahead
      last = predicted
    got = run(SAMPLERS["dpm_solver_2m"], jnp.asarray(grid, jnp.float32), jnp.ones(1))
    np.testing.assert_allclose(got, [x], rtol=1e-4)

  def test_langevin_corrects_before_the_step(self):
    # A step from a level to itself by DDIM is none: what is left is the corrector.
    levels = jnp.array([0.7]), jnp.array([0.7])
    x_t, key = draw((1, 5)), jax.random.key(3)
    sampler = samplers.langevin(samplers.ddim(), delta=0.1)
    got, _ = sampler.step(key, best_denoise_fn, x_t, *levels, ())
    noise = jax.random.normal(jax.random.split(key)[0], x_t.shape)
    sigma = 1 / np.sqrt(1 + np.exp(0.7))
    eps = np.asarray(best_denoise_fn(x_t, levels[0]).eps)
    expected = x_t - 0.05 * sigma * eps + np.sqrt(0.1) * sigma * noise
    np.testing.assert_allclose(got, expected, atol=1e-5)

  # But for Langevin's, which predicts at the corrected x_t.
  @parameterized.parameters(*(name for name in SAMPLERS if name != "langevin"))
  def test_a_step_to_clean_data_returns_the_predicted_x(self, name):
    x_t, level = draw((2, 3)), jnp.array([-1.0, 5.0])
    prediction = best_denoise_fn(x_t, level)
    got = one_step(SAMPLERS[name], x_t, prediction, level, jnp.full(2, jnp.inf))
    np.testing.assert_allclose(got, prediction.x, atol=1e-6)


class SampleTest(parameterized.TestCase):
  @parameterized.parameters((samplers.ancestral(),), (samplers.ddim(1.0),))
  def test_random_samplers_have_the_moments_of_the_chain(self, sampler):
    grid = LDM.sampling_grid(50)
    got = run(sampler, grid, draw((4, 5000)))
    mean, variance = moments(grid)
    np.testing.assert_allclose(got.mean(), mean, atol=0.02)
    np.testing.assert_allclose(got.var(), variance, rtol=0.03)
    # And a fine chain ends at the data, which says that `moments` is right.
    mean, variance = moments(LDM.sampling_grid(999))
    np.testing.assert_allclose(mean, MEAN, atol=0.005)
    np.testing.assert_allclose(variance, STD**2, rtol=0.02)

  @parameterized.product(name=tuple(SAMPLERS), num_steps=(1, 2, 5))
  def test_a_network_that_knows_the_answer_gives_it(self, name, num_steps):
    answer = draw((2, 3), seed=5)
    grid = samplers.ending_clean(COSINE.sampling_grid(num_steps))
    got = run(SAMPLERS[name], grid, draw((2, 3)), knows(answer))
    chex.assert_trees_all_close(got, answer, atol=1e-6)

  def test_with_trained_levels_the_answer_keeps_the_noise_of_the_first(self):
    answer, x_init = draw((2, 3), seed=5), draw((2, 3))
    got = run(samplers.ddim(), LDM.sampling_grid(7), x_init, knows(answer))
    # DDIM with an oracle never changes the noise it finds in the start.
    first = 1 + 6 * 1000 // 7
    abar = np.cumprod(1 - np.array(LDM.betas))
    eps = (x_init - np.sqrt(abar[first]) * answer) / np.sqrt(1 - abar[first])
    expected = np.sqrt(1 - 0.0015) * answer + np.sqrt(0.0015) * eps
    np.testing.assert_allclose(got, expected, atol=1e-4)

  @parameterized.product(
    name=tuple(SAMPLERS), case=(("cosine", "v"), ("cosine_beta", "eps"))
  )
  def test_extremes_stay_finite(self, name, case):
    schedule, parameterization = schedules.make_schedule(case[0]), case[1]
    predict = analytic.gaussian(MEAN, STD)

    def model_fn(x_t, logsnr):  # A network in half precision.
      clean = process.convert(predict(x_t, logsnr), x_t, logsnr, "x")
      return getattr(clean, parameterization).astype(jnp.bfloat16)

    denoise_fn = process.make_denoise_fn(model_fn, parameterization)
    for num_steps in (1, 1000):
      trained = schedule.sampling_grid(num_steps)
      for grid in (trained, samplers.ending_clean(trained)):
        got = run(SAMPLERS[name], grid, draw((2, 3)), denoise_fn)
        chex.assert_tree_all_finite(got)
        self.assertEqual(got.dtype, jnp.float32)

  @parameterized.parameters("ddim", "langevin", "dpm_solver_2m")
  def test_a_trajectory_has_every_level_and_ends_as_the_sample(self, name):
    x_init, grid = draw((2, 3)), COSINE.sampling_grid(5)
    path = samplers.sample_trajectory(
      jax.random.key(1),
      x_init,
      denoise_fn=best_denoise_fn,
      sampler=SAMPLERS[name],
      logsnr_grid=grid,
    )
    chex.assert_shape(path, (6, 2, 3))
    chex.assert_trees_all_equal(path[0], x_init)
    chex.assert_trees_all_close(path[-1], run(SAMPLERS[name], grid, x_init), atol=1e-6)

  def test_steps_are_reported_in_order(self):
    seen = []
    samplers.sample(
      jax.random.key(1),
      draw((2, 3)),
      denoise_fn=best_denoise_fn,
      sampler=samplers.ddim(),
      logsnr_grid=COSINE.sampling_grid(6),
      on_step=lambda i: seen.append(int(i)),
    )
    jax.effects_barrier()
    self.assertEqual(sorted(seen), [1, 2, 3, 4, 5, 6])

  def test_every_step_draws_its_own_noise(self):
    noises = []

    def step(key, denoise_fn, x_t, logsnr_t, logsnr_s, memory):
      jax.debug.callback(lambda x: noises.append(float(x)), jax.random.normal(key))
      return x_t, memory

    run(
      samplers.Sampler(lambda x, grid: (), step), COSINE.sampling_grid(6), draw((2, 3))
    )
    jax.effects_barrier()
    self.assertLen(set(noises), 6)

  def test_other_numbers_do_not_compile_again(self):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def sample(key, grid, eta, gamma, delta):
      sampler = samplers.langevin(samplers.ddim(eta), delta)
      x = samplers.sample(
        key,
        jnp.ones((2, 3)),
        denoise_fn=best_denoise_fn,
        sampler=sampler,
        logsnr_grid=grid,
      )
      return x + samplers.sample(
        key,
        jnp.ones((2, 3)),
        denoise_fn=best_denoise_fn,
        sampler=samplers.ancestral(gamma),
        logsnr_grid=grid,
      )

    keys = [jax.random.key(i) for i in (0, 0, 1)]
    grids = [COSINE.sampling_grid(4), COSINE.sampling_grid(4), LDM.sampling_grid(4)]
    numbers = [(0.0, 0.0, 0.1), (0.0, 0.0, 0.1), (0.5, 0.3, 0.2)]
    outputs = [
      sample(k, g, *map(jnp.float32, n))
      for k, g, n in zip(keys, grids, numbers, strict=True)
    ]
    chex.assert_trees_all_equal(outputs[0], outputs[1])
    self.assertFalse(jnp.allclose(outputs[0], outputs[2]))

  @parameterized.parameters("ddim", "ancestral_gamma")
  def test_traced_numbers_give_what_written_ones_give(self, name):
    make, number = {
      "ddim": (samplers.ddim, 0.0),
      "ancestral_gamma": (samplers.ancestral, 0.3),
    }[name]
    x_init, grid = draw((2, 3)), COSINE.sampling_grid(5)
    traced = jax.jit(lambda n: run.__wrapped__(make(n), grid, x_init))(number)
    chex.assert_trees_all_close(traced, run(SAMPLERS[name], grid, x_init), atol=1e-5)


if __name__ == "__main__":
  absltest.main()
