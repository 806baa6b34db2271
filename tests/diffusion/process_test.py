"""The diffusion process against identities that hold exactly."""

import itertools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.diffusion import process
from lamd_jax.types import UserError

SHAPE = (3, 2, 5, 4, 1)  # b f h w c
LOGSNR = jnp.array([-4.0, 0.3, 5.0])


def noised():
  x = jax.random.normal(jax.random.key(0), SHAPE)
  return process.diffuse(jax.random.key(1), x, LOGSNR)


class ProcessTest(parameterized.TestCase):
  def test_alpha_and_sigma_are_the_square_roots_of_the_two_fractions(self):
    alpha, sigma = process.alpha_sigma(LOGSNR, 4)
    chex.assert_shape((alpha, sigma), (3, 1, 1, 1))
    snr = np.exp(np.asarray(LOGSNR, np.float64))
    np.testing.assert_allclose(alpha.ravel(), np.sqrt(snr / (1 + snr)), rtol=1e-6)
    np.testing.assert_allclose(sigma.ravel(), np.sqrt(1 / (1 + snr)), rtol=1e-6)

  @parameterized.parameters(-8.0, -1.0, 0.0, 2.0, 9.0)
  def test_the_noised_variable_has_the_moments_of_its_level(self, level):
    x = jnp.full((20_000, 2), 1.5)
    x_t, target = process.diffuse(jax.random.key(2), x, jnp.full(20_000, level))
    fraction = 1 / (1 + np.exp(-level))  # Of the signal's power.
    noise = np.sqrt(1 - fraction)
    np.testing.assert_allclose(x_t.mean(), 1.5 * np.sqrt(fraction), atol=0.02)
    np.testing.assert_allclose(x_t.std(), noise, rtol=0.02)
    np.testing.assert_array_equal(target.x, x)
    np.testing.assert_allclose(target.eps.std(), 1.0, rtol=0.02)

  @parameterized.parameters(*itertools.product(("x", "eps", "v"), repeat=2))
  def test_each_form_can_be_read_as_any_and_back(self, first, second):
    x_t, target = noised()
    once = process.convert(getattr(target, first), x_t, LOGSNR, first)
    chex.assert_trees_all_close(once, target, atol=5e-5)
    twice = process.convert(getattr(once, second), x_t, LOGSNR, second)
    chex.assert_trees_all_close(twice, target, atol=5e-5)

  @parameterized.parameters("x", "eps", "v")
  def test_the_output_itself_is_not_changed(self, parameterization):
    x_t, _ = noised()
    output = jax.random.normal(jax.random.key(3), SHAPE)
    prediction = process.convert(output, x_t, LOGSNR, parameterization)
    np.testing.assert_array_equal(getattr(prediction, parameterization), output)

  def test_v_is_the_derivative_along_the_circle(self):
    # x_t = cos(a) x + sin(a) eps, so d x_t / d a = cos(a) eps - sin(a) x.
    x, eps = jnp.array([[0.7, -1.2]]), jnp.array([[0.4, 0.9]])
    angle = jnp.array([0.6])
    x_t, v = jax.jvp(
      lambda a: jnp.cos(a)[:, None] * x + jnp.sin(a)[:, None] * eps,
      (angle,),
      (jnp.ones(1),),
    )
    logsnr = -2.0 * jnp.log(jnp.tan(angle))
    got = process.convert(v, x_t, logsnr, "v")
    chex.assert_trees_all_close((got.x, got.eps), (x, eps), atol=1e-6)

  def test_a_denoise_function_reads_half_precision_in_full(self):
    x_t, target = noised()
    model_fn = lambda x_t, logsnr: target.v.astype(jnp.bfloat16)
    prediction = process.make_denoise_fn(model_fn, "v")(x_t, LOGSNR)
    self.assertEqual(prediction.x.dtype, jnp.float32)
    chex.assert_trees_all_close(prediction, target, atol=0.05)

  def test_levels_per_frame_are_those_of_each_frame_alone(self):
    x = jax.random.normal(jax.random.key(0), SHAPE)
    logsnr = jnp.array([[-4.0, 1.0], [0.3, 2.0], [5.0, -1.0]])
    x_t, target = process.diffuse(jax.random.key(1), x, logsnr)
    got = process.convert(target.v, x_t, logsnr, "v")
    for frame in range(2):
      alone = process.convert(target.v[:, frame], x_t[:, frame], logsnr[:, frame], "v")
      chex.assert_trees_all_close(
        jax.tree.map(lambda value, i=frame: value[:, i], got), alone, atol=1e-6
      )
    alpha, sigma = process.alpha_sigma(logsnr, 5)
    chex.assert_shape((alpha, sigma), (3, 2, 1, 1, 1))
    np.testing.assert_allclose(x_t, alpha * x + sigma * target.eps, atol=1e-6)

  def test_the_posterior_is_bayes_rule(self):
    # q(x_s | x_t, x) from q(x_s | x) and q(x_t | x_s), two Gaussians, in float64.
    levels = np.array([-1.0, 0.8])
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-levels))), np.sqrt(1 / (1 + np.exp(levels)))
    x, x_t = 0.7, -1.3
    slope = alpha[0] / alpha[1]
    noise = sigma[0] ** 2 - slope**2 * sigma[1] ** 2  # Of x_t given x_s.
    precision = 1 / sigma[1] ** 2 + slope**2 / noise
    mean = (alpha[1] * x / sigma[1] ** 2 + slope * x_t / noise) / precision
    got = process.posterior(
      jnp.full((1, 1), x), jnp.full((1, 1), x_t), *jnp.asarray(levels)[:, None]
    )
    np.testing.assert_allclose(got[0], mean, rtol=1e-5)
    np.testing.assert_allclose(got[1], 1 / precision, rtol=1e-5)

  def test_the_posterior_at_clean_data_is_the_data(self):
    x, x_t = jnp.full((2, 3), 0.7), jnp.ones((2, 3))
    mean, variance = process.posterior(x, x_t, LOGSNR[:2], jnp.full(2, jnp.inf))
    np.testing.assert_array_equal(mean, x)
    np.testing.assert_array_equal(variance, 0.0)

  def test_an_unknown_parameterization_lists_the_known_ones(self):
    x_t, target = noised()
    convert = getattr(process.convert, "__wrapped__", process.convert)
    with self.assertRaisesRegex(UserError, "'epsilon'; known: x, eps, v"):
      convert(target.x, x_t, LOGSNR, "epsilon")


if __name__ == "__main__":
  absltest.main()
