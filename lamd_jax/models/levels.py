"""The levels of a U-Net: down, through the middle and up, with skip connections.

Ho et al. 2020 (arXiv:2006.11239), appendix B. The blocks in it are the caller's, so an
image and a video U-Net share this walk.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lamd_jax.nn.blocks import Norm, upsample_space
from lamd_jax.nn.conv import Conv
from lamd_jax.types import UserError


class Levels(NamedTuple):
  """Widths and blocks of each level; see `UNet` for the fields."""

  model_channels: int
  channel_mults: Sequence[int]
  num_res_blocks: int
  attention_factors: Sequence[int]

  def check_size(self, height: int, width: int) -> None:
    """Raises UserError unless the size halves evenly from level to level."""
    deepest = 2 ** (len(self.channel_mults) - 1)
    if height % deepest or width % deepest:
      raise UserError(
        f"a U-Net of {len(self.channel_mults)} levels (channel_mults) needs a height"
        f" and width divisible by {deepest}, given {height}x{width}"
      )


def walk(
  x: Float[Array, "b *fhw c"],
  levels: Levels,
  residual: Callable[[Array, int, str], Array],
  attend: Callable[[Array, str], Array],
  *,
  out_channels: int,
  dtype: DTypeLike | None,
) -> Float[Array, "b *fhw out_channels"]:
  """Applies a U-Net inside a compact module, whose parameters its layers become.

  The way up has one more block per level than the way down: every block and every
  downsampling on the way down leaves a skip connection, the first convolution too.

  Args:
    x: Input of the network.
    levels: Widths and blocks.
    residual: Maps features, a number of output channels and a name to features.
    attend: Maps features and the name of the block before to features; called after
      each block on levels with attention, and in the middle.
    out_channels: Number of output channels.
    dtype: Dtype of the computation.

  Returns:
    The output, float32.
  """
  lead = (1,) * (x.ndim - 4)  # Nothing here mixes or resamples frames.

  def conv(h, features, name, strides=(1, 1), init=nn.initializers.lecun_normal()):
    strides = (*lead, *strides)
    layer = Conv(features, (*lead, 3, 3), strides, init, dtype=dtype, name=name)
    return layer(h)

  def block(h, level, name):
    h = residual(h, levels.model_channels * levels.channel_mults[level], name)
    return attend(h, name) if 2**level in levels.attention_factors else h

  h = conv(x, levels.model_channels, "conv_in")
  skips = [h]
  last = len(levels.channel_mults) - 1
  for level in range(last + 1):
    for i in range(levels.num_res_blocks):
      h = block(h, level, f"down_{level}_{i}")
      skips.append(h)
    if level < last:
      h = conv(h, h.shape[-1], f"downsample_{level}", strides=(2, 2))
      skips.append(h)
  h = attend(residual(h, h.shape[-1], "mid_0"), "mid")
  h = residual(h, h.shape[-1], "mid_1")
  for level in reversed(range(last + 1)):
    for i in range(levels.num_res_blocks + 1):
      h = jnp.concatenate([h, skips.pop()], axis=-1)
      h = block(h, level, f"up_{level}_{i}")
    if level > 0:
      h = conv(upsample_space(h), h.shape[-1], f"upsample_{level}")
  h = nn.silu(Norm(dtype=dtype, name="norm_out")(h))
  h = conv(h, out_channels, "conv_out", init=nn.initializers.zeros)
  return h.astype(jnp.float32)
