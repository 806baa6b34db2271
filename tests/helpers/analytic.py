"""Data whose best denoiser is known in closed form, and the samplers to test on it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.diffusion import process, samplers

SAMPLERS = {
  "ddim": samplers.ddim(),
  "ddim_stochastic": samplers.ddim(0.7),
  "ancestral": samplers.ancestral(),
  "ancestral_gamma": samplers.ancestral(0.3),
  "heun": samplers.heun(),
  "dpm_solver_2m": samplers.dpm_solver_2m(),
  "dpm_solver_2m_sde": samplers.dpm_solver_2m(stochastic=True),
  "langevin": samplers.langevin(samplers.ancestral()),
}
# Other tests compile as fast as can be; many chains are worth compiling well: drawing
# their noise takes a tenth of the time.
OPTIONS = {
  "xla_backend_optimization_level": 1,
  "xla_cpu_opt_preset": "CPU_OPT_PRESET_DEFAULT",  # The fast one rounds more coarsely.
}
jit = functools.partial(jax.jit, compiler_options=OPTIONS)
WEIGHTS, MEANS, STD = np.array([0.3, 0.7]), np.array([-1.5, 1.0]), 0.5


def gaussian(mean, std):
  """The conditional mean of x given x_t, each entry of x from N(mean, std^2)."""

  def predict(x_t, logsnr):
    alpha, sigma = process.alpha_sigma(logsnr, x_t.ndim)
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    return mean + gain * (x_t - alpha * mean)

  return predict


def mixture(weights=WEIGHTS, means=MEANS, std=STD):
  """The same, for a mixture of Gaussians with one standard deviation."""
  means, log_weights = jnp.asarray(means), jnp.log(jnp.asarray(weights))

  def predict(x_t, logsnr):
    alpha, sigma = (x[..., None] for x in process.alpha_sigma(logsnr, x_t.ndim))
    x_t = x_t[..., None]
    variance = alpha**2 * std**2 + sigma**2
    log_likelihood = -0.5 * jnp.square(x_t - alpha * means) / variance
    belongs = jax.nn.softmax(log_weights + log_likelihood, axis=-1)
    x = means + (alpha * std**2 / variance) * (x_t - alpha * means)
    return jnp.sum(belongs * x, axis=-1)

  return predict


def correlated(correlation):
  """The same, for x `b 2` from N(0, [[1, rho], [rho, 1]]), by its eigenvectors."""

  def predict(x_t, logsnr):
    alpha, sigma = process.alpha_sigma(logsnr, x_t.ndim)
    gain = lambda variance: alpha * variance / (alpha**2 * variance + sigma**2)
    half_sum = 0.5 * jnp.sum(x_t, axis=1, keepdims=True)
    half_difference = x_t - half_sum
    return gain(1 + correlation) * half_sum + gain(1 - correlation) * half_difference

  return predict


def denoiser(predict, parameterization="x"):
  """The denoise function of a network that predicts best, in any of the forms."""

  def model_fn(x_t, logsnr):
    prediction = process.convert(predict(x_t, logsnr), x_t, logsnr, "x")
    return getattr(prediction, parameterization)

  return process.make_denoise_fn(model_fn, parameterization)


def gaussian_flow(x_init, first, last, mean, std):
  """Where the probability flow takes x_init: it keeps quantiles of a Gaussian.

  In float64, from log-SNR `first` to `last`, which may be infinite.
  """
  abar = lambda logsnr: 1 / (1 + np.exp(-np.float64(logsnr)))
  deviation = lambda logsnr: np.sqrt(abar(logsnr) * std**2 + 1 - abar(logsnr))
  score = (np.asarray(x_init, np.float64) - np.sqrt(abar(first)) * mean) / deviation(
    first
  )
  return np.sqrt(abar(last)) * mean + deviation(last) * score
