"""The 2D U-Net of latent diffusion, with cross-attention to condition tokens.

Ho et al. 2020 (arXiv:2006.11239), appendix B, as Rombach et al. 2022
(arXiv:2112.10752) use it on latents: residual blocks that take an embedding of the
noise level, followed by transformer blocks on levels with attention, and a skip
connection from every block on the way down to its mirror on the way up.
"""

from collections.abc import Sequence

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from lamd_jax.models.levels import Levels, walk
from lamd_jax.nn.attention import SpatialTransformer, count_heads
from lamd_jax.nn.blocks import ResBlock
from lamd_jax.nn.embeddings import sinusoidal
from lamd_jax.nn.remat import call_block

KERNELS = ((3, 3), (3, 3))


class UNet(nn.Module):
  """Denoiser of images or latents; its output is read as the training target.

  Attributes:
    model_channels: Width at full resolution.
    channel_mults: Width of each level, as multiples; each next level has half the
      height and width.
    num_res_blocks: Residual blocks per level on the way down; the way up has one more.
    attention_factors: Downsampling factors of the levels with transformer blocks.
    head_channels: Width of an attention head; every attended width must be a multiple.
    dropout_rate: Dropout rate in residual blocks.
    out_channels: Number of output channels; None for as many as the input has.
    dtype: Dtype of the computation.
    remat: Results of each block that the backward pass keeps, a key of
      `remat.POLICIES`.
    num_heads: Number of attention heads on every level, in place of `head_channels`.
  """

  model_channels: int
  channel_mults: Sequence[int] = (1, 2, 4)
  num_res_blocks: int = 2
  attention_factors: Sequence[int] = (1, 2, 4)
  head_channels: int = 32
  dropout_rate: float = 0.0
  out_channels: int | None = None
  dtype: DTypeLike | None = None
  remat: str = "none"
  num_heads: int | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b h w c"],
    timestep: Float[Array, " b"],
    cond: Float[Array, "b n d"] | None,
    cond_mask: Bool[Array, "b n"] | None = None,
    *,
    train: bool = False,
  ) -> Float[Array, "b h w c2"]:
    """Applies the network.

    Args:
      x: A noised image; height and width divide by 2 ** (levels - 1).
      timestep: Noise level on the scale of the schedule, 0 to 999.
      cond: Condition tokens, or None.
      cond_mask: False on tokens to leave out; None is true everywhere.
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
    levels.check_size(*x.shape[1:3])
    width = 4 * self.model_channels
    embedding = sinusoidal(timestep, self.model_channels)
    embedding = nn.Dense(width, dtype=self.dtype, name="embed_0")(embedding)
    embedding = nn.Dense(width, dtype=self.dtype, name="embed_1")(nn.silu(embedding))

    def residual(h, channels, name):
      res = ResBlock(channels, KERNELS, self.dropout_rate, self.dtype, name=name)
      return call_block(res, self.remat, h, embedding, train=train)

    def attend(h, name):
      heads = count_heads(h.shape[-1], self.head_channels, self.num_heads)
      transformer = SpatialTransformer(heads, self.dtype, name=f"{name}_attention")
      return call_block(transformer, self.remat, h, cond, cond_mask)

    out_channels = self.out_channels or x.shape[-1]
    return walk(
      x, levels, residual, attend, out_channels=out_channels, dtype=self.dtype
    )
