"""Attention over the pixels of an image, to itself and to condition tokens."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lamd_jax.nn.blocks import Norm


class SpatialAttention(nn.Module):
  """Self-attention over all pixels of an image, with a residual.

  The output projection starts at zero, so a fresh layer is the identity.

  Attributes:
    num_heads: Must divide the channels.
    dtype: Of the computation.
  """

  num_heads: int = 1
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Lets every pixel look at every pixel."""
    b, h, w, c = x.shape
    tokens = Norm(dtype=self.dtype, name="norm")(x).reshape(b, h * w, c)
    tokens = nn.MultiHeadDotProductAttention(
      self.num_heads,
      out_kernel_init=nn.initializers.zeros,
      dtype=self.dtype,
      name="attention",
    )(tokens)
    return x + tokens.reshape(b, h, w, c)


class SpatialTransformer(nn.Module):
  """Self-attention, cross-attention to condition tokens, and a gated MLP.

  One block of Rombach et al. 2022 (arXiv:2112.10752), appendix E.2.1, with the
  pixels of an image as tokens. The projection out starts at zero.

  Attributes:
    num_heads: Must divide the channels.
    dtype: Of the computation.
  """

  num_heads: int
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], cond: Float[Array, "b n d"] | None
  ) -> Float[Array, "b h w c"]:
    """Mixes the pixels with each other and with the condition.

    Args:
      x: Features.
      cond: Condition tokens; with None the second attention is to x itself.

    Returns:
      Features of the same shape.
    """
    b, h, w, c = x.shape

    def norm(name):
      return nn.LayerNorm(dtype=self.dtype, name=name)

    def attention(name):
      return nn.MultiHeadDotProductAttention(
        self.num_heads, dtype=self.dtype, name=name
      )

    tokens = Norm(dtype=self.dtype, name="norm")(x).reshape(b, h * w, c)
    tokens = nn.Dense(c, dtype=self.dtype, name="proj_in")(tokens)
    normed = norm("norm_self")(tokens)
    tokens += attention("self_attention")(normed)
    normed = norm("norm_cross")(tokens)
    tokens += attention("cross_attention")(normed, normed if cond is None else cond)
    hidden = nn.Dense(8 * c, dtype=self.dtype, name="mlp_in")(norm("norm_mlp")(tokens))
    hidden, gate = jnp.split(hidden, 2, axis=-1)
    hidden *= nn.gelu(gate, approximate=False)
    tokens += nn.Dense(c, dtype=self.dtype, name="mlp_out")(hidden)
    out = nn.Dense(
      c, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="proj_out"
    )
    return x + out(tokens).reshape(b, h, w, c)
