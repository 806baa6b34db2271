"""The autoencoder stage that systems share, with and without a discriminator.

A system brings a network with the methods of `Autoencoder` and the class of its
discriminator; the terms of the loss are in `systems/autoencoder.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lamd_jax.schema import build
from lamd_jax.systems import autoencoder
from lamd_jax.systems.clip import clip_of
from lamd_jax.systems.networks import apply
from lamd_jax.systems.pixels import from_uint8
from lamd_jax.systems.stage import OnStep, Part
from lamd_jax.types import Batch, Config, Metrics, Params, PRNGKey


@runtime_checkable
class Autoencoder(Protocol):
  """A linen module that this stage can train. Videos are in [-1, 1].

  Attributes:
    num_frames: Frames of a clip.
    last_layer: Name of the layer that makes pixels, and has a kernel.
  """

  num_frames: int
  last_layer: str

  def __call__(self, video: Array, key: PRNGKey) -> tuple[Array, Any]:
    """Returns the video decoded from a draw of the posterior, and the posterior."""
    ...

  def encode_decode_features(self, video: Array, key: PRNGKey) -> tuple[Array, Any]:
    """Returns the input of the last layer in place of the video."""
    ...

  def to_pixels(self, features: Array) -> Array:
    """Applies the last layer."""
    ...

  def reconstruct(self, video: Array) -> Array:
    """Returns the video decoded from the mean of the posterior."""
    ...


@struct.dataclass
class AutoencoderStage:
  """An autoencoder trained by L1, perceptual and KL terms.

  Attributes:
    model: The network, an `Autoencoder`.
    losses: The terms of the loss.
    perceptual_params: Parameters of the frozen network of the perceptual term; None
      without one.
  """

  model: Any = struct.field(pytree_node=False)
  losses: autoencoder.Losses = struct.field(pytree_node=False)
  perceptual_params: Params

  def init(self, key: PRNGKey, batch: Batch) -> Params:
    """See `Stage`."""
    video = from_uint8(batch["video"])
    return self.model.init(key, video, key)["params"]

  def loss(
    self, params: Params, batch: Batch, key: PRNGKey, *, train: bool
  ) -> tuple[Float[Array, ""], Metrics]:
    """Returns L1 of pixels in [-1, 1] plus the weighted perceptual and KL terms."""
    del train  # No dropout.
    video = from_uint8(batch["video"])
    decoded, posterior = apply(self.model, params, video, key)
    loss, metrics = self._reconstruction_loss(decoded, video, key)
    metrics["kl_per_latent_value"] = jnp.mean(posterior.kl()) / posterior.mean[0].size
    return loss + self._kl_loss(posterior, video), metrics

  def sample(
    self, params: Params, batch: Batch, key: PRNGKey, on_step: OnStep | None = None
  ) -> Float[Array, "b f h w 3"]:
    """Reconstructs from the mean of the posterior."""
    del key, on_step
    return apply(self.model, params, from_uint8(batch["video"]), method="reconstruct")

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

  def _kl_loss(self, posterior: Any, video):
    sizes = video[0].size, posterior.mean[0].size
    return autoencoder.kl_loss(self.losses, posterior.kl(), *sizes)


@struct.dataclass
class AdversarialAutoencoderStage(AutoencoderStage):
  """An autoencoder trained against a discriminator too.

  Attributes:
    critic: The discriminator: from videos to logits.
    adversary: Settings of adversarial training.
  """

  critic: Any = struct.field(pytree_node=False)
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
    """See `AdversarialStage`; lambda is adaptive, see `adversarial_gradients`."""
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
      self.model.last_layer,
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


def make_autoencoder_stage(
  config: Config,
  name: str,
  model: Any,
  parts: Mapping[str, Part],
  make_critic: Callable[[Config, str], Any],
) -> AutoencoderStage:
  """Builds a stage from its blocks `loss` and, if there is one, `adversary`.

  Args:
    config: The whole configuration.
    name: Name of the stage.
    model: Its network, an `Autoencoder`.
    parts: `perceptual`, the frozen network of the loss, if it has one.
    make_critic: Builds the discriminator from the block `adversary.model` and its path.

  Raises:
    UserError: A value is impossible.
  """
  values, clip = config[name], clip_of(config, name)
  losses = build(autoencoder.Losses, values.loss, f"{name}.loss")
  autoencoder.check_losses(losses, f"{name}.loss", clip.num_frames, clip.resolution)
  perceptual_params = parts["perceptual"].params if "perceptual" in parts else None
  plain = AutoencoderStage(model, losses, perceptual_params)
  if "adversary" not in values:
    return plain
  how = {k: v for k, v in values.adversary.items() if k != "model"}
  adversary = build(autoencoder.Adversary, how, f"{name}.adversary")
  if not adversary.weight:
    return plain
  critic = make_critic(values.adversary.model, f"{name}.adversary.model")
  return AdversarialAutoencoderStage(
    model, losses, perceptual_params, critic, adversary
  )
