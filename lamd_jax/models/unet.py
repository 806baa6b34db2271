"""The 2D U-Net of latent diffusion, with cross-attention to condition tokens.

Ho et al. 2020 (arXiv:2006.11239), appendix B, as Rombach et al. 2022
(arXiv:2112.10752) use it on latents: residual blocks that take an embedding of
the noise level, a transformer block after each where attention is asked for, a
skip connection from every block of the way down to its mirror on the way up.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from lamd_jax.nn.attention import SpatialTransformer, count_heads
from lamd_jax.nn.blocks import Norm, ResBlock, upsample_space
from lamd_jax.nn.conv import Conv
from lamd_jax.nn.embeddings import sinusoidal
from lamd_jax.nn.remat import call_block
from lamd_jax.types import UserError

KERNELS = ((3, 3), (3, 3))


class UNet(nn.Module):
  """Predicts from a noised image what it was trained to predict.

  Attributes:
    model_channels: Width at full resolution.
    channel_mults: Width of each level, as multiples; each next level has half the
      height and width.
    num_res_blocks: On each level of the way down; the way up has one more.
    attention_factors: Downsampling factors of the levels with transformer blocks.
    head_channels: Channels of an attention head; every attended width must be a
      multiple.
    dropout_rate: In residual blocks.
    out_channels: Of the prediction; None for those of the input.
    dtype: Of the computation.
    remat: What the backward pass keeps of each block, a key of `remat.POLICIES`.
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
      cond_mask: False on tokens that nobody looks at; None is true on all.
      train: Whether dropout is on.

    Returns:
      The prediction, float32.
    """
    deepest = 2 ** (len(self.channel_mults) - 1)
    if x.shape[1] % deepest or x.shape[2] % deepest:
      raise UserError(
        f"a U-Net of {len(self.channel_mults)} levels (channel_mults) needs a height"
        f" and width divisible by {deepest}, given {x.shape[1]}x{x.shape[2]}"
      )

    def residual(h, channels, name):
      res = ResBlock(channels, KERNELS, self.dropout_rate, self.dtype, name=name)
      return call_block(res, self.remat, h, embedding, train=train)

    def block(h, level, name):
      h = residual(h, self.model_channels * self.channel_mults[level], name)
      return attend(h, f"{name}_attention") if 2**level in self.attention_factors else h

    def attend(h, name):
      heads = count_heads(h.shape[-1], self.head_channels)
      transformer = SpatialTransformer(heads, self.dtype, name=name)
      return call_block(transformer, self.remat, h, cond, cond_mask)

    def resample(h, strides, name):
      return Conv(h.shape[-1], (3, 3), strides, dtype=self.dtype, name=name)(h)

    width = 4 * self.model_channels
    embedding = sinusoidal(timestep, self.model_channels)
    embedding = nn.Dense(width, dtype=self.dtype, name="embed_0")(embedding)
    embedding = nn.Dense(width, dtype=self.dtype, name="embed_1")(nn.silu(embedding))

    h = Conv(self.model_channels, (3, 3), dtype=self.dtype, name="conv_in")(x)
    skips = [h]
    levels = range(len(self.channel_mults))
    for level in levels:
      for i in range(self.num_res_blocks):
        h = block(h, level, f"down_{level}_{i}")
        skips.append(h)
      if level < levels[-1]:
        h = resample(h, (2, 2), f"downsample_{level}")
        skips.append(h)
    h = attend(residual(h, h.shape[-1], "mid_0"), "mid_attention")
    h = residual(h, h.shape[-1], "mid_1")
    for level in reversed(levels):
      for i in range(self.num_res_blocks + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = block(h, level, f"up_{level}_{i}")
      if level > 0:
        h = resample(upsample_space(h), (1, 1), f"upsample_{level}")
    h = nn.silu(Norm(dtype=self.dtype, name="norm_out")(h))
    zeros = nn.initializers.zeros
    channels = self.out_channels or x.shape[-1]
    conv_out = Conv(
      channels, (3, 3), kernel_init=zeros, dtype=self.dtype, name="conv_out"
    )
    return conv_out(h).astype(jnp.float32)
