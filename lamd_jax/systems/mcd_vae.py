"""LaMD's first stage: the autoencoder that takes motion and content apart.

Hu et al. 2023 (arXiv:2304.11603), section 3.2: MCD-VAE and its losses, equation 2.
"""

from collections.abc import Mapping
from typing import Any

from flax import struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from lamd_jax.models.mcd_vae import MCDVAE
from lamd_jax.systems.build import apply, build, compute_dtype
from lamd_jax.systems.pixels import from_uint8
from lamd_jax.types import Batch, Config, Metrics, Params, PRNGKey, UserError


@struct.dataclass
class MCDVAEStage:
  """Stage 1: the autoencoder, with the L1 and KL terms of equation 2.

  Attributes:
    model: The network.
    kl_weight: beta, on the KL in nats divided by the number of values of the clip:
      the weight of LDM's code, which sums both terms over a clip. The paper gives
      1e-2 and no reduction.
  """

  model: MCDVAE = struct.field(pytree_node=False)
  kl_weight: float = struct.field(pytree_node=False)

  def init(self, key: PRNGKey, batch: Batch) -> Params:
    """See `Stage`."""
    video = from_uint8(batch["video"])
    return self.model.init(key, video, key)["params"]

  def loss(
    self, params: Params, batch: Batch, key: PRNGKey, *, train: bool
  ) -> tuple[Float[Array, ""], Metrics]:
    """Mean absolute error of pixels in [-1, 1], plus the weighted KL."""
    del train  # No dropout.
    video = from_uint8(batch["video"])
    decoded, posterior = apply(self.model, params, video, key)
    l1 = jnp.mean(jnp.abs(decoded - video))
    kl = jnp.mean(posterior.kl())
    values_per_clip = video[0].size
    metrics = {"l1": l1, "kl_per_latent_value": kl / posterior.mean[0].size}
    return l1 + self.kl_weight * kl / values_per_clip, metrics

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


def make_mcd_vae(config: Config, earlier: Mapping[str, Params]) -> MCDVAEStage:
  """Builds stage 1."""
  del earlier
  return MCDVAEStage(make_vae(config), config.mcd_vae.loss.kl_weight)


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
    dtype=compute_dtype(config),
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
