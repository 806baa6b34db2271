"""Guidance against formulas, finite differences and data known in closed form."""

import functools

from absl.testing import absltest, parameterized
import analytic
import chex
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.diffusion import guidance, process, samplers, schedules
from lamd_jax.diffusion.guidance import Known, Observation
from lamd_jax.types import UserError

VDM = schedules.CosineSchedule()
LOGSNR = jnp.array([-1.0, 2.0])
good = analytic.denoiser(analytic.gaussian(-0.4, 0.6))
other = analytic.denoiser(analytic.gaussian(0.9, 1.3))


def draw(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def never(x_t, logsnr):
  raise AssertionError("evaluated")


class ClassifierFreeTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.x_t = draw(2, 3)
    self.c, self.u = good(self.x_t, LOGSNR), other(self.x_t, LOGSNR)

  def guided(self, scale, **kwargs):
    return guidance.classifier_free(good, other, scale, **kwargs)(self.x_t, LOGSNR)

  @parameterized.parameters(1, 1.0)
  def test_scale_one_is_the_conditional_model_and_asks_no_other(self, scale):
    guided = guidance.classifier_free(good, never, scale)
    chex.assert_trees_all_equal(guided(self.x_t, LOGSNR), self.c)

  def test_a_traced_scale_of_one_changes_no_bit(self):
    @jax.jit
    def guide(with_cond, without, scale):
      fns = (lambda x_t, logsnr: with_cond), (lambda x_t, logsnr: without)
      return guidance.classifier_free(*fns, scale)(self.x_t, LOGSNR)

    chex.assert_trees_all_equal(guide(self.c, self.u, 1.0), self.c)

  def test_scale_zero_is_the_unconditional_model(self):
    chex.assert_trees_all_close(self.guided(0.0), self.u, atol=1e-6)

  @parameterized.parameters("x", "eps", "v")
  def test_every_form_is_extrapolated_alike(self, form):
    # Ho & Salimans 2022, equation 6: (1 + w) c - w u, with w = 2.
    got = getattr(self.guided(3.0), form)
    expected = 3.0 * getattr(self.c, form) - 2.0 * getattr(self.u, form)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    again = process.convert(got, self.x_t, LOGSNR, form)
    chex.assert_trees_all_close(again, self.guided(3.0), atol=1e-5)

  def test_context_guidance_of_video_ldm(self):
    # f' = f(none) + s (f(context) - f(none)).
    expected = self.u.eps + 1.5 * (self.c.eps - self.u.eps)
    np.testing.assert_allclose(self.guided(1.5).eps, expected, atol=1e-6)

  def test_unconditional_guidance_of_lvdm(self):
    # eps = (1 + w) eps_c - w eps_u, with w = 0.1.
    expected = 1.1 * self.c.eps - 0.1 * self.u.eps
    np.testing.assert_allclose(self.guided(1.1).eps, expected, atol=1e-6)

  def test_a_scale_for_an_interval_of_noise_levels(self):
    scale = guidance.in_interval(3.0, -2.0, 0.0)  # Holds the first example only.
    got, full = self.guided(scale), self.guided(3.0)
    chex.assert_trees_all_close(
      jax.tree.map(lambda x: x[0], got), jax.tree.map(lambda x: x[0], full), atol=1e-6
    )
    chex.assert_trees_all_equal(
      jax.tree.map(lambda x: x[1], got), jax.tree.map(lambda x: x[1], self.c)
    )

  @parameterized.parameters("x", "eps", "v")
  def test_rescale_is_that_of_lin(self, form):
    # Equations 15 and 16, with phi = 0.7.
    wide = np.asarray(getattr(self.guided(5.0), form))
    target = np.asarray(getattr(self.c, form))
    ratio = target.std(axis=1) / wide.std(axis=1)
    expected = 0.7 * wide * ratio[:, None] + 0.3 * wide
    got = self.guided(5.0, rescale=0.7, rescale_form=form)
    np.testing.assert_allclose(getattr(got, form), expected, atol=1e-5)
    full = self.guided(5.0, rescale=1.0, rescale_form=form)
    np.testing.assert_allclose(
      np.std(getattr(full, form), axis=1), target.std(axis=1), rtol=1e-5
    )


def network(weights):
  """A small network in which every entry of x depends on every entry of x_t."""

  def model(np_, x_t, logsnr):
    flat = x_t.reshape(x_t.shape[0], -1)
    hidden = np_.tanh(flat @ weights[0] + 0.1 * logsnr[:, None])
    return (hidden @ weights[1]).reshape(x_t.shape)

  return model


class ReconstructionTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.shape = (2, 4, 2, 2, 1)  # b f h w c
    weights = [rng.normal(size=(16, 16)) / 3 for _ in range(2)]
    self.model = network(weights)
    small = [jnp.asarray(w, jnp.float32) for w in weights]
    self.x_t = rng.normal(size=self.shape)
    self.value = rng.normal(size=self.shape)
    self.mask = np.zeros((1, 4, 1, 1, 1), bool)
    self.mask[:, :2] = True
    self.known = Known(jnp.asarray(self.mask), jnp.asarray(self.value, jnp.float32))
    self.denoise_fn = process.make_denoise_fn(
      lambda x_t, logsnr: network(small)(jnp, x_t, logsnr), "v"
    )

  def predict(self, x_t):
    """The predicted x in float64, from v."""
    logsnr = np.asarray(LOGSNR, np.float64)
    alpha = np.sqrt(1 / (1 + np.exp(-logsnr))).reshape(2, 1, 1, 1, 1)
    sigma = np.sqrt(1 / (1 + np.exp(logsnr))).reshape(2, 1, 1, 1, 1)
    return alpha * x_t - sigma * self.model(np, x_t, logsnr), alpha

  def by_differences(self, objective):
    """Minus half the gradient of an objective, times alpha."""
    gradient, h = np.zeros(self.shape), 1e-5
    for i in np.ndindex(*self.shape[1:]):
      i = (slice(None), *i)
      up, down = self.x_t.copy(), self.x_t.copy()
      up[i] += h
      down[i] -= h
      gradient[i] = (objective(up) - objective(down)) / (2 * h)
    return -0.5 * self.predict(self.x_t)[1] * gradient

  def shift(self, observations):
    x_t = jnp.asarray(self.x_t, jnp.float32)
    before = self.denoise_fn(x_t, LOGSNR)
    after = guidance.reconstruction(self.denoise_fn, observations)(x_t, LOGSNR)
    again = process.convert(after.x, x_t, LOGSNR, "x")
    chex.assert_trees_all_close(after, again, atol=2e-4)  # The forms agree.
    return np.asarray(after.x - before.x)

  def frames_error(self, x_t):
    x, _ = self.predict(x_t)
    return (np.square(self.value - x) * self.mask).sum(axis=(1, 2, 3, 4))

  def pixels_error(self, x_t):
    x, _ = self.predict(x_t)
    return np.square(0.3 - x.mean(axis=(2, 3))).sum(axis=(1, 2))

  def test_known_frames_by_finite_differences(self):
    expected = 2.5 * self.by_differences(self.frames_error)
    got = self.shift([guidance.known_frames(self.known, 2.5)])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    self.assertGreater(np.abs(expected[:, 2:]).min(), 1e-5)  # Unknown frames move.

  def test_low_resolution_by_finite_differences(self):
    video = jnp.full((2, 4, 1, 1, 1), 0.3)
    expected = 4.0 * self.by_differences(self.pixels_error)
    got = self.shift([guidance.low_resolution(video, 2, 4.0)])
    np.testing.assert_allclose(got, expected, atol=1e-5)

  def test_both_at_once_are_the_sum(self):
    video = jnp.full((2, 4, 1, 1, 1), 0.3)
    frames = guidance.known_frames(self.known, 2.5)
    pixels = guidance.low_resolution(video, 2, 4.0)
    both = self.shift([frames, pixels])
    np.testing.assert_allclose(
      both, self.shift([frames]) + self.shift([pixels]), atol=1e-5
    )

  def test_low_resolution_is_the_mean_of_squares(self):
    x = draw(1, 2, 4, 6, 3)
    seen = guidance.low_resolution(x[:, :, ::2, ::2], 2, 1.0).observe(x)
    expected = np.asarray(x)[:, :, 2:4, 4:6].mean(axis=(2, 3))
    np.testing.assert_allclose(seen[:, :, 1, 2], expected, atol=1e-6)
    bilinear = jax.image.resize(x, (1, 2, 2, 3, 3), "bilinear", antialias=False)
    np.testing.assert_allclose(seen, bilinear, atol=1e-6)

  def test_low_resolution_of_another_size_is_refused(self):
    observation = guidance.low_resolution(draw(1, 2, 3, 3, 1), 2, 1.0)
    with self.assertRaisesRegex(UserError, "3x3 and factor 2 .* 4x6: expected 6x6"):
      observation.observe(draw(1, 2, 4, 6, 1))

  def test_weight_zero_changes_no_bit(self):
    x_t = jnp.asarray(self.x_t, jnp.float32)
    guided = guidance.reconstruction(
      self.denoise_fn, [guidance.known_frames(self.known, 0.0)]
    )
    # Not compiled as a whole: a compiler may round two programs differently.
    chex.assert_trees_all_equal(guided(x_t, LOGSNR), self.denoise_fn(x_t, LOGSNR))

  def test_examples_do_not_see_each_other(self):
    observations = [guidance.known_frames(self.known, 2.5)]
    guided = guidance.reconstruction(self.denoise_fn, observations)
    x_t = jnp.asarray(self.x_t, jnp.float32)
    before = guided(x_t, LOGSNR).x
    after = guided(x_t.at[0].multiply(-2.0), LOGSNR).x
    np.testing.assert_allclose(after[1], before[1], atol=1e-6)
    self.assertGreater(np.abs(after[0] - before[0]).max(), 0.01)

  def test_other_weights_and_masks_do_not_compile_again(self):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def sample(known, weight, scale, grid):
      guided = guidance.classifier_free(self.denoise_fn, other, scale)
      guided = guidance.reconstruction(guided, [guidance.known_frames(known, weight)])
      guided = guidance.clip(guidance.replacement(guided, known))
      return samplers.sample(
        jax.random.key(0),
        jnp.asarray(self.x_t, jnp.float32),
        denoise_fn=guided,
        sampler=samplers.langevin(samplers.ancestral()),
        logsnr_grid=grid,
      )

    grid = VDM.sampling_grid(5)
    mask = jnp.broadcast_to(self.known.mask, self.shape)
    one = sample(Known(mask, self.known.value), 1.0, 2.0, grid)
    two = sample(Known(~mask, self.known.value), 3.0, 1.5, samplers.ending_clean(grid))
    self.assertFalse(jnp.allclose(one, two))


class ReplacementTest(parameterized.TestCase):
  @parameterized.parameters("ddim", "ancestral", "heun", "dpm_solver_2m", "langevin")
  def test_known_frames_end_as_they_are_and_the_rest_does_not(self, name):
    known = Known(jnp.arange(6)[None, :, None] % 3 == 0, draw(2, 6, 4, seed=1))
    run = lambda denoise_fn: samplers.sample(
      jax.random.key(2),
      draw(2, 6, 4),
      denoise_fn=denoise_fn,
      sampler=analytic.SAMPLERS[name],
      logsnr_grid=samplers.ending_clean(VDM.sampling_grid(20)),
    )
    got, free = run(guidance.replacement(good, known)), run(good)
    np.testing.assert_array_equal(got[:, ::3], known.value[:, ::3])
    for i in (1, 2, 4, 5):  # Entries of this model do not depend on each other.
      np.testing.assert_allclose(got[:, i], free[:, i], atol=1e-5)

  def test_the_known_part_is_drawn_from_its_own_process(self):
    # q(x_s | x) at a level in between: mean alpha_s x, variance sigma_s^2.
    x = jnp.full((100_000, 2), 1.7)
    known = Known(jnp.array([[True, False]]), x)
    grid = VDM.sampling_grid(64)[:40]
    got = samplers.sample(
      jax.random.key(2),
      draw(100_000, 2),
      denoise_fn=guidance.replacement(good, known),
      sampler=samplers.ancestral(),
      logsnr_grid=grid,
    )[:, 0]
    alpha, sigma = process.alpha_sigma(grid[-1:], 1)
    np.testing.assert_allclose(got.mean(), 1.7 * alpha[0], atol=0.01)
    np.testing.assert_allclose(got.std(), sigma[0], rtol=0.01)

  def test_with_a_key_the_network_sees_fresh_noise_at_every_level(self):
    x = jnp.full((50_000, 2), 1.7)
    known, seen = Known(jnp.array([[True, False]]), x), []

    def see(x_t, logsnr):
      seen.append(x_t)
      return good(x_t, logsnr)

    guided = guidance.replacement(see, known, jax.random.key(0))
    x_t = draw(50_000, 2)
    for level in (-1.0, -1.0, 0.5):
      guided(x_t, jnp.full(50_000, level))
    np.testing.assert_array_equal(seen[0], seen[1])
    for got, level in zip(seen[1:], (-1.0, 0.5), strict=True):
      alpha, sigma = process.alpha_sigma(jnp.array([level]), 1)
      np.testing.assert_allclose(got[:, 0].mean(), 1.7 * alpha[0], atol=0.02)
      np.testing.assert_allclose(got[:, 0].std(), sigma[0], rtol=0.02)
      np.testing.assert_array_equal(got[:, 1], x_t[:, 1])
    self.assertLess(abs(np.corrcoef(seen[1][:, 0], seen[2][:, 0])[0, 1]), 0.02)

  def test_clipping_keeps_the_range_and_the_level(self):
    clipped = guidance.clip(good, -0.5, -0.3)(draw(2, 50), LOGSNR)
    self.assertAlmostEqual(float(clipped.x.min()), -0.5, places=6)
    self.assertAlmostEqual(float(clipped.x.max()), -0.3, places=6)
    again = process.convert(clipped.x, draw(2, 50), LOGSNR, "x")
    chex.assert_trees_all_close(clipped, again, atol=1e-6)


CHAINS = 12_000  # Enough for three standard errors within the tolerance.


@functools.cache
def two_frames(corrected):
  """Two frames of one pixel, correlated by 0.9; the first is given."""
  denoise_fn = analytic.denoiser(analytic.correlated(0.9), "v")
  first = draw(CHAINS, seed=1)
  known = Known(jnp.array([[True, False]]), jnp.stack([first, 0 * first], axis=1))
  sampler = samplers.ancestral()

  @analytic.jit
  def run(weight):
    guided = guidance.reconstruction(denoise_fn, [guidance.known_frames(known, weight)])
    return samplers.sample(
      jax.random.key(2),
      draw(CHAINS, 2),
      denoise_fn=guidance.replacement(guided, known, jax.random.key(3)),
      sampler=samplers.langevin(sampler, 0.1) if corrected else sampler,
      logsnr_grid=samplers.ending_clean(VDM.sampling_grid(256)),
    )

  return run


class TwoFramesTest(parameterized.TestCase):
  @parameterized.parameters(
    # Weight 0 is replacement. The values are of a separate script that shares no code
    # with this library, with 100,000 chains.
    (0.0, False, 0.748, 0.83),
    (1.0, False, 0.847, 0.89),
    (2.0, False, 0.898, 0.95),
    (5.0, False, 0.953, 1.06),
    (0.0, True, 0.842, 0.92),
    (1.0, True, 0.887, 0.97),
    (2.0, True, 0.911, 1.00),
    (5.0, True, 0.942, 1.05),
  )
  def test_correlation_and_deviation(self, weight, corrected, correlation, std):
    x = np.asarray(two_frames(corrected)(weight), np.float64)
    got = np.corrcoef(x[:, 0], x[:, 1])[0, 1], x[:, 1].std()
    np.testing.assert_allclose(got, (correlation, std), atol=0.015)


class TwoPixelsTest(absltest.TestCase):
  def test_error_of_the_mean_of_two_pixels(self):
    """Pixels correlated by 0.5, of which the mean is given: weight 2 is the best."""
    denoise_fn = analytic.denoiser(analytic.correlated(0.5), "v")
    observe = lambda x: x.mean(axis=1)
    value = observe(draw(4000, 2, seed=1) @ jnp.array([[1.0, 0.5], [0.0, 0.75**0.5]]))

    @analytic.jit
    def run(weight):
      guided = guidance.reconstruction(
        denoise_fn, [Observation(observe, value, weight)]
      )
      x = samplers.sample(
        jax.random.key(2),
        draw(4000, 2),
        denoise_fn=guided,
        sampler=samplers.ancestral(),
        logsnr_grid=samplers.ending_clean(VDM.sampling_grid(256)),
      )
      return jnp.sqrt(jnp.mean(jnp.square(observe(x) - value)))

    got = [float(run(weight)) for weight in (0.0, 1.0, 2.0, 5.0, 10.0)]
    np.testing.assert_allclose(got, [1.22, 0.012, 0.0, 0.011, 0.39], atol=0.015)


if __name__ == "__main__":
  absltest.main()
