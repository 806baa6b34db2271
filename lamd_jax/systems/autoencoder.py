"""What autoencoders of videos are trained by: L1, perceptual, KL and adversarial terms.

Those of VQGAN (Esser et al. 2020, arXiv:2012.09841) and latent diffusion, on videos,
as Hu et al. 2023 (arXiv:2304.11603), equation 2, write them:

    min over the autoencoder, max over D:  L_GEN + lambda L_GAN
    L_GEN = || x - x^ ||_1 + LPIPS(x, x^) + beta KL(q(z | x) || N(0, I))
    L_GAN = log D(x) + log(1 - D(x^))

lambda follows the gradients that the two terms have at the last layer.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lamd_jax.models.perceptual import LPIPS, I3DDistance
from lamd_jax.models.vgg import VGG16
from lamd_jax.types import Metrics, Params, PRNGKey, UserError

KL_REDUCTIONS = ("latents", "pixels")
FORMS = ("hinge", "log")
DISTANCES = {"lpips_vgg": LPIPS(VGG16()), "i3d": I3DDistance()}
MAX_LAMBDA = 1e4


@dataclasses.dataclass(frozen=True)
class Losses:
  """What is added up without an adversary.

  Attributes:
    kl_weight: beta.
    kl_reduction: What the KL of a clip, in nats, is divided by: "latents", the number
      of entries of its latent; or "pixels", that of its pixel values, as in latent
      diffusion's code, which sums both terms. That weighs it some hundred times less,
      and then a beta of 1e-2 keeps no appearance out of LaMD's motion
      (`configs/README.md`).
    perceptual: A distance of videos by a frozen network: "lpips_vgg", the paper's; or
      "i3d", which is not LPIPS, but sees motion, and costs far less on small machines.
    perceptual_weight: Of it.
    perceptual_frames: Of LPIPS: frames of each clip, drawn at random; 0 for all.
    perceptual_weights: Of LPIPS: a folder with files of one's own; "" for the package.
  """

  kl_weight: float
  kl_reduction: str = "latents"
  perceptual: str = "none"
  perceptual_weight: float = 1.0
  perceptual_frames: int = 0
  perceptual_weights: str = ""


@dataclasses.dataclass(frozen=True)
class Adversary:
  """How a discriminator takes part.

  Attributes:
    start: The first step it takes part in; before, it costs nothing.
    weight: Of the adversarial gradient at the last layer, as a share of that of L1
      and perceptual terms; 0 for no adversary.
    form: "log" is the paper's equation; "hinge" what its code's kin use.
  """

  start: int
  weight: float = 0.5
  form: str = "hinge"


def check_losses(losses: Losses, where: str, num_frames: int, resolution: int) -> None:
  """Raises a `UserError` for values no training could use."""
  known_names = {"kl_reduction": KL_REDUCTIONS, "perceptual": ("none", *DISTANCES)}
  for name, known in known_names.items():
    if (value := getattr(losses, name)) not in known:
      raise UserError(f"{where}.{name}={value!r}; known: {', '.join(known)}")
  for name in ("kl_weight", "perceptual_weight"):
    if getattr(losses, name) < 0:
      raise UserError(f"{where}.{name}={getattr(losses, name)}: expected 0 or more")
  if not 0 <= losses.perceptual_frames <= num_frames:
    raise UserError(
      f"{where}.perceptual_frames={losses.perceptual_frames}: expected 1 to"
      f" {num_frames}, or 0 for all"
    )
  if losses.perceptual == "lpips_vgg" and resolution < VGG16.min_size:
    raise UserError(
      f"{where}.perceptual='lpips_vgg' needs frames of {VGG16.min_size} pixels a side,"
      f" data.resolution is {resolution}; 'i3d' takes any"
    )


def check_adversary(adversary: Adversary, where: str) -> None:
  """Raises a `UserError` for values no training could use."""
  if adversary.form not in FORMS:
    raise UserError(f"{where}.form={adversary.form!r}; known: {', '.join(FORMS)}")
  for name in ("start", "weight"):
    if getattr(adversary, name) < 0:
      raise UserError(f"{where}.{name}={getattr(adversary, name)}: expected 0 or more")


def reconstruction_loss(
  losses: Losses,
  perceptual_params: Params,
  decoded: Float[Array, "b f h w 3"],
  video: Float[Array, "b f h w 3"],
  key: PRNGKey,
) -> tuple[Float[Array, ""], Metrics]:
  """Mean absolute error of pixels in [-1, 1], plus the weighted perceptual distance.

  Args:
    losses: Which terms.
    perceptual_params: Of the frozen network; None where there is none.
    decoded: x^.
    video: x.
    key: Chooses frames.
  """
  l1 = jnp.mean(jnp.abs(decoded - video))
  metrics = {"l1": l1}
  if losses.perceptual == "none":
    return l1, metrics
  module = DISTANCES[losses.perceptual]
  if losses.perceptual == "lpips_vgg":  # Of images.
    b, f = video.shape[:2]
    if num := losses.perceptual_frames:
      draw = lambda key: jax.random.choice(key, f, (num,), replace=False)
      frames = jax.vmap(draw)(jax.random.split(key, b))
      pick = lambda x: jnp.take_along_axis(x, frames[:, :, None, None, None], axis=1)
      decoded, video = pick(decoded), pick(video)
    decoded, video = (x.reshape(-1, *x.shape[2:]) for x in (decoded, video))
  distance = jnp.mean(module.apply(perceptual_params, decoded, video))
  metrics[losses.perceptual] = distance
  return l1 + losses.perceptual_weight * distance, metrics


def kl_loss(
  losses: Losses, kl: Float[Array, " b"], pixel_values: int, latent_values: int
) -> Float[Array, ""]:
  """The weighted KL.

  Args:
    losses: Which reduction.
    kl: Of each clip, in nats.
    pixel_values: Of a clip.
    latent_values: Of its latent.
  """
  by = pixel_values if losses.kl_reduction == "pixels" else latent_values
  return losses.kl_weight * jnp.mean(kl) / by


def generator_loss(form: str, fake: Float[Array, "b ..."]) -> Float[Array, ""]:
  """What the autoencoder minimizes: -D(x^), or the equation's log(1 - D(x^)).

  Args:
    form: See `Adversary`.
    fake: Logits of reconstructions.
  """
  return -jnp.mean(fake if form == "hinge" else jax.nn.softplus(fake))


def critic_loss(
  form: str, real: Float[Array, "b ..."], fake: Float[Array, "b ..."]
) -> Float[Array, ""]:
  """What the discriminator minimizes: half the sum over real and fake.

  Args:
    form: See `Adversary`.
    real: Logits of clips.
    fake: Logits of reconstructions.
  """
  cost = jax.nn.relu if form == "hinge" else jax.nn.softplus
  margin = 1.0 if form == "hinge" else 0.0
  return 0.5 * (jnp.mean(cost(margin - real)) + jnp.mean(cost(margin + fake)))


def adversarial_gradients(
  to_features: Callable[[Params], tuple[Array, Any]],
  to_pixels: Callable[[Params, Array], Array],
  params: Params,
  last_layer: str,
  *,
  reconstruction_fn: Callable[[Array], tuple[Array, Metrics]],
  prior_fn: Callable[[Any], Array],
  adversarial_fn: Callable[[Array], Array],
  adversary: Adversary,
  step: Int[Array, ""],
) -> tuple[Array, Metrics, Params, Array]:
  """The gradient of all terms, with an adaptive lambda, in one backward pass.

  lambda = w || dL_rec / dW || / (|| dL_GAN / dW || + 1e-4), where W is the kernel of
  the last layer and L_rec the L1 and perceptual terms: VQGAN, equation 7. The two
  gradients with respect to the video are found first; pulled back through the last
  layer alone they give lambda, and their weighted sum goes on through the rest.

  Args:
    to_features: From parameters to the input of the last layer, and the posterior.
    to_pixels: From parameters and that input to the video.
    params: Of the autoencoder.
    last_layer: Where in `params` that layer is.
    reconstruction_fn: From the video to L_rec and metrics.
    prior_fn: From the posterior to the weighted KL.
    adversarial_fn: From the video to L_GAN.
    adversary: How strong, and from which step on.
    step: Of this update, from 0.

  Returns:
    L_rec and KL; metrics; the gradient; the video.
  """
  (features, posterior), pull_features = jax.vjp(to_features, params)
  last = {last_layer: params[last_layer]}
  video, pull_pixels = jax.vjp(
    lambda last, features: to_pixels({**params, **last}, features), last, features
  )
  (loss, metrics), of_rec = jax.value_and_grad(reconstruction_fn, has_aux=True)(video)
  kl, of_posterior = jax.value_and_grad(prior_fn)(posterior)
  is_on = step >= adversary.start
  gan, of_gan = jax.lax.cond(
    is_on,
    jax.value_and_grad(adversarial_fn),
    lambda x: (jnp.zeros(()), jnp.zeros_like(x)),
    video,
  )
  rec_last, gan_last = pull_pixels(of_rec)[0], pull_pixels(of_gan)[0]
  size = lambda tree: jnp.sqrt(jnp.sum(jnp.square(tree[last_layer]["kernel"])))
  ratio = jnp.clip(size(rec_last) / (size(gan_last) + 1e-4), 0.0, MAX_LAMBDA)
  weight = jnp.where(is_on, adversary.weight * ratio, 0.0)
  of_features = pull_pixels(of_rec + weight * of_gan)[1]
  (grads,) = pull_features((of_features, of_posterior))
  add = lambda a, b: a + weight * b
  grads = {
    **grads,
    last_layer: jax.tree.map(add, rec_last[last_layer], gan_last[last_layer]),
  }
  metrics = {**metrics, "generator_loss": gan, "lambda": weight}
  return loss + kl, metrics, grads, video
