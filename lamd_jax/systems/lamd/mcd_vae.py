"""LaMD's first stage: the autoencoder that takes motion and content apart.

Hu et al. 2023 (arXiv:2304.11603), section 3.2: MCD-VAE and its losses, equation 2.
"""

from collections.abc import Mapping

from lamd_jax.models.discriminator import VideoDiscriminator
from lamd_jax.models.mcd_vae import MCDVAE
from lamd_jax.schema import Field, block, build
from lamd_jax.systems import autoencoder
from lamd_jax.systems.autoencoder_stage import AutoencoderStage, make_autoencoder_stage
from lamd_jax.systems.clip import clip_of
from lamd_jax.systems.networks import (
  OF_COMPUTATION,
  compute_dtype,
  of_computation,
)
from lamd_jax.systems.stage import Part
from lamd_jax.types import Config, UserError

BLOCK = block(
  taker="the stage mcd_vae",
  model=Field(block(MCDVAE, without=("num_frames", *OF_COMPUTATION))),
  loss=Field(block(autoencoder.Losses)),
  adversary=Field(
    block(
      autoencoder.Adversary,
      model=Field(block(VideoDiscriminator, without=("dtype",))),
    ),
    None,
  ),
)


def make_mcd_vae(config: Config, parts: Mapping[str, Part]) -> AutoencoderStage:
  """Builds stage 1; `parts["perceptual"]` is the frozen network of its loss."""

  def make_critic(values: Config, where: str) -> VideoDiscriminator:
    critic = build(
      VideoDiscriminator, values, where, dtype=compute_dtype(config.compute_dtype)
    )
    if len(critic.frame_strides) != len(critic.channels) - 1:
      raise UserError(
        f"{where}.frame_strides has {len(critic.frame_strides)} numbers; expected"
        f" {len(critic.channels) - 1}, one less than channels has"
      )
    return critic

  return make_autoencoder_stage(config, "mcd_vae", make_vae(config), parts, make_critic)


def make_vae(config: Config) -> MCDVAE:
  """Builds the network of stage 1."""
  num_frames, _, resolution = clip_of(config, "mcd_vae")
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
