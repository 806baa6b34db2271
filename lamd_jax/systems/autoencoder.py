"""Losses of video autoencoders: L1, perceptual, KL and adversarial terms.

The terms of VQGAN (Esser et al. 2020, arXiv:2012.09841) and latent diffusion, applied
to videos as Hu et al. 2023 (arXiv:2304.11603), equation 2, write them:

    min over the autoencoder, max over D:  L_GEN + lambda L_GAN
    L_GEN = || x - x^ ||_1 + LPIPS(x, x^) + beta KL(q(z | x) || N(0, I))
    L_GAN = log D(x) + log(1 - D(x^))

lambda adapts to the gradients of the two terms at the last layer.
"""

from collections.abc import Callable
import dataclasses
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lamd_jax.models.perceptual import LPIPS, I3DDistance
from lamd_jax.models.vgg import VGG16
from lamd_jax.schema import FilePath, Range, Weight
from lamd_jax.types import Metrics, Params, PRNGKey, UserError

Form = Literal["hinge", "log"]
DISTANCES = {"lpips_vgg": LPIPS(VGG16()), "i3d": I3DDistance()}
MAX_LAMBDA = 1e4


@dataclasses.dataclass(frozen=True)
class Losses:
  """Terms of the loss other than the adversarial one.

  Attributes:
    kl_weight: The paper's beta.
    kl_reduction: The divisor of a clip's KL, which is in nats: "latents", the number of
      entries of its latent; or "pixels", the number of its pixel values, as in latent
      diffusion's code, which sums both terms. "pixels" weighs the KL some hundred times
      less, and then a beta of 1e-2 keeps no appearance out of LaMD's motion
      (`configs/RESULTS.md`).
    perceptual: The frozen network that measures a perceptual distance of videos:
      "lpips_vgg", the paper's; or "i3d", which is not LPIPS, but sees motion and costs
      far less on small machines.
    perceptual_weight: Weight of the perceptual term.
    perceptual_frames: Number of frames, drawn at random from each clip, that LPIPS
      compares; 0 for all.
    perceptual_weights: Folder with your own weight files for LPIPS; "" for those of the
      installed package.
  """

  kl_weight: Weight
  kl_reduction: Literal["latents", "pixels"] = "latents"
  perceptual: Literal["none", "lpips_vgg", "i3d"] = "none"
  perceptual_weight: Weight = 1.0
  perceptual_frames: Annotated[int, Range(0, 2**14)] = 0
  perceptual_weights: FilePath = ""


@dataclasses.dataclass(frozen=True)
class Adversary:
  """Settings of adversarial training.

  Attributes:
    start: First step that involves the discriminator; before it, it costs nothing.
    weight: Size of the adversarial gradient at the last layer, as a fraction of that of
      the L1 and perceptual terms; 0 for no adversary.
    form: "log" is the paper's equation; "hinge" is used by code of the same family.
  """

  start: Annotated[int, Range(0, 10**9)]
  weight: Weight = 0.5
  form: Form = "hinge"


def check_losses(losses: Losses, where: str, num_frames: int, resolution: int) -> None:
  """Checks the perceptual term against the clips it will see.

  Args:
    losses: The terms of the loss.
    where: Their path in the configuration, for messages.
    num_frames: Frames of a clip.
    resolution: Height and width of a frame.

  Raises:
    UserError: LPIPS cannot look at as many frames, or at frames this small.
  """
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


def reconstruction_loss(
  losses: Losses,
  perceptual_params: Params,
  decoded: Float[Array, "b f h w 3"],
  video: Float[Array, "b f h w 3"],
  key: PRNGKey,
) -> tuple[Float[Array, ""], Metrics]:
  """Returns the L1 error of pixels in [-1, 1] plus the weighted perceptual distance.

  Args:
    losses: The terms of the loss.
    perceptual_params: Parameters of the frozen network; None where there is none.
    decoded: The reconstruction, x^.
    video: The original, x.
    key: Draws the frames that LPIPS compares.
  """
  l1 = jnp.mean(jnp.abs(decoded - video))
  metrics = {"l1": l1}
  if losses.perceptual == "none":
    return l1, metrics
  module = DISTANCES[losses.perceptual]
  if losses.perceptual == "lpips_vgg":  # It compares images.
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
  """Returns the weighted KL, averaged over clips.

  Args:
    losses: The weight and the reduction.
    kl: KL of each clip, in nats.
    pixel_values: Number of pixel values of a clip.
    latent_values: Number of entries of its latent.
  """
  by = pixel_values if losses.kl_reduction == "pixels" else latent_values
  return losses.kl_weight * jnp.mean(kl) / by


def generator_loss(form: Form, fake: Float[Array, "b ..."]) -> Float[Array, ""]:
  """Returns the autoencoder's adversarial loss: -D(x^), or log(1 - D(x^)).

  Args:
    form: The form of the adversarial loss, as in `Adversary`.
    fake: Logits of reconstructions.
  """
  return -jnp.mean(fake if form == "hinge" else jax.nn.softplus(fake))


def critic_loss(
  form: Form, real: Float[Array, "b ..."], fake: Float[Array, "b ..."]
) -> Float[Array, ""]:
  """Returns the discriminator's loss: half the sum over real and fake.

  Args:
    form: The form of the adversarial loss, as in `Adversary`.
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
  """Computes the gradient of all terms, with an adaptive lambda, in one backward pass.

  lambda = w || dL_rec / dW || / (|| dL_GAN / dW || + 1e-4), where W is the kernel of
  the last layer and L_rec the L1 and perceptual terms: VQGAN, equation 7. The two
  gradients with respect to the video are found first; pulled back through the last
  layer alone they give lambda, and their weighted sum goes on through the rest.

  Args:
    to_features: Maps parameters to the input of the last layer, and the posterior.
    to_pixels: Maps parameters and that input to the video.
    params: Parameters of the autoencoder.
    last_layer: Name of the last layer in `params`.
    reconstruction_fn: Maps the video to L_rec and metrics.
    prior_fn: Maps the posterior to the weighted KL.
    adversarial_fn: Maps the video to L_GAN.
    adversary: The adversary's weight and first step.
    step: Number of this update, from 0.

  Returns:
    The sum of L_rec and KL; metrics; the gradient; the video.
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
