"""Samplers: one function per update rule, and one loop that runs them.

A rule moves x_t to the less noisy x_s with one prediction made at x_t. It sees
noise levels only, so it works on any grid: all trained levels, every fifth, or a
continuous schedule cut anywhere.

Where variances are needed they are written with r = SNR_t / SNR_s, in [0, 1]: the
posterior variance of x_s given x and x_t is sigma_s^2 (1 - r), which keeps its
digits for levels that are close (Kingma et al. 2021, arXiv:2107.00630, appendix A).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lamd_jax.diffusion import process
from lamd_jax.types import PRNGKey

# (key, prediction, x_t, logsnr_t, logsnr_s) -> x_s
StepFn = Callable[[PRNGKey, process.Prediction, Array, Array, Array], Array]


def ddim_step(
  key: PRNGKey,
  prediction: process.Prediction,
  x_t: Float[Array, " b *s"],
  logsnr_t: Float[Array, " b"],
  logsnr_s: Float[Array, " b"],
  *,
  eta: float = 0.0,
) -> Float[Array, " b *s"]:
  """Moves along the predicted noise: Song et al. 2020 (arXiv:2010.02502), eq. 12.

  Args:
    key: For fresh noise; unused where eta is 0.
    prediction: The network's, at x_t.
    x_t: The noised variable at the level of t.
    logsnr_t: Its log-SNR, in nats.
    logsnr_s: The level to go to, in nats.
    eta: Fraction, in [0, 1], of the posterior's standard deviation that is drawn
      afresh: 0 is deterministic, 1 is ancestral sampling (their equation 16).

  Returns:
    x_s.
  """
  alpha_s, sigma_s = process.alpha_sigma(logsnr_s, x_t.ndim)
  if eta == 0.0:
    return alpha_s * prediction.x + sigma_s * prediction.eps
  lost = _lost(logsnr_t, logsnr_s, x_t.ndim)
  noise = jax.random.normal(key, x_t.shape, x_t.dtype)
  direction = jnp.sqrt(1.0 - eta**2 * lost) * prediction.eps
  fresh = eta * jnp.sqrt(lost) * noise
  return alpha_s * prediction.x + sigma_s * (direction + fresh)


def ancestral_step(
  key: PRNGKey,
  prediction: process.Prediction,
  x_t: Float[Array, " b *s"],
  logsnr_t: Float[Array, " b"],
  logsnr_s: Float[Array, " b"],
) -> Float[Array, " b *s"]:
  """Draws x_s from its posterior, with the predicted x in place of the true one.

  Ho et al. 2020 (arXiv:2006.11239), equations 6 and 7, with the smaller of their
  two variances, and between any two levels.

  Args:
    key: For the draw.
    prediction: The network's, at x_t.
    x_t: The noised variable at the level of t.
    logsnr_t: Its log-SNR, in nats.
    logsnr_s: The level to go to, in nats.

  Returns:
    x_s.
  """
  alpha_t, _ = process.alpha_sigma(logsnr_t, x_t.ndim)
  alpha_s, sigma_s = process.alpha_sigma(logsnr_s, x_t.ndim)
  lost = _lost(logsnr_t, logsnr_s, x_t.ndim)
  mean = (1.0 - lost) * (alpha_s / alpha_t) * x_t + lost * alpha_s * prediction.x
  noise = jax.random.normal(key, x_t.shape, x_t.dtype)
  return mean + sigma_s * jnp.sqrt(lost) * noise


def sample(
  key: PRNGKey,
  x_init: Float[Array, " b *s"],
  *,
  denoise_fn: process.DenoiseFn,
  step_fn: StepFn,
  logsnr_grid: Float[Array, " levels"],
) -> Float[Array, " b *s"]:
  """Goes from noise to data along a grid of noise levels.

  Args:
    key: Folded with the index of each step: a step's noise does not depend on
      what ran before it.
    x_init: The start, a draw from N(0, I).
    denoise_fn: Network, conditions and guidance in one.
    step_fn: An update rule of this module, its options bound by
      `functools.partial`.
    logsnr_grid: Log-SNRs in nats, rising; `schedule.sampling_grid(num_steps)`.
      The network is evaluated at all levels but the last.

  Returns:
    The sample at the last level of the grid.
  """

  def body(x_t, step):
    i, *levels = step
    logsnr_t, logsnr_s = (jnp.broadcast_to(x, x_t.shape[:1]) for x in levels)
    prediction = denoise_fn(x_t, logsnr_t)
    step_key = jax.random.fold_in(key, i)
    return step_fn(step_key, prediction, x_t, logsnr_t, logsnr_s), None

  indices = jnp.arange(logsnr_grid.shape[0] - 1)
  x_last, _ = jax.lax.scan(body, x_init, (indices, logsnr_grid[:-1], logsnr_grid[1:]))
  return x_last


def _lost(
  logsnr_t: Float[Array, " b"], logsnr_s: Float[Array, " b"], ndim: int
) -> Float[Array, "b ..."]:
  """Returns 1 - SNR_t / SNR_s, in [0, 1], as `b 1 ... 1`."""
  return -jnp.expm1(logsnr_t - logsnr_s).reshape(-1, *(1,) * (ndim - 1))
