"""Samplers: from noise to data along a grid of noise levels.

A `Sampler` moves x_t to the less noisy x_s. It sees noise levels only, so it works
on any grid: all trained levels, every fifth, or a continuous schedule cut anywhere.
The last level may be +inf, clean data (`ending_clean`); the last step then returns
the predicted x. `sample` is the loop, a single `lax.scan`:

    sampler = langevin(ancestral(gamma=0.1), delta=0.1)
    x = sample(key, x_init, denoise_fn=denoise_fn, sampler=sampler, logsnr_grid=grid)

Numbers such as eta, delta, guidance scales and the levels of the grid may be traced:
a jitted sampling function takes other values without recompiling.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from lamd_jax.diffusion import process
from lamd_jax.types import PRNGKey

Memory = Any  # A PyTree of arrays that a sampler carries from step to step.
# With fewer steps, DPM-Solver++ extrapolates with care.
FEW_STEPS = 15
# A step over the one before. BDF2 is unstable beyond 1 + sqrt(2) (Grigorieff 1983).
MAX_STEP_RATIO = 2.0


class Sampler(NamedTuple):
  """An update rule, in the manner of optax.

  Attributes:
    init: `(x_init, logsnr_grid) -> memory`, before the first step.
    step: `(key, denoise_fn, x_t, logsnr_t, logsnr_s, memory) -> (x_s, memory)`.
      The levels have shape `b`; `logsnr_s` may be +inf.
  """

  init: Callable[[Array, Array], Memory]
  step: Callable[
    [PRNGKey, process.DenoiseFn, Array, Array, Array, Memory], tuple[Array, Memory]
  ]


def sample(
  key: PRNGKey,
  x_init: Float[Array, " b *s"],
  *,
  denoise_fn: process.DenoiseFn,
  sampler: Sampler,
  logsnr_grid: Float[Array, " levels"],
  on_step: Callable[[Any], None] | None = None,
) -> Float[Array, " b *s"]:
  """Goes from noise to data along a grid of noise levels.

  Args:
    key: Random key, folded with the index of each step: the noise of a step does not
      depend on the steps before it.
    x_init: Starting point, a draw from N(0, I).
    denoise_fn: Network with its conditions and guidance.
    sampler: Update rule.
    logsnr_grid: Log-SNRs in nats, rising; `schedule.sampling_grid(num_steps)`.
    on_step: Called on the host with the number of each completed step, from 1 on, to
      show progress. The device does not wait for it.

  Returns:
    The sample at the last level of the grid.
  """
  advance = _make_advance(key, denoise_fn, sampler, on_step)
  start = (x_init, sampler.init(x_init, logsnr_grid))
  body = lambda carry, step: (advance(carry, step), None)
  (x_last, _), _ = jax.lax.scan(body, start, _pairs(logsnr_grid))
  return x_last


def sample_trajectory(
  key: PRNGKey,
  x_init: Float[Array, " b *s"],
  *,
  denoise_fn: process.DenoiseFn,
  sampler: Sampler,
  logsnr_grid: Float[Array, " levels"],
) -> Float[Array, "levels b *s"]:
  """Samples like `sample` and returns x at every level, including the start."""
  advance = _make_advance(key, denoise_fn, sampler, None)

  def body(carry, step):
    carry = advance(carry, step)
    return carry, carry[0]

  start = (x_init, sampler.init(x_init, logsnr_grid))
  _, later = jax.lax.scan(body, start, _pairs(logsnr_grid))
  return jnp.concatenate([x_init[None], later])


def _pairs(grid):
  """Returns the index of each step, its starting level and its end level."""
  return jnp.arange(grid.shape[0] - 1), grid[:-1], grid[1:]


def _make_advance(key, denoise_fn, sampler, on_step):
  def advance(carry, step):
    x_t, memory = carry
    i, *levels = step
    logsnr_t, logsnr_s = (jnp.broadcast_to(x, x_t.shape[:1]) for x in levels)
    step_key = jax.random.fold_in(key, i)
    x_s, memory = sampler.step(step_key, denoise_fn, x_t, logsnr_t, logsnr_s, memory)
    if on_step is not None:
      # Passing a value of x_s makes the call wait for the step.
      jax.debug.callback(lambda i, _: on_step(i), i + 1, x_s.ravel()[0])
    return x_s, memory

  return advance


def ending_clean(logsnr_grid: Float[Array, " levels"]) -> Float[Array, " levels"]:
  """Returns the grid with clean data in place of its last level."""
  return logsnr_grid.at[-1].set(jnp.inf)


def ddim(eta: ArrayLike = 0.0) -> Sampler:
  """Moves along the predicted noise: Song et al. 2020 (arXiv:2010.02502), eq. 12.

  Args:
    eta: Fraction, in [0, 1], of the posterior's standard deviation that is drawn
      anew: 0 is deterministic, 1 is ancestral sampling (their equation 16).
  """

  def step(key, denoise_fn, x_t, logsnr_t, logsnr_s, memory):
    prediction = denoise_fn(x_t, logsnr_t)
    alpha_s, sigma_s = process.alpha_sigma(logsnr_s, x_t.ndim)
    if process.is_number(eta, 0.0):  # No noise is drawn.
      return alpha_s * prediction.x + sigma_s * prediction.eps, memory
    lost = process.lost(logsnr_t, logsnr_s, x_t.ndim)
    noise = jax.random.normal(key, x_t.shape, x_t.dtype)
    direction = jnp.sqrt(1.0 - jnp.square(eta) * lost) * prediction.eps
    fresh = eta * jnp.sqrt(lost) * noise
    return alpha_s * prediction.x + sigma_s * (direction + fresh), memory

  return _without_memory(step)


def ancestral(gamma: ArrayLike = 0.0) -> Sampler:
  """Draws x_s from its posterior, given the predicted x in place of the true one.

  On all trained levels this is DDPM (Ho et al. 2020, arXiv:2006.11239, equations 6
  and 7), on a subset of them DDPM with fewer steps.

  Args:
    gamma: Position of the log-variance between its lower bound (0, the variance of the
      posterior) and its upper bound (1, that of x_t given x_s), as in Ho et al. 2022
      (arXiv:2204.03458), section 2.
  """

  def step(key, denoise_fn, x_t, logsnr_t, logsnr_s, memory):
    x = denoise_fn(x_t, logsnr_t).x
    mean, _ = process.posterior(x, x_t, logsnr_t, logsnr_s)
    _, sigma_t = process.alpha_sigma(logsnr_t, x_t.ndim)
    _, sigma_s = process.alpha_sigma(logsnr_s, x_t.ndim)
    std = jnp.power(sigma_s, 1.0 - gamma) * jnp.power(sigma_t, gamma)
    std *= jnp.sqrt(process.lost(logsnr_t, logsnr_s, x_t.ndim))
    std = jnp.where(sigma_s == 0.0, 0.0, std)  # Clean data, whatever gamma.
    return mean + std * jax.random.normal(key, x_t.shape, x_t.dtype), memory

  return _without_memory(step)


def heun() -> Sampler:
  """Averages the noise predicted at the start and at the end of each step.

  The second-order method of Karras et al. 2022 (arXiv:2206.00364), algorithm 1 without
  churn, for the variance-preserving process: x / alpha as a function of sigma / alpha
  has the predicted noise as its slope, so Euler's step there is DDIM. Two network
  evaluations per step; the step to clean data is DDIM's, after Karras.
  """

  def step(key, denoise_fn, x_t, logsnr_t, logsnr_s, memory):
    del key
    alpha_t, sigma_t = process.alpha_sigma(logsnr_t, x_t.ndim)
    alpha_s, sigma_s = process.alpha_sigma(logsnr_s, x_t.ndim)
    first = denoise_fn(x_t, logsnr_t)
    euler = alpha_s * first.x + sigma_s * first.eps
    second = denoise_fn(euler, jnp.where(jnp.isinf(logsnr_s), logsnr_t, logsnr_s))
    slope = sigma_s - sigma_t * (alpha_s / alpha_t)  # d x_s / d eps
    better = euler + slope * 0.5 * (second.eps - first.eps)
    return jnp.where(sigma_s == 0.0, euler, better), memory

  return _without_memory(step)


class _Last(NamedTuple):
  x: Array
  logsnr: Array
  end: Array | None  # The level that is reached in first order; None for no such level.


def dpm_solver_2m(*, stochastic: bool = False) -> Sampler:
  """Extrapolates x from the last two predictions: DPM-Solver++ 2M.

  Second order with one network evaluation per step. The first step, and a step to
  clean data, are of first order. Below 15 steps the last one is, too, whatever its end
  (`lower_order_final` in diffusers and in the authors' code), and a step that is more
  than twice as long in log-SNR as the one before, such as that to the first trained
  level, extrapolates as if it were twice as long: samples would come out too large.

  Lu et al. 2022 (arXiv:2211.01095), algorithm 2, in terms of log-SNR, twice their
  lambda.

  Args:
    stochastic: Whether to solve the reverse SDE instead of the probability flow (their
      section 4.3).
  """

  def init(x_init, logsnr_grid):
    few = logsnr_grid.shape[0] - 1 < FEW_STEPS
    end = logsnr_grid[-1] if few else None
    return _Last(jnp.zeros_like(x_init), jnp.full(x_init.shape[:1], -jnp.inf), end)

  def step(key, denoise_fn, x_t, logsnr_t, logsnr_s, last):
    x = denoise_fn(x_t, logsnr_t).x
    _, sigma_t = process.alpha_sigma(logsnr_t, x_t.ndim)
    alpha_s, sigma_s = process.alpha_sigma(logsnr_s, x_t.ndim)
    # h / (2 h_last) with h the step in log-SNR; h_last is infinite at first.
    h, h_last = logsnr_s - logsnr_t, logsnr_t - last.logsnr
    weight = jnp.where(jnp.isinf(h), 0.0, 0.5 * h / h_last)
    if last.end is not None:
      weight = jnp.minimum(weight, 0.5 * MAX_STEP_RATIO)
      weight = jnp.where(logsnr_s == last.end, 0.0, weight)
    ahead = x + process.expand(weight, x_t.ndim) * (x - last.x)
    lost = process.lost(logsnr_t, logsnr_s, x_t.ndim)
    if stochastic:
      noise = jax.random.normal(key, x_t.shape, x_t.dtype)
      kept = jnp.exp(-0.5 * process.expand(h, x_t.ndim)) * (sigma_s / sigma_t)
      x_s = kept * x_t + alpha_s * lost * ahead + sigma_s * jnp.sqrt(lost) * noise
    else:
      gone = -jnp.expm1(-0.5 * process.expand(h, x_t.ndim))
      x_s = (sigma_s / sigma_t) * x_t + alpha_s * gone * ahead
    return x_s, _Last(x, logsnr_t, last.end)

  return Sampler(init, step)


def langevin(sampler: Sampler, delta: ArrayLike = 0.1) -> Sampler:
  """Corrects x_t by a step of Langevin dynamics before each step of `sampler`.

  x_t - delta sigma_t eps / 2 + sqrt(delta) sigma_t noise: Ho et al. 2022
  (arXiv:2204.03458), section 2. The paper corrects after each step of the sampler.
  Correcting before each step differs only at the start, where pure noise stays pure
  noise, and at the end, where a correction would only add noise. It doubles the network
  evaluations.

  Args:
    sampler: Any sampler.
    delta: Size of the correction step, relative to sigma_t^2.
  """

  def step(key, denoise_fn, x_t, logsnr_t, logsnr_s, memory):
    noise_key, step_key = jax.random.split(key)
    _, sigma_t = process.alpha_sigma(logsnr_t, x_t.ndim)
    noise = jax.random.normal(noise_key, x_t.shape, x_t.dtype)
    drift = -0.5 * delta * denoise_fn(x_t, logsnr_t).eps
    x_t = x_t + sigma_t * (drift + jnp.sqrt(delta) * noise)
    return sampler.step(step_key, denoise_fn, x_t, logsnr_t, logsnr_s, memory)

  return Sampler(sampler.init, step)


def _without_memory(step) -> Sampler:
  return Sampler(lambda x_init, logsnr_grid: (), step)


# Name in a configuration -> its label in protocols, and the sampler as a function of
# eta, which "ddim" alone depends on.
SAMPLERS: dict[str, tuple[str, Callable[[ArrayLike], Sampler]]] = {
  "ddim": ("DDIM", ddim),
  "ddpm": ("DDPM on some of the steps", lambda eta: ancestral()),
  "heun": ("Heun", lambda eta: heun()),
  "dpmpp_2m": ("DPM-Solver++ 2M", lambda eta: dpm_solver_2m()),
}
