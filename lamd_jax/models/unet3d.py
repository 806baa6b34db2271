"""The space-time U-Net of Video Diffusion Models, for videos and images together.

Ho et al. 2022 (arXiv:2204.03458), section 3: the U-Net of image diffusion with
convolutions and attention inside each frame, and attention over frames after every
attention over space. Nothing else mixes frames, norms included, so a mask on that
attention makes any frame an independent image. Details that the paper leaves open (the
parts of a residual block, the axes of the norms, the embedding of the noise level, the
blocks on the way up) follow its first authors' image code of that time, Salimans & Ho
2022 (arXiv:2202.00512), except for the norms.
"""

from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float
import numpy as np

from lamd_jax.models.levels import Levels, walk
from lamd_jax.nn.attention import SpatialAttention, TemporalAttention, count_heads
from lamd_jax.nn.blocks import ResBlock
from lamd_jax.nn.embeddings import logsnr_sinusoidal
from lamd_jax.nn.remat import call_block
from lamd_jax.schema import (
  Blocks,
  Channels,
  Factors,
  Fraction,
  Frames,
  Multiples,
  Range,
)
from lamd_jax.types import UserError

KERNEL = (1, 3, 3)


def joint_mask(num_frames: int, num_images: int) -> Bool[np.ndarray, "f f"]:
  """Returns which frame (row) may look at which (column) in a video, then images.

  The frames of the video see each other; an image sees only itself.

  Args:
    num_frames: Number of frames of the video.
    num_images: Number of images that follow it.
  """
  mask = np.eye(num_frames + num_images, dtype=bool)
  mask[:num_frames, :num_frames] = True
  return mask


class UNet3D(nn.Module):
  """Denoiser of videos; its output is read as the training target.

  The defaults are the paper's size for UCF101, about 1.17 billion parameters.

  Attributes:
    model_channels: Width at full resolution.
    channel_mults: Width of each level, as multiples; each next level has half the
      height and width, and as many frames.
    num_res_blocks: Residual blocks per level on the way down; the way up has one more.
    attention_factors: Downsampling factors of the levels where attention over space
      and over frames follows every residual block. The middle always has both.
    head_channels: Width of an attention head; every attended width must be a multiple.
    embedding_channels: Width of the embedding of noise level and condition.
    num_embedding_layers: Layers of the perceptron that makes the embedding.
    max_frames: Number of frames of the longest video; frames of shorter ones are as far
      apart as in it.
    scale_shift: Whether the embedding scales and shifts normalized features in residual
      blocks; else it is added, which is all that the paper says.
    dropout_rate: Dropout rate in residual blocks.
    dtype: Dtype of the computation; norms, softmax and embedding are in float32.
    remat: Results of each block that the backward pass keeps, a key of
      `remat.POLICIES`.
    num_heads: Number of attention heads on every level, in place of `head_channels`.
  """

  model_channels: Channels = 256
  channel_mults: Multiples = (1, 2, 4, 8)
  num_res_blocks: Blocks = 2
  attention_factors: Factors = (2, 4, 8)
  head_channels: Channels = 64
  embedding_channels: Channels = 1024
  num_embedding_layers: Annotated[int, Range(1, 16)] = 4
  max_frames: Frames = 16
  scale_shift: bool = True
  dropout_rate: Fraction = 0.0
  dtype: DTypeLike | None = None
  remat: str = "none"
  num_heads: Channels | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b f h w c"],
    logsnr: Float[Array, " b"] | Float[Array, "b f"],
    cond: Float[Array, "b d"] | Float[Array, "b f d"] | None = None,
    *,
    num_images: int = 0,
    train: bool = False,
  ) -> Float[Array, "b f h w c"]:
    """Applies the network.

    Args:
      x: Noised frames; height and width divide by 2 ** (levels - 1).
      logsnr: Noise level in nats, per example or per frame.
      cond: Condition with `embedding_channels` features, per example or per frame (see
        `conditioning`); zeros are equivalent to None.
      num_images: Number of frames at the end that are images: they see no other frame
        and no other frame sees them.
      train: Whether dropout is on.

    Returns:
      The prediction, float32.
    """
    levels = Levels(
      self.model_channels,
      self.channel_mults,
      self.num_res_blocks,
      self.attention_factors,
    )
    levels.check_size(*x.shape[2:4])
    self._check(x, logsnr, cond, num_images)
    num_frames = x.shape[1] - num_images
    mask = jnp.asarray(joint_mask(num_frames, num_images)) if num_images else None
    embedding = self._embed(logsnr, cond)

    def residual(h, channels, name):
      block = ResBlock(
        channels,
        (KERNEL, KERNEL),
        self.dropout_rate,
        self.dtype,
        self.scale_shift,
        name=name,
      )
      return call_block(block, self.remat, h, embedding, train=train)

    def attend(h, name):
      heads = count_heads(h.shape[-1], self.head_channels, self.num_heads)
      spatial = SpatialAttention(
        heads, self.dtype, float32_softmax=True, name=f"{name}_spatial_attention"
      )
      temporal = TemporalAttention(
        heads, self.max_frames, self.dtype, name=f"{name}_temporal_attention"
      )
      h = call_block(spatial, self.remat, h)
      return call_block(temporal, self.remat, h, mask)

    out_channels = x.shape[-1]
    return walk(
      x, levels, residual, attend, out_channels=out_channels, dtype=self.dtype
    )

  def _embed(self, logsnr, cond):
    """Returns `b d`, or `b f d` if either argument is given per frame."""
    h = logsnr_sinusoidal(logsnr, self.model_channels)
    h = nn.Dense(self.embedding_channels, name="embed_0")(h)
    if cond is not None:
      cond = cond.astype(jnp.float32)
      if cond.ndim < h.ndim:
        cond = cond[:, None]
      if h.ndim < cond.ndim:
        h = h[:, None]
      h += cond
    for i in range(1, self.num_embedding_layers):
      h = nn.Dense(self.embedding_channels, name=f"embed_{i}")(nn.silu(h))
    return h

  def _check(self, x, logsnr, cond, num_images):
    """Raises UserError on shapes that the network was not made for."""
    frames, levels = x.shape[1], len(self.channel_mults)
    unknown = set(self.attention_factors) - {2**level for level in range(levels)}
    if unknown:
      raise UserError(
        f"attention_factors has {sorted(unknown)}; the {levels} levels of channel_mults"
        f" have the factors {[2**level for level in range(levels)]}"
      )
    if not 0 <= num_images <= frames:
      raise UserError(
        f"num_images={num_images}: expected 0 to {frames} of {frames} frames"
      )
    if frames - num_images > self.max_frames:
      raise UserError(
        f"a video of {frames - num_images} frames is longer than"
        f" max_frames={self.max_frames}; give fewer frames or train with more"
      )
    per_example, per_frame = x.shape[:1], x.shape[:2]
    if logsnr.shape not in (per_example, per_frame):
      raise UserError(
        f"logsnr has the shape {logsnr.shape}; expected {per_example}, one per example,"
        f" or {per_frame}, one per frame"
      )
    d = self.embedding_channels
    if cond is not None and cond.shape not in ((*per_example, d), (*per_frame, d)):
      raise UserError(
        f"cond has the shape {cond.shape}; expected {(*per_example, d)} or"
        f" {(*per_frame, d)}, with embedding_channels={d} features"
      )
