"""Attention: over the pixels of an image, over frames, and to condition tokens."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from lamd_jax.nn.blocks import Norm
from lamd_jax.types import UserError


def count_heads(channels: int, head_channels: int) -> int:
  """Returns how many heads of a given width `channels` are."""
  if channels % head_channels:
    raise UserError(
      f"head_channels={head_channels} does not divide the {channels} channels that"
      " attention is over; choose a divisor"
    )
  return channels // head_channels


class SpatialAttention(nn.Module):
  """Self-attention over all pixels of an image or of each frame, with a residual.

  The output projection starts at zero, so a fresh layer is the identity.

  Attributes:
    num_heads: Must divide the channels.
    dtype: Of the computation.
    float32_softmax: Whether the softmax is in float32 whatever the dtype.
  """

  num_heads: int = 1
  dtype: DTypeLike | None = None
  float32_softmax: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, "b *f h w c"]) -> Float[Array, "b *f h w c"]:
    """Lets every pixel look at every pixel of the same frame."""
    *frames, h, w, c = x.shape
    tokens = Norm(dtype=self.dtype, name="norm")(x).reshape(*frames, h * w, c)
    tokens = nn.MultiHeadDotProductAttention(
      self.num_heads,
      out_kernel_init=nn.initializers.zeros,
      dtype=self.dtype,
      force_fp32_for_softmax=self.float32_softmax,
      name="attention",
    )(tokens)
    return x + tokens.reshape(x.shape)


class TemporalAttention(nn.Module):
  """Self-attention over frames, one sequence for each pixel, with a residual.

  How far apart two frames are is told by learned vectors, one table for keys and one
  for values, which all heads share (Shaw et al. 2018, arXiv:1803.02155, equations 3
  to 5). The output projection starts at zero, so a fresh layer is the identity.

  Attributes:
    num_heads: Must divide the channels.
    max_frames: Of the clips it is trained on; frames at least as far apart share the
      vectors of the largest distance, `max_frames - 1`.
    dtype: Of the computation; the softmax is in float32.
  """

  num_heads: int
  max_frames: int
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, "b f h w c"], mask: Bool[Array, "f f"] | None = None
  ) -> Float[Array, "b f h w c"]:
    """Mixes information between frames.

    Args:
      x: Features.
      mask: True where the frame of the row may look at the frame of the column; every
        frame must see one at least. None lets all frames see all.

    Returns:
      Features of the same shape.
    """
    b, f, h, w, c = x.shape
    width = c // self.num_heads
    tokens = Norm(dtype=self.dtype, name="norm")(x).reshape(b, f, h * w, c)
    dense = functools.partial(nn.DenseGeneral, dtype=self.dtype)
    query, key, value = (  # b f p heads d, where p are pixels.
      dense((self.num_heads, width), name=name)(tokens)
      for name in ("query", "key", "value")
    )
    farthest = self.max_frames - 1
    distance = jnp.arange(f) - jnp.arange(f)[:, None]
    row = jnp.clip(distance, -farthest, farthest) + farthest

    def relative(name):
      init = nn.initializers.glorot_uniform()
      table = self.param(name, init, (2 * farthest + 1, width), jnp.float32)
      return table.astype(value.dtype)[row]  # f f d

    float32 = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    query /= jnp.sqrt(width).astype(query.dtype)
    logits = float32("bipnd,bjpnd->bpnij", query, key)
    logits += float32("bipnd,ijd->bpnij", query, relative("relative_keys"))
    if mask is not None:
      logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits).astype(value.dtype)
    out = jnp.einsum("bpnij,bjpnd->bipnd", weights, value)
    out += jnp.einsum("bpnij,ijd->bipnd", weights, relative("relative_values"))
    zeros = nn.initializers.zeros
    out = dense(c, axis=(-2, -1), kernel_init=zeros, name="out")(out)
    return x + out.reshape(x.shape)


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
    self,
    x: Float[Array, "b h w c"],
    cond: Float[Array, "b n d"] | None,
    cond_mask: Bool[Array, "b n"] | None = None,
  ) -> Float[Array, "b h w c"]:
    """Mixes the pixels with each other and with the condition.

    Args:
      x: Features.
      cond: Condition tokens; with None the second attention is to x itself.
      cond_mask: False on tokens that nobody looks at, as if they were not there;
        every example must have one at least. None is true on all.

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
    seen = None if cond_mask is None else cond_mask[:, None, None]  # b heads q n
    attended = normed if cond is None else cond
    tokens += attention("cross_attention")(normed, attended, mask=seen)
    hidden = nn.Dense(8 * c, dtype=self.dtype, name="mlp_in")(norm("norm_mlp")(tokens))
    hidden, gate = jnp.split(hidden, 2, axis=-1)
    hidden *= nn.gelu(gate, approximate=False)
    tokens += nn.Dense(c, dtype=self.dtype, name="mlp_out")(hidden)
    out = nn.Dense(
      c, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="proj_out"
    )
    return x + out(tokens).reshape(b, h, w, c)
