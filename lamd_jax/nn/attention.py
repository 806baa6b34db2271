"""Attention: over the pixels of an image, over frames, and to condition tokens."""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from lamd_jax.nn.blocks import MakeNorm, Norm
from lamd_jax.types import UserError


def count_heads(channels: int, head_channels: int, num_heads: int | None = None) -> int:
  """Returns the number of attention heads over `channels`.

  Args:
    channels: Width that attention runs over.
    head_channels: Width of a head.
    num_heads: Number of heads whatever the width, as in Stable Diffusion 1 and LVDM;
      None to count them by `head_channels`.
  """
  if num_heads is not None:
    if channels % num_heads:
      raise UserError(
        f"num_heads={num_heads} does not divide the {channels} channels that attention"
        " is over; choose a divisor"
      )
    return num_heads
  if channels % head_channels:
    raise UserError(
      f"head_channels={head_channels} does not divide the {channels} channels that"
      " attention is over; choose a divisor"
    )
  return channels // head_channels


class Attention(nn.Module):
  """Multi-head attention of tokens to tokens.

  Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.2.

  Attributes:
    num_heads: Number of heads; must divide the channels.
    qkv_bias: Whether query, key and value have a bias; the output always has one.
    dtype: Dtype of the computation.
    float32_softmax: Whether the softmax is in float32 whatever the dtype.
    out_kernel_init: Initializer of the output projection.
  """

  num_heads: int
  qkv_bias: bool = True
  dtype: DTypeLike | None = None
  float32_softmax: bool = False
  out_kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "*b q c"],
    attended: Float[Array, "*b k d"] | None = None,
    mask: Bool[Array, "*b 1 #q k"] | None = None,
  ) -> Float[Array, "*b q c"]:
    """Lets every token of x look at the attended tokens.

    Args:
      x: Tokens that look.
      attended: Tokens that are looked at; None for x itself.
      mask: True where a token of x may look, for all heads alike. None is true
        everywhere.
    """
    c = x.shape[-1]
    count_heads(c, c, self.num_heads)  # Raises if they do not divide.
    attended = x if attended is None else attended
    dense = functools.partial(nn.DenseGeneral, dtype=self.dtype)
    heads = (self.num_heads, c // self.num_heads)
    query, key, value = (  # *b tokens heads d
      dense(heads, use_bias=self.qkv_bias, name=name)(tokens)
      for name, tokens in (("query", x), ("key", attended), ("value", attended))
    )
    out = nn.dot_product_attention(
      query,
      key,
      value,
      mask=mask,
      deterministic=True,
      dtype=self.dtype,
      force_fp32_for_softmax=self.float32_softmax,
    )
    project = dense(c, axis=(-2, -1), kernel_init=self.out_kernel_init, name="out")
    return project(out)


class SpatialAttention(nn.Module):
  """Self-attention over all pixels of an image or of each frame, with a residual.

  The output projection starts at zero, so a fresh layer is the identity.

  Attributes:
    num_heads: Number of heads; must divide the channels.
    dtype: Dtype of the computation.
    float32_softmax: Whether the softmax is in float32 whatever the dtype.
    norm: Constructor of the norm in front.
  """

  num_heads: int = 1
  dtype: DTypeLike | None = None
  float32_softmax: bool = False
  norm: MakeNorm = Norm

  @nn.compact
  def __call__(self, x: Float[Array, "b *f h w c"]) -> Float[Array, "b *f h w c"]:
    """Lets every pixel look at every pixel of the same frame."""
    *frames, h, w, c = x.shape
    tokens = self.norm(dtype=self.dtype, name="norm")(x).reshape(*frames, h * w, c)
    attention = Attention(
      self.num_heads,
      dtype=self.dtype,
      float32_softmax=self.float32_softmax,
      out_kernel_init=nn.initializers.zeros,
      name="attention",
    )
    return x + attention(tokens).reshape(x.shape)


class TemporalAttention(nn.Module):
  """Self-attention over frames, one sequence for each pixel, with a residual.

  Learned vectors encode the distance between two frames, in one table for keys and one
  for values, shared by all heads (Shaw et al. 2018, arXiv:1803.02155, equations 3 to
  5). The output projection starts at zero, so a fresh layer is the identity.

  Attributes:
    num_heads: Number of heads; must divide the channels.
    max_frames: Length of the clips in training; frames farther apart than in those
      share the vectors of the largest distance, `max_frames - 1`.
    dtype: Dtype of the computation; the softmax is in float32.
    norm: Constructor of the norm in front; LVDM's is over "time".
  """

  num_heads: int
  max_frames: int
  dtype: DTypeLike | None = None
  norm: MakeNorm = Norm

  @nn.compact
  def __call__(
    self, x: Float[Array, "b f h w c"], mask: Bool[Array, "f f"] | None = None
  ) -> Float[Array, "b f h w c"]:
    """Mixes information between frames.

    Args:
      x: Input features.
      mask: True where the frame of the row may look at the frame of the column; every
        frame must see at least one. None lets every frame see all.

    Returns:
      Output features, in the shape of x.
    """
    b, f, h, w, c = x.shape
    width = c // self.num_heads
    tokens = self.norm(dtype=self.dtype, name="norm")(x).reshape(b, f, h * w, c)
    dense = functools.partial(nn.DenseGeneral, dtype=self.dtype)
    query, key, value = (  # b f p heads d, with p pixels.
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

  Stable Diffusion has `qkv_bias=False`, a norm of 32 groups and `norm_epsilon=1e-5`.

  Attributes:
    num_heads: Number of heads; must divide the channels (see `count_heads`).
    dtype: Dtype of the computation.
    qkv_bias: Whether query, key and value have a bias.
    norm: Constructor of the group norm in front.
    norm_epsilon: Added to the variance by the layer norms.
    temporal: Module or function that maps the tokens `b n c`, with any further arrays
      of the call, to tokens just before the projection out: there Stable Video
      Diffusion mixes frames. The parameters of a module made with `parent=None` lie
      under `temporal`.
  """

  num_heads: int
  dtype: DTypeLike | None = None
  qkv_bias: bool = True
  norm: MakeNorm = Norm
  norm_epsilon: float = 1e-6
  temporal: Callable[..., Array] | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b h w c"],
    cond: Float[Array, "b n d"] | None,
    cond_mask: Bool[Array, "b n"] | None = None,
    *for_temporal: Array | None,
  ) -> Float[Array, "b h w c"]:
    """Mixes the pixels with each other and with the condition.

    Args:
      x: Input features.
      cond: Condition tokens; None makes the second attention one to x itself.
      cond_mask: False on tokens to leave out; every example needs at least one. None
        is true everywhere.
      *for_temporal: Further arguments of `temporal`.

    Returns:
      Output features, in the shape of x.
    """
    b, h, w, c = x.shape

    def norm(name):
      return nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name=name)

    def attention(name):
      return Attention(self.num_heads, self.qkv_bias, self.dtype, name=name)

    tokens = self.norm(dtype=self.dtype, name="norm")(x).reshape(b, h * w, c)
    tokens = nn.Dense(c, dtype=self.dtype, name="proj_in")(tokens)
    normed = norm("norm_self")(tokens)
    tokens += attention("self_attention")(normed)
    normed = norm("norm_cross")(tokens)
    seen = None if cond_mask is None else cond_mask[:, None, None]  # b heads q n
    attended = normed if cond is None else cond
    tokens += attention("cross_attention")(normed, attended, seen)
    hidden = nn.Dense(8 * c, dtype=self.dtype, name="mlp_in")(norm("norm_mlp")(tokens))
    hidden, gate = jnp.split(hidden, 2, axis=-1)
    hidden *= nn.gelu(gate, approximate=False)
    tokens += nn.Dense(c, dtype=self.dtype, name="mlp_out")(hidden)
    if self.temporal is not None:
      tokens = self.temporal(tokens, *for_temporal)
    out = nn.Dense(
      c, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="proj_out"
    )
    return x + out(tokens).reshape(b, h, w, c)
