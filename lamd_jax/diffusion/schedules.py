"""Noise schedules: diffusion time as a log-SNR in nats.

A schedule defines four things: the noise level of time t (`logsnr`), the number that a
network embeds for a noise level (`timestep`), the times to train at (`draw_times`), and
the levels that a sampler visits (`sampling_grid`). Everything else in the library works
with log-SNR, never with t.

`CosineSchedule` is continuous. `DiscreteSchedule` is for models trained at a few
hundred or thousand fixed levels, such as DDPM and latent diffusion.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from lamd_jax.types import PRNGKey, UserError

MAX_TIMESTEP = 999  # The number embedded for pure noise, whatever the schedule.
# (i / (n - 1)) * (n - 1) misses i by rounding errors, below 2^-12 for n < 2000.
SNAP = 2.0**-12
Shape = tuple[int, ...]


@runtime_checkable
class Schedule(Protocol):
  """Interface of a schedule to the rest of the library. Frozen and hashable."""

  def logsnr(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns the log-SNR at time t in [0, 1], in nats; decreasing in t."""
    ...

  def timestep(self, logsnr: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns the number that networks embed for a noise level, from 0 (data)."""
    ...

  def draw_times(self, key: PRNGKey, shape: Shape) -> Float[Array, "*b"]:
    """Draws independent training times, uniform over the trained levels."""
    ...

  def sampling_grid(self, num_steps: int) -> Float[Array, " levels"]:
    """Returns `num_steps + 1` log-SNRs, from noise to data, for a sampler."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineSchedule:
  """The cosine schedule, logsnr(t) = -2 log tan(a t + b), in continuous time.

  Nichol & Dhariwal 2021 (arXiv:2102.09672), with both ends cut at a finite
  log-SNR as in Salimans & Ho 2022 (arXiv:2202.00512), appendix E.

  Attributes:
    logsnr_min: Log-SNR at t = 1, in nats.
    logsnr_max: Log-SNR at t = 0, in nats.
  """

  logsnr_min: float = -20.0
  logsnr_max: float = 20.0

  def logsnr(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns the log-SNR at time t, in nats."""
    start, end = self._angles()
    # Measured from the nearer end: near pi / 2 the tangent amplifies rounding errors.
    near_data = -2.0 * jnp.log(jnp.tan(start + (end - start) * t))
    rest = math.pi / 2 - end  # logsnr is odd about the angle pi / 4.
    near_noise = 2.0 * jnp.log(jnp.tan(rest + (end - start) * (1.0 - t)))
    logsnr = jnp.where(start + (end - start) * t < math.pi / 4, near_data, near_noise)
    logsnr = jnp.where(t <= 0.0, self.logsnr_max, logsnr)
    return jnp.where(t >= 1.0, self.logsnr_min, logsnr)

  def time(self, logsnr: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns the time in [0, 1] of a log-SNR in nats: the inverse of `logsnr`."""
    start, end = self._angles()
    return jnp.clip((jnp.atan(jnp.exp(-0.5 * logsnr)) - start) / (end - start), 0, 1)

  def timestep(self, logsnr: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns time on the scale of discrete models, from 0 to 999."""
    return MAX_TIMESTEP * self.time(logsnr)

  def draw_times(self, key: PRNGKey, shape: Shape) -> Float[Array, "*b"]:
    """Draws times uniform on [0, 1)."""
    return jax.random.uniform(key, shape)

  def sampling_grid(self, num_steps: int) -> Float[Array, " levels"]:
    """Returns the log-SNRs at `num_steps + 1` times, uniform from 1 to 0."""
    if num_steps < 1:
      raise UserError(f"num_steps={num_steps}: sampling needs at least 1 step")
    return self.logsnr(jnp.linspace(1.0, 0.0, num_steps + 1))

  def _angles(self) -> tuple[float, float]:
    if not self.logsnr_min < self.logsnr_max:
      raise UserError(
        f"logsnr_min={self.logsnr_min} must be below logsnr_max={self.logsnr_max}"
      )
    angle = lambda logsnr: math.atan(math.exp(-0.5 * logsnr))
    return angle(self.logsnr_max), angle(self.logsnr_min)


@dataclasses.dataclass(frozen=True)
class DiscreteSchedule:
  """The noise levels of a model trained at n discrete steps, defined by its betas.

  Step i, from 0 to n - 1, keeps the fraction abar_i = prod_{j <= i} (1 - beta_j) of the
  signal's variance, so its log-SNR is log(abar_i / (1 - abar_i)). Step i is at time
  t = i / (n - 1): t = 0 is the first trained level, which still holds the noise of
  beta_0, and t = 1 the last. Between steps, log-SNR and timestep are interpolated
  linearly; at the steps both are exact.

  Ho et al. 2020 (arXiv:2006.11239), section 2.

  Attributes:
    betas: Variances of the noise added at each step, in (0, 1).
  """

  betas: tuple[float, ...]

  @functools.cached_property
  def _table(self) -> np.ndarray:
    if len(self.betas) < 2 or not all(0 < beta < 1 for beta in self.betas):
      raise UserError(
        f"betas: expected at least 2 numbers between 0 and 1, got {len(self.betas)}"
        + (f" from {min(self.betas)} to {max(self.betas)}" if self.betas else "")
      )
    # In float64 and as sums of logs: 1 - abar would lose the first steps to rounding.
    log_abar = np.cumsum(np.log1p(-np.array(self.betas, np.float64)))
    return (log_abar - np.log(-np.expm1(log_abar))).astype(np.float32)

  def logsnr(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns the log-SNR at time t, in nats."""
    last = len(self.betas) - 1
    position = _snap(jnp.clip(t, 0.0, 1.0) * last)
    return jnp.interp(position, jnp.arange(last + 1.0), jnp.asarray(self._table))

  def timestep(self, logsnr: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns the step, 0 to n - 1, of a log-SNR; whole at the trained levels."""
    steps = jnp.arange(float(len(self.betas)))
    return _snap(jnp.interp(-logsnr, -jnp.asarray(self._table), steps))

  def draw_times(self, key: PRNGKey, shape: Shape) -> Float[Array, "*b"]:
    """Draws the times of steps, uniform over the n steps."""
    steps = jax.random.randint(key, shape, 0, len(self.betas))
    return steps.astype(jnp.float32) / (len(self.betas) - 1)

  def sampling_grid(self, num_steps: int) -> Float[Array, " levels"]:
    """Returns a uniform sub-sequence of the trained levels, noise first.

    As in latent diffusion (Rombach et al. 2022; `make_ddim_timesteps` and
    `make_ddim_sampling_parameters` of its code), the network is evaluated at steps
    1, 1 + n/k, 1 + 2 n/k, ... (k = `num_steps`; rounded down), in reverse, and the last
    of them leads to step 0. So a sample keeps the small noise of beta_0, with a
    standard deviation of sqrt(beta_0).

    With as many steps as levels it is the grid of Ho et al.: all levels, then clean
    data.
    """
    num_levels = len(self.betas)
    if not 1 <= num_steps <= num_levels:
      raise UserError(
        f"num_steps={num_steps}: a schedule with {num_levels} trained levels can be"
        f" sampled in 1 to {num_levels} steps"
      )
    if num_steps == num_levels:
      return jnp.asarray([*self._table[::-1], jnp.inf])
    steps = 1 + np.arange(num_steps) * num_levels // num_steps
    return jnp.asarray(self._table[[*steps[::-1], 0]])


def linear_betas(
  num_steps: int = 1000, start: float = 1e-4, end: float = 0.02
) -> tuple[float, ...]:
  """Returns betas linear in the step: Ho et al. 2020, section 4."""
  return tuple(np.linspace(start, end, num_steps).tolist())


def sqrt_linear_betas(
  num_steps: int = 1000, start: float = 0.0015, end: float = 0.0195
) -> tuple[float, ...]:
  """Returns betas whose square root is linear in the step.

  The "linear" schedule in the code of latent diffusion (Rombach et al. 2022,
  arXiv:2112.10752), with the ends of its latent models.
  """
  roots = np.linspace(math.sqrt(start), math.sqrt(end), num_steps)
  return tuple(np.square(roots).tolist())


def cosine_betas(
  num_steps: int = 1000, offset: float = 0.008, largest: float = 0.999
) -> tuple[float, ...]:
  """Returns betas whose abar follows cos^2: Nichol & Dhariwal 2021, section 3.2.

  Args:
    num_steps: n, the number of betas.
    offset: s, which keeps the first betas from being too small.
    largest: Upper bound of the betas, reached near the end.
  """
  place = (np.arange(num_steps + 1) / num_steps + offset) / (1 + offset)
  abar = np.square(np.cos(0.5 * math.pi * place))
  return tuple(np.minimum(1 - abar[1:] / abar[:-1], largest).tolist())


SCHEDULES: dict[str, Callable[[], Schedule]] = {
  "cosine": CosineSchedule,
  "cosine_beta": lambda: DiscreteSchedule(cosine_betas()),
  "linear": lambda: DiscreteSchedule(linear_betas()),
  "sqrt_linear": lambda: DiscreteSchedule(sqrt_linear_betas()),
  # Square-root linear, with the ends of LVDM's models and of Stable Diffusion's.
  "lvdm": lambda: DiscreteSchedule(sqrt_linear_betas(1000, 0.0015, 0.0155)),
  "stable_diffusion": lambda: DiscreteSchedule(sqrt_linear_betas(1000, 0.00085, 0.012)),
}


def make_schedule(name: str) -> Schedule:
  """Returns a schedule by its name in a configuration."""
  if name not in SCHEDULES:
    known = ", ".join(sorted(SCHEDULES))
    raise UserError(f"unknown diffusion schedule {name!r}; known: {known}")
  return SCHEDULES[name]()


def _snap(position: Float[Array, "*b"]) -> Float[Array, "*b"]:
  """Rounds values that miss a whole number by rounding errors alone."""
  whole = jnp.round(position)
  return jnp.where(jnp.abs(position - whole) < SNAP, whole, position)
