"""The denoising loss."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lamd_jax.diffusion import process, schedules
from lamd_jax.types import Metrics, PRNGKey, UserError

Weighting = Literal["uniform", "snr", "truncated_snr", "min_snr"]
MIN_SNR_LIMIT = 5.0  # gamma of Hang et al. 2023.


def loss_weight(
  logsnr: Float[Array, " b *f"],
  parameterization: process.Parameterization,
  weighting: Weighting,
) -> Float[Array, " b *f"]:
  """Returns the weight of a squared error of the network's output.

  "uniform" is 1, whatever the network predicts. The others name a weight on the squared
  error of x, as papers do, whichever form the network predicts:

    "snr"            SNR: the squared error of eps
    "truncated_snr"  max(SNR, 1): Salimans & Ho 2022 (arXiv:2202.00512), section 4
    "min_snr"        min(SNR, 5): Hang et al. 2023 (arXiv:2303.09556)

  The squared error of eps is SNR times that of x, and that of v is 1 + SNR times it. So
  "truncated_snr" does not suit a network that predicts eps: it is unbounded there.
  """
  if weighting not in get_args(Weighting):
    known = ", ".join(get_args(Weighting))
    raise UserError(f"unknown loss weighting {weighting!r}; known: {known}")
  if weighting == "uniform":
    return jnp.ones_like(logsnr)
  # In logarithms: near the ends of a schedule the SNR itself loses precision.
  of_x = {
    "snr": logsnr,
    "truncated_snr": jnp.maximum(logsnr, 0.0),
    "min_snr": jnp.minimum(logsnr, jnp.log(MIN_SNR_LIMIT)),
  }[weighting]
  of_output = {
    "x": jnp.zeros_like(logsnr),
    "eps": logsnr,
    "v": jnp.logaddexp(logsnr, 0.0),
  }[parameterization]
  return jnp.exp(of_x - of_output)


def denoising_loss(
  model_fn: process.ModelFn,
  x: Float[Array, " b *s"],
  key: PRNGKey,
  *,
  schedule: schedules.Schedule,
  parameterization: process.Parameterization,
  weighting: Weighting = "uniform",
  per_frame: bool = False,
) -> tuple[Float[Array, ""], Metrics]:
  """Computes the mean squared error of the network's prediction.

  Every example, or every frame, gets its own time, drawn by the schedule, and its own
  noise. With "eps" and uniform weights this is Ho et al. 2020 (arXiv:2006.11239),
  equation 14.

  Args:
    model_fn: Network with parameters and conditions bound.
    x: Clean data.
    key: Random key for times and noise.
    schedule: Schedule of the noise levels in training.
    parameterization: Form that the network predicts.
    weighting: Weighting of the noise levels; see `loss_weight`.
    per_frame: Whether each frame (the second axis of x) has a time of its own; the
      network then gets log-SNRs `b f`.

  Returns:
    The loss, and metrics with the same loss weighted towards either end:
    `loss_low_noise` by 1 - t (detail) and `loss_high_noise` by t (structure).
  """
  time_key, noise_key = jax.random.split(key)
  levels = x.shape[: 2 if per_frame else 1]
  t = schedule.draw_times(time_key, levels)
  logsnr = schedule.logsnr(t)
  x_t, target = process.diffuse(noise_key, x, logsnr)
  output = model_fn(x_t, logsnr).astype(jnp.float32)
  error = jnp.square(output - getattr(target, parameterization))
  losses = error.reshape(*levels, -1).mean(axis=-1)  # b or b f
  losses *= loss_weight(logsnr, parameterization, weighting)
  return losses.mean(), {
    "loss_low_noise": _weighted_mean(losses, 1.0 - t),
    "loss_high_noise": _weighted_mean(losses, t),
  }


def _weighted_mean(
  values: Float[Array, "*b"], weights: Float[Array, "*b"]
) -> Float[Array, ""]:
  # If all times are at one end and all weights zero, this gives the plain mean.
  weights += 1e-6
  return jnp.sum(values * weights) / jnp.sum(weights)
