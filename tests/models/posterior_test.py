"""The posterior of an autoencoder: its divergence and its draws."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.models.posterior import Posterior


class PosteriorTest(absltest.TestCase):
  def test_kl_is_the_integral_of_q_log_q_over_p(self):
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(0, 1.5, (2, 2, 1, 3)), rng.normal(-1, 1.0, (2, 2, 1, 3))
    x, step = np.linspace(-20.0, 20.0, 200_001, retstep=True)
    expected = []
    for means, logvars in zip(mean, logvar, strict=True):
      total = 0.0
      for m, s in zip(means.ravel(), logvars.ravel(), strict=True):
        log_q = -0.5 * ((x - m) ** 2 / np.exp(s) + s + np.log(2 * np.pi))
        log_p = -0.5 * (x**2 + np.log(2 * np.pi))
        total += np.sum(np.exp(log_q) * (log_q - log_p)) * step
      expected.append(total)
    posterior = Posterior(jnp.float32(mean), jnp.float32(logvar))
    np.testing.assert_allclose(posterior.kl(), expected, rtol=1e-4)

  def test_kl_of_the_prior_is_0(self):
    zero = jnp.zeros((2, 3, 4, 5))
    np.testing.assert_array_equal(Posterior(zero, zero).kl(), np.zeros(2))

  def test_kl_of_a_video_is_the_sum_over_its_frames(self):
    mean, logvar = np.random.default_rng(2).normal(size=(2, 2, 3, 4, 5, 6))
    video = Posterior(jnp.float32(mean), jnp.float32(logvar))
    frames = [Posterior(video.mean[:, i], video.logvar[:, i]).kl() for i in range(3)]
    np.testing.assert_allclose(video.kl(), sum(frames), rtol=1e-5)

  def test_draws_have_the_mean_and_the_deviation(self):
    rng = np.random.default_rng(1)
    mean, logvar = rng.normal(size=(2, 1, 2, 1, 3)).astype(np.float32)
    many = Posterior(*(jnp.repeat(x, 40_000, axis=0) for x in (mean, logvar)))
    draws = np.asarray(many.sample(jax.random.key(0)))
    np.testing.assert_allclose(draws.mean(0), mean[0], atol=0.05)
    np.testing.assert_allclose(draws.std(0), np.exp(logvar[0] / 2), rtol=0.03)
    np.testing.assert_array_equal(draws, many.sample(jax.random.key(0)))


if __name__ == "__main__":
  absltest.main()
