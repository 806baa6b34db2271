"""DMG: LaMD's diffusion-based motion generator.

Hu et al. 2023 (arXiv:2304.11603), section 3.3: LDM's 2D U-Net over the motion
latent of a clip, which has no time axis, conditioned by cross-attention on the deepest
content feature f_x0 of the given frame, and optionally on a class or a text. The paper
does not say how f_x0 becomes tokens; here each of its h x w positions is one, with a
fixed position code.
"""

from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lamd_jax.models.conditioning import CaptionTokens, ClassToken, Tokens
from lamd_jax.models.unet import UNet
from lamd_jax.models.word_encoder import WordEncoder
from lamd_jax.nn.embeddings import grid_positions
from lamd_jax.schema import (
  Blocks,
  Channels,
  Factors,
  Fraction,
  Multiples,
  Range,
  Side,
)
from lamd_jax.types import UserError

Condition = ClassToken | CaptionTokens | WordEncoder


class DMG(nn.Module):
  """Predicts the noise in a motion latent, given the content of the first frame.

  The defaults are the paper's size, about 340 M parameters.

  Attributes:
    model_channels: Field of `UNet`, as are all below up to `dropout_rate`.
    channel_mults: Field of `UNet`.
    num_res_blocks: Field of `UNet`.
    attention_factors: Field of `UNet`.
    head_channels: Field of `UNet`.
    dropout_rate: Field of `UNet`.
    context_channels: Width of the condition tokens; divisible by 4.
    context_pool: Side of the square of positions whose mean is one content token; above
      1, large frames have fewer tokens.
    concat_channels: Number of content channels concatenated to the latent, position by
      position, as in LDM's hybrid conditioning; 0 for none.
    condition: Module that turns a class or a text into tokens; None for none.
    dtype: Dtype of the computation.
    remat: Field of `UNet`.
  """

  model_channels: Channels = 224
  channel_mults: Multiples = (1, 2, 3, 4)
  num_res_blocks: Blocks = 2
  attention_factors: Factors = (1, 2, 4)
  head_channels: Channels = 32
  dropout_rate: Fraction = 0.0
  context_channels: Channels = 512
  context_pool: Side = 1
  concat_channels: Annotated[int, Range(0, 2**14)] = 0
  condition: Condition | None = None
  dtype: DTypeLike | None = None
  remat: str = "none"

  @nn.compact
  def __call__(
    self,
    z_t: Float[Array, "b h w d"],
    timestep: Float[Array, " b"],
    content: Float[Array, "b h w c"],
    cond: Tokens | None = None,
    *,
    train: bool = False,
  ) -> Float[Array, "b h w d"]:
    """Applies the network.

    Args:
      z_t: Noised motion latent.
      timestep: Noise level of z_t on the scale of the schedule, 0 to 999.
      content: f_x0.
      cond: Tokens from `read_condition`; None is equivalent to tokens all masked.
      train: Whether dropout is on.

    Returns:
      The prediction, float32.
    """
    if self.context_channels % 4:
      raise UserError(
        f"context_channels={self.context_channels}: expected a multiple of 4"
      )
    tokens = self._content_tokens(content)
    mask = None
    if cond is not None:
      always = jnp.ones(tokens.shape[:2], bool)
      mask = jnp.concatenate([always, cond.mask], axis=1)
      values = cond.values.astype(tokens.dtype)
      tokens = jnp.concatenate([tokens, values], axis=1)
    tokens = nn.LayerNorm(dtype=self.dtype, name="norm")(tokens)
    x = z_t
    if self.concat_channels:
      dense = nn.Dense(self.concat_channels, dtype=self.dtype, name="concat")
      x = jnp.concatenate([z_t, dense(content).astype(z_t.dtype)], axis=-1)
    unet = UNet(
      self.model_channels,
      self.channel_mults,
      self.num_res_blocks,
      self.attention_factors,
      self.head_channels,
      self.dropout_rate,
      out_channels=z_t.shape[-1],
      dtype=self.dtype,
      remat=self.remat,
      name="unet",
    )
    return unet(x, timestep, tokens, mask, train=train)

  def read_condition(self, *given: Array, train: bool = False) -> Tokens:
    """Turns the condition arrays of a batch into tokens; see `condition`."""
    assert self.condition is not None
    return self.condition(*given, train=train)

  def _content_tokens(
    self, content: Float[Array, "b h w c"]
  ) -> Float[Array, "b n context_channels"]:
    """Returns a token per position, or square of positions, with its position code."""
    b, h, w, c = content.shape
    pool = self.context_pool
    if h % pool or w % pool:
      raise UserError(
        f"context_pool={pool} does not divide the {h}x{w} positions of the content"
      )
    if pool > 1:
      content = content.reshape(b, h // pool, pool, w // pool, pool, c).mean((2, 4))
    h, w = content.shape[1:3]
    tokens = nn.Dense(self.context_channels, dtype=self.dtype, name="content")(content)
    positions = grid_positions(h, w, self.context_channels)
    return tokens.reshape(b, h * w, -1) + positions
