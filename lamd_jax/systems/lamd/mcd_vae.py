"""LaMD's first stage: the autoencoder that takes motion and content apart.

Hu et al. 2023 (arXiv:2304.11603), section 3.2: MCD-VAE and its losses, equation 2.
With an adversary it is trained by `adversarial_gradients`, without by its loss.
"""

from collections.abc import Mapping
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lamd_jax.models.discriminator import VideoDiscriminator
from lamd_jax.models.mcd_vae import MCDVAE
from lamd_jax.models.posterior import Posterior
from lamd_jax.systems import autoencoder
from lamd_jax.systems.build import apply, build, compute_dtype, of_computation
from lamd_jax.systems.pixels import from_uint8
from lamd_jax.types import Batch, Config, Metrics, Params, PRNGKey, UserError


@struct.dataclass
class MCDVAEStage:
  """Stage 1: the autoencoder, with the terms of equation 2 but the adversarial one.

  Attributes:
    model: The network.
    losses: Which terms, how strong. The paper gives a beta of 1e-2 and no reduction.
    perceptual_params: Of the frozen network of the perceptual term, if there is one.
  """

  model: MCDVAE = struct.field(pytree_node=False)
  losses: autoencoder.Losses = struct.field(pytree_node=False)
  perceptual_params: Params

  def init(self, key: PRNGKey, batch: Batch) -> Params:
    """See `Stage`."""
    video = from_uint8(batch["video"])
    return self.model.init(key, video, key)["params"]

  def loss(
    self, params: Params, batch: Batch, key: PRNGKey, *, train: bool
  ) -> tuple[Float[Array, ""], Metrics]:
    """L1 of pixels in [-1, 1], and the weighted perceptual and KL terms."""
    del train  # No dropout.
    video = from_uint8(batch["video"])
    decoded, posterior = apply(self.model, params, video, key)
    loss, metrics = self._reconstruction_loss(decoded, video, key)
    metrics["kl_per_latent_value"] = jnp.mean(posterior.kl()) / posterior.mean[0].size
    return loss + self._kl_loss(posterior, video), metrics

  def sample(
    self, params: Params, batch: Batch, key: PRNGKey
  ) -> Float[Array, "b f h w 3"]:
    """Reconstructs, from the mean of the posterior."""
    del key
    video = from_uint8(batch["video"])

    def reconstruct(model: MCDVAE):
      content = model.encode_content(video[:, 0])
      return model.decode(model.encode_motion(video).mean, content)

    return apply(self.model, params, method=reconstruct)

  @property
  def given_frames(self) -> int:
    """See `Stage`."""
    return self.model.num_frames

  def protocol(self) -> dict[str, Any]:
    """See `Stage`."""
    return {
      "given_frames": "all: a reconstruction",
      "sampler": "none",
      "sampling_steps": 0,
      "guidance": "none",
    }

  def _reconstruction_loss(self, decoded, video, key):
    key = jax.random.fold_in(key, 1)  # The posterior is drawn with the key itself.
    return autoencoder.reconstruction_loss(
      self.losses, self.perceptual_params, decoded, video, key
    )

  def _kl_loss(self, posterior: Posterior, video):
    sizes = video[0].size, posterior.mean[0].size
    return autoencoder.kl_loss(self.losses, posterior.kl(), *sizes)


@struct.dataclass
class AdversarialMCDVAEStage(MCDVAEStage):
  """Stage 1 with all terms of equation 2.

  Attributes:
    critic: The discriminator.
    adversary: How it takes part.
  """

  critic: VideoDiscriminator = struct.field(pytree_node=False)
  adversary: autoencoder.Adversary = struct.field(pytree_node=False)

  @property
  def critic_start(self) -> int:
    """See `AdversarialStage`."""
    return self.adversary.start

  def init_critic(self, key: PRNGKey, batch: Batch) -> Params:
    """See `AdversarialStage`."""
    return self.critic.init(key, from_uint8(batch["video"]))["params"]

  def gradients(
    self,
    params: Params,
    critic_params: Params,
    batch: Batch,
    key: PRNGKey,
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], Metrics, Params, Float[Array, "b f h w 3"]]:
    """See `AdversarialStage`; lambda is adaptive, `adversarial_gradients`."""
    video = from_uint8(batch["video"])

    def to_features(params):
      method = "encode_decode_features"
      return apply(self.model, params, video, key, method=method)

    def adversarial_fn(decoded):
      fake = apply(self.critic, critic_params, decoded)
      return autoencoder.generator_loss(self.adversary.form, fake)

    return autoencoder.adversarial_gradients(
      to_features,
      lambda params, x: apply(self.model, params, x, method="to_pixels"),
      params,
      "conv_out",
      reconstruction_fn=lambda x: self._reconstruction_loss(x, video, key),
      prior_fn=lambda posterior: self._kl_loss(posterior, video),
      adversarial_fn=adversarial_fn,
      adversary=self.adversary,
      step=step,
    )

  def critic_loss(
    self, critic_params: Params, batch: Batch, decoded: Float[Array, "b f h w 3"]
  ) -> tuple[Float[Array, ""], Metrics]:
    """See `AdversarialStage`."""
    real = apply(self.critic, critic_params, from_uint8(batch["video"]))
    fake = apply(self.critic, critic_params, decoded)
    loss = autoencoder.critic_loss(self.adversary.form, real, fake)
    return loss, {"logits_real": jnp.mean(real), "logits_fake": jnp.mean(fake)}


def make_mcd_vae(config: Config, earlier: Mapping[str, Params]) -> MCDVAEStage:
  """Builds stage 1; `earlier["perceptual"]` is the frozen network of its loss."""
  values = config.mcd_vae
  model = make_vae(config)
  losses = build(autoencoder.Losses, values.loss, "mcd_vae.loss")
  data = config.data
  autoencoder.check_losses(losses, "mcd_vae.loss", data.num_frames, data.resolution)
  perceptual_params = earlier.get("perceptual")
  if "adversary" not in values or not values.adversary.weight:
    return MCDVAEStage(model, losses, perceptual_params)
  how = {k: v for k, v in values.adversary.items() if k != "model"}
  adversary = build(autoencoder.Adversary, how, "mcd_vae.adversary")
  autoencoder.check_adversary(adversary, "mcd_vae.adversary")
  critic = build(
    VideoDiscriminator,
    values.adversary.model,
    "mcd_vae.adversary.model",
    dtype=compute_dtype(config),
  )
  if len(critic.frame_strides) != len(critic.channels) - 1:
    raise UserError(
      f"mcd_vae.adversary.model.frame_strides has {len(critic.frame_strides)} numbers;"
      f" expected {len(critic.channels) - 1}, one less than channels has"
    )
  return AdversarialMCDVAEStage(model, losses, perceptual_params, critic, adversary)


def make_vae(config: Config) -> MCDVAE:
  """Builds the network."""
  num_frames, resolution = config.data.num_frames, config.data.resolution
  if num_frames < 2:
    raise UserError(f"data.num_frames={num_frames}: a video needs at least 2 frames")
  vae = build(
    MCDVAE,
    config.mcd_vae.model,
    "mcd_vae.model",
    num_frames=num_frames,
    **of_computation(config),
  )
  if resolution % vae.spatial_factor:
    raise UserError(
      f"data.resolution={resolution} does not divide by the downsampling factor"
      f" {vae.spatial_factor} of mcd_vae.model.encoder_channels; nearest:"
      f" {nearest(resolution, vae.spatial_factor)}"
    )
  return vae


def nearest(value: int, multiple: int) -> int:
  """Returns the multiple nearest to a value, at least one of them."""
  return max(round(value / multiple), 1) * multiple
