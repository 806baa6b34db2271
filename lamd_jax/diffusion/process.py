"""The Gaussian diffusion process: adding noise, and reading predictions of it.

With clean data x and eps ~ N(0, I), the noised variable at time t is

  x_t = alpha_t x + sigma_t eps,     alpha_t^2 + sigma_t^2 = 1.

The process preserves variance, so a single number names the noise level:
logsnr_t = log(alpha_t^2 / sigma_t^2), in nats. The functions below take that number,
never t, which only the schedule knows. There is one level per example, `b`, or per
frame, `b f`; +inf is clean data.

From x_t and the noise level, each of x, eps and v = alpha_t eps - sigma_t x
determines the other two. A network predicts one of them, its parameterization;
`convert` completes the `Prediction`.

Sources: Kingma et al. 2021 (arXiv:2107.00630), section 3, for the log-SNR;
Salimans & Ho 2022 (arXiv:2202.00512), section 4, for v.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lamd_jax.types import PRNGKey, UserError

Parameterization = Literal["x", "eps", "v"]


class Prediction(NamedTuple):
  """A prediction of the clean data in three equivalent forms, shaped like x_t."""

  x: Float[Array, "b ..."]
  eps: Float[Array, "b ..."]
  v: Float[Array, "b ..."]


# (x_t, logsnr) -> network output like x_t; parameters and conditions are bound.
ModelFn = Callable[[Array, Array], Array]
# (x_t, logsnr) -> the output converted to a prediction, for samplers and guidance.
DenoiseFn = Callable[[Array, Array], Prediction]


def expand(per_example: Float[Array, " b *f"], ndim: int) -> Float[Array, "b ..."]:
  """Returns `b 1 ... 1` or `b f 1 ... 1`, with `ndim` axes in all."""
  return per_example.reshape(*per_example.shape, *(1,) * (ndim - per_example.ndim))


def alpha_sigma(
  logsnr: Float[Array, " b *f"], ndim: int
) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
  """Returns alpha and sigma, shaped as by `expand`."""
  logsnr = expand(logsnr, ndim)
  return jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))


def lost(
  logsnr_t: Float[Array, " b *f"], logsnr_s: Float[Array, " b *f"], ndim: int
) -> Float[Array, "b ..."]:
  """Returns 1 - SNR_t / SNR_s, in [0, 1], shaped as by `expand`.

  The share of noise added between x_s and x_t, for s less noisy than t: the variance of
  x_t given x_s is sigma_t^2 times this number, that of x_s given x and x_t is sigma_s^2
  times it. This form stays accurate for levels that are close (Kingma et al. 2021,
  appendix A).
  """
  return expand(-jnp.expm1(logsnr_t - logsnr_s), ndim)


def diffuse(
  key: PRNGKey, x: Float[Array, " b *s"], logsnr: Float[Array, " b *f"]
) -> tuple[Float[Array, " b *s"], Prediction]:
  """Draws x_t given x, and returns it with the prediction of a perfect network."""
  alpha, sigma = alpha_sigma(logsnr, x.ndim)
  eps = jax.random.normal(key, x.shape, x.dtype)
  target = Prediction(x=x, eps=eps, v=alpha * eps - sigma * x)
  return alpha * x + sigma * eps, target


def is_number(value: Any, number: float) -> bool:
  """Returns whether a value is this number, known before anything runs.

  A traced value never is. If it holds, work that would change nothing can be skipped.
  """
  return isinstance(value, int | float) and value == number


def posterior(
  x: Float[Array, " b *s"],
  x_t: Float[Array, " b *s"],
  logsnr_t: Float[Array, " b *f"],
  logsnr_s: Float[Array, " b *f"],
) -> tuple[Float[Array, " b *s"], Float[Array, "b ..."]]:
  """Returns the mean and the variance of q(x_s | x_t, x), for s less noisy than t.

  Ho et al. 2020 (arXiv:2006.11239), equations 6 and 7, between any two levels.
  """
  alpha_t, _ = alpha_sigma(logsnr_t, x_t.ndim)
  alpha_s, sigma_s = alpha_sigma(logsnr_s, x_t.ndim)
  kept = expand(jnp.exp(logsnr_t - logsnr_s), x_t.ndim)  # r; not 1 - lost.
  gone = lost(logsnr_t, logsnr_s, x_t.ndim)
  mean = kept * (alpha_s / alpha_t) * x_t + gone * alpha_s * x
  return mean, jnp.square(sigma_s) * gone


def convert(
  output: Float[Array, " b *s"],
  x_t: Float[Array, " b *s"],
  logsnr: Float[Array, " b *f"],
  parameterization: Parameterization,
) -> Prediction:
  """Reads a network output as x, eps or v and works out the other two.

  Args:
    output: Output of the network for x_t.
    x_t: Noised variable.
    logsnr: Noise level of x_t, in nats.
    parameterization: Form in which to read the output.

  Returns:
    The three forms. Each divides by alpha or sigma at most once: x from eps is
    inaccurate where there is almost only noise, eps from x where there is almost none.
  """
  alpha, sigma = alpha_sigma(logsnr, x_t.ndim)
  if parameterization == "x":
    x, eps = output, (x_t - alpha * output) / sigma
  elif parameterization == "eps":
    x, eps = (x_t - sigma * output) / alpha, output
  elif parameterization == "v":
    x, eps = alpha * x_t - sigma * output, sigma * x_t + alpha * output
    return Prediction(x=x, eps=eps, v=output)
  else:
    known = ", ".join(get_args(Parameterization))
    raise UserError(f"unknown parameterization {parameterization!r}; known: {known}")
  return Prediction(x=x, eps=eps, v=alpha * eps - sigma * x)


def make_denoise_fn(model_fn: ModelFn, parameterization: Parameterization) -> DenoiseFn:
  """Returns the denoise function of a network with everything else bound.

  The output is read in float32, whatever the network computes in.
  """

  def denoise_fn(x_t, logsnr):
    output = model_fn(x_t, logsnr).astype(jnp.float32)
    return convert(output, x_t, logsnr, parameterization)

  return denoise_fn
