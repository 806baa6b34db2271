"""The denoising loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lamd_jax.diffusion import process, schedules
from lamd_jax.types import Metrics, PRNGKey


def denoising_loss(
  model_fn: process.ModelFn,
  x: Float[Array, " b *s"],
  key: PRNGKey,
  *,
  schedule: schedules.Schedule,
  parameterization: process.Parameterization,
) -> tuple[Float[Array, ""], Metrics]:
  """Returns the mean squared error of what the network predicts.

  Every example gets its own time, drawn by the schedule, and its own noise; all
  noise levels weigh the same in the units of the parameterization. With "eps"
  this is Ho et al. 2020 (arXiv:2006.11239), equation 14.

  Args:
    model_fn: The network, with parameters and conditions bound.
    x: Clean data.
    key: For times and noise.
    schedule: Which noise levels are trained.
    parameterization: What the network predicts.

  Returns:
    The loss, and the same loss weighted towards either end: `loss_low_noise` by
    1 - t and `loss_high_noise` by t. They tell detail from structure.
  """
  time_key, noise_key = jax.random.split(key)
  t = schedule.draw_times(time_key, x.shape[0])
  logsnr = schedule.logsnr(t)
  x_t, target = process.diffuse(noise_key, x, logsnr)
  output = model_fn(x_t, logsnr).astype(jnp.float32)
  error = jnp.square(output - getattr(target, parameterization))
  losses = error.reshape(x.shape[0], -1).mean(axis=1)  # b
  return losses.mean(), {
    "loss_low_noise": _weighted_mean(losses, 1.0 - t),
    "loss_high_noise": _weighted_mean(losses, t),
  }


def _weighted_mean(
  values: Float[Array, " b"], weights: Float[Array, " b"]
) -> Float[Array, ""]:
  # All weights are zero only if every time is at one end: then the plain mean.
  weights += 1e-6
  return jnp.sum(values * weights) / jnp.sum(weights)
