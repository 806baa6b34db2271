"""Guidance: wrappers of denoise functions, which stack.

From the inside out, in the order of Ho et al. 2022 (arXiv:2204.03458):

    guided = classifier_free(conditional, unconditional, scale)
    guided = reconstruction(guided, [known_frames(known, weight)])
    guided = replacement(guided, known, key)
    guided = clip(guided)

Clipping comes last: inside, it would stop the gradient that `reconstruction` takes.

Every scale follows one convention: 1 is no guidance. `classifier_free` covers, with
different denoise functions as its two arguments,

  classifier-free guidance   condition against null condition; the paper's 1 + w
  context guidance           with against without the context frames of Video LDM
                             (Blattmann et al. 2023, arXiv:2304.08818); its s
  unconditional guidance     with against without the known frames of LVDM (He et al.
                             2022, arXiv:2211.13221), to accumulate less error; 1 + w
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from lamd_jax.diffusion import process
from lamd_jax.types import PRNGKey, UserError

# A guidance scale, or the scale as a function of the log-SNR.
Scale = ArrayLike | Callable[[Float[Array, " b *f"]], Float[Array, " b *f"]]


class Known(NamedTuple):
  """Part of x that is given: for prediction, extension and interpolation.

  Attributes:
    mask: True where x is known; broadcasts to x, `b f 1 1 1` for whole frames.
    value: x where it is known, anything elsewhere.
  """

  mask: Bool[Array, "b ..."]
  value: Float[Array, "b ..."]


class Observation(NamedTuple):
  """Known function of x, for reconstruction guidance.

  Attributes:
    observe: Differentiable function of x that treats examples alike and independently.
    value: Value of the function for the sample.
    weight: w_r; 0 is no guidance.
  """

  observe: Callable[[Array], Array]
  value: Array
  weight: ArrayLike


def classifier_free(
  conditional: process.DenoiseFn,
  unconditional: process.DenoiseFn,
  scale: Scale,
  *,
  rescale: ArrayLike = 0.0,
  rescale_form: process.Parameterization = "v",
) -> process.DenoiseFn:
  """Pushes predictions away from the unconditional one.

  eps = eps_c + (scale - 1) (eps_c - eps_u), and x and v alike: Ho & Salimans 2022
  (arXiv:2207.12598), equation 6, whose w is `scale - 1`.

  Args:
    conditional: Denoise function with the condition bound.
    unconditional: Denoise function with the null condition bound; not evaluated if the
      scale is the number 1.
    scale: Guidance scale: 1 is the conditional model, 0 the unconditional one; a
      number, a traced number, or a function of the log-SNR such as `in_interval`.
    rescale: phi in [0, 1] of Lin et al. 2023 (arXiv:2305.08891), section 3.4: how far
      to return the guided prediction to the standard deviation of the conditional one,
      which a high scale exceeds.
    rescale_form: Form of the prediction to rescale; the paper's is "v".

  Returns:
    The guided denoise function.
  """
  if process.is_number(scale, 1.0):
    return conditional

  def denoise_fn(x_t, logsnr):
    with_cond, without = conditional(x_t, logsnr), unconditional(x_t, logsnr)
    by = jnp.asarray(scale(logsnr) if callable(scale) else scale) - 1.0
    by = process.expand(by, x_t.ndim) if by.ndim else by
    guided = jax.tree.map(lambda c, u: c + by * (c - u), with_cond, without)
    if process.is_number(rescale, 0.0):
      return guided
    wide, target = (getattr(p, rescale_form) for p in (guided, with_cond))
    axes = tuple(range(1, x_t.ndim))
    std = lambda x: jnp.std(x, axis=axes, keepdims=True)
    factor = rescale * std(target) / jnp.maximum(std(wide), 1e-12) + (1.0 - rescale)
    return process.convert(factor * wide, x_t, logsnr, rescale_form)

  return denoise_fn


def in_interval(
  scale: ArrayLike, logsnr_min: ArrayLike, logsnr_max: ArrayLike
) -> Callable[[Float[Array, " b *f"]], Float[Array, " b *f"]]:
  """Returns a scale that is 1 outside an interval of noise levels, ends included.

  Kynkaanniemi et al. 2024 (arXiv:2404.07724), whose interval is one of sigma / alpha.

  Args:
    scale: Guidance scale inside the interval; see `classifier_free`.
    logsnr_min: Log-SNR of the noisiest guided level, in nats.
    logsnr_max: Log-SNR of the cleanest guided level, in nats.
  """

  def scale_fn(logsnr: Float[Array, " b *f"]) -> Float[Array, " b *f"]:
    inside = (logsnr_min <= logsnr) & (logsnr <= logsnr_max)
    return jnp.where(inside, scale, 1.0)

  return scale_fn


def replacement(
  denoise_fn: process.DenoiseFn, known: Known, key: PRNGKey | None = None
) -> process.DenoiseFn:
  """Replaces the known part of a prediction by its true value.

  The replacement method of Song et al. 2021 (arXiv:2011.13456), in the two forms that
  Ho et al. 2022 describe. By itself it does not inform the unknown part about the known
  one: that takes `reconstruction`, inside.

  Args:
    denoise_fn: Denoiser of the whole sample, known part included.
    known: Part of x that is given.
    key: Random key for fresh noise on the known part at every level, a draw from
      q(x_s | x), the same for a corrector and a sampler at one level. With None the
      network sees the sampler's own x_s, whose known part an ancestral sampler draws
      from q(x_s | x_t, x).

  Returns:
    The guided denoise function. A sampler that ends at clean data ends at
    `known.value`.
  """

  def guided(x_t, logsnr):
    value = jnp.broadcast_to(known.value, x_t.shape).astype(x_t.dtype)
    seen = x_t
    if key is not None:
      level = jax.lax.bitcast_convert_type(logsnr.ravel()[0], jnp.uint32)
      noised, _ = process.diffuse(jax.random.fold_in(key, level), value, logsnr)
      seen = jnp.where(known.mask, noised, x_t)
    before = denoise_fn(seen, logsnr)
    there = process.convert(value, x_t, logsnr, "x")
    return jax.tree.map(lambda a, b: jnp.where(known.mask, a, b), there, before)

  return guided


def reconstruction(
  denoise_fn: process.DenoiseFn, observations: Sequence[Observation]
) -> process.DenoiseFn:
  """Moves the predicted x towards agreement with the observations.

  x + sum_i (w_i alpha_t / 2) (-grad_{x_t} || value_i - observe_i(x(x_t)) ||^2): Ho et
  al. 2022 (arXiv:2204.03458), section 3.1. The gradient goes through the network; the
  norm is a sum over all entries of an example. One backward pass for all observations.

  Args:
    denoise_fn: Denoise function that treats the examples of a batch independently.
    observations: Known functions of x: `known_frames`, `low_resolution`, or both.

  Returns:
    The guided denoise function. For known frames, wrap it in `replacement`.
  """

  def guided(x_t, logsnr):
    def predict(x_t):
      prediction = denoise_fn(x_t, logsnr)
      return prediction.x, prediction

    x, pull_back, prediction = jax.vjp(predict, x_t, has_aux=True)
    towards = jnp.zeros_like(x)
    for observe, value, weight in observations:
      seen, pull_back_seen = jax.vjp(observe, x)
      towards += weight * pull_back_seen((value - seen).astype(seen.dtype))[0]
    alpha, sigma = process.alpha_sigma(logsnr, x_t.ndim)
    shift = alpha * pull_back(towards)[0]
    return process.Prediction(
      x=x + shift,
      eps=prediction.eps - (alpha / sigma) * shift,
      v=prediction.v - shift / sigma,
    )

  return guided


def known_frames(known: Known, weight: ArrayLike) -> Observation:
  """Observes the known part of x, such as whole frames.

  Args:
    known: Part of x that is given.
    weight: w_r. The paper uses 50 (BAIR, one frame of 16) and 9 (Kinetics, five).
  """
  observe = lambda x: jnp.where(known.mask, x, 0.0)
  return Observation(observe, observe(known.value), weight)


def low_resolution(
  video: Float[Array, "b f h w c"], factor: int, weight: ArrayLike
) -> Observation:
  """Observes the mean of each square of `factor` x `factor` pixels, for x `b f h w c`.

  Args:
    video: Low-resolution video to agree with, in the range of x.
    factor: Height and width of x over those of `video`.
    weight: w_r; at factor 2 from 1 to 6. Over 8 it amplifies the error it should
      remove: the last step multiplies the error by 1 - weight / factor^2.

  Raises:
    UserError: It is used on an x whose size is not `factor` times the video's.
  """
  size = tuple(factor * n for n in video.shape[2:4])

  def observe(x):
    b, f, h, w, c = x.shape
    if (h, w) != size:
      raise UserError(
        f"low_resolution was given video {video.shape[2]}x{video.shape[3]} and factor"
        f" {factor} for samples of {h}x{w}: expected {size[0]}x{size[1]}"
      )
    x = x.reshape(b, f, h // factor, factor, w // factor, factor, c)
    return x.mean(axis=(3, 5))

  return Observation(observe, video, weight)


def clip(
  denoise_fn: process.DenoiseFn, low: ArrayLike = -1.0, high: ArrayLike = 1.0
) -> process.DenoiseFn:
  """Clips the predicted x to the range of the data, [-1, 1] for pixels."""

  def clipped(x_t, logsnr):
    x = jnp.clip(denoise_fn(x_t, logsnr).x, low, high)
    return process.convert(x, x_t, logsnr, "x")

  return clipped
