"""DMG: LaMD's diffusion-based motion generator.

Hu et al. 2023 (arXiv:2304.11603), section 3.3: LDM's 2D U-Net over the motion
latent of a clip, which has no time axis, conditioned by cross-attention on the
deepest content feature f_x0 of the given frame. The paper does not say how f_x0
becomes tokens; here each of its h x w places is one, with a fixed position code.
"""

from collections.abc import Sequence

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lamd_jax.models.unet import UNet
from lamd_jax.nn.embeddings import grid_positions
from lamd_jax.types import UserError


class DMG(nn.Module):
  """Predicts the noise in a motion latent, given the content of the first frame.

  The defaults are the paper's size, about 340 M parameters.

  Attributes:
    model_channels: Of the U-Net, as all below but the last two.
    channel_mults: See `UNet`.
    num_res_blocks: See `UNet`.
    attention_factors: See `UNet`.
    head_channels: See `UNet`.
    dropout_rate: See `UNet`.
    context_channels: Width of the condition tokens; divisible by 4.
    dtype: Of the computation.
  """

  model_channels: int = 224
  channel_mults: Sequence[int] = (1, 2, 3, 4)
  num_res_blocks: int = 2
  attention_factors: Sequence[int] = (1, 2, 4)
  head_channels: int = 32
  dropout_rate: float = 0.0
  context_channels: int = 512
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self,
    z_t: Float[Array, "b h w d"],
    timestep: Float[Array, " b"],
    content: Float[Array, "b h w c"],
    *,
    train: bool = False,
  ) -> Float[Array, "b h w d"]:
    """Applies the network.

    Args:
      z_t: A noised motion latent.
      timestep: Its noise level on the scale of the schedule, 0 to 999.
      content: f_x0.
      train: Whether dropout is on.

    Returns:
      The prediction, float32.
    """
    if self.context_channels % 4:
      raise UserError(f"context_channels={self.context_channels} must divide by 4")
    b, h, w, _ = content.shape
    tokens = nn.Dense(self.context_channels, dtype=self.dtype, name="content")(content)
    tokens = tokens.reshape(b, h * w, -1)
    positions = grid_positions(h, w, self.context_channels)
    tokens = nn.LayerNorm(dtype=self.dtype, name="norm")(tokens + positions)
    unet = UNet(
      self.model_channels,
      self.channel_mults,
      self.num_res_blocks,
      self.attention_factors,
      self.head_channels,
      self.dropout_rate,
      self.dtype,
      name="unet",
    )
    return unet(z_t, timestep, tokens, train=train)
