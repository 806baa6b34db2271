"""Conditions: class labels and captions, as vectors or tokens, and their dropout.

A condition vector is `b d`, or `b f d` with one per frame, for `UNet3D` to add to its
embedding of the noise level; zeros are the null condition (Ho et al. 2022,
arXiv:2204.03458, section 3: c = 0). `Tokens` are for networks that attend to their
condition, such as `DMG`; masked tokens are the null condition. Both null conditions are
equivalent to no condition at all; `drop` and `drop_tokens` apply them, for
classifier-free guidance.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lamd_jax.nn.attention import count_heads


class Tokens(NamedTuple):
  """Condition in the form of tokens, to attend to.

  Attributes:
    values: Vector of each token.
    mask: False on tokens to leave out.
  """

  values: Float[Array, "b n d"]
  mask: Bool[Array, "b n"]


class ClassCondition(nn.Module):
  """A learned vector for each class.

  Attributes:
    num_classes: Number of classes; labels run from 0, and others give NaN.
    features: Width of the vectors.
  """

  num_classes: int
  features: int

  @nn.compact
  def __call__(self, labels: Int[Array, " b *f"]) -> Float[Array, "b *f d"]:
    """Looks up the vectors."""
    return nn.Embed(self.num_classes, self.features, name="table")(labels)


class CaptionCondition(nn.Module):
  """Attention pooling: one learned query looks at all tokens of a caption.

  The paper pools the token embeddings of BERT-large this way and gives no details; here
  a norm and a projection follow. A caption without tokens is the null condition.

  Attributes:
    features: Width of the vectors.
    head_channels: Width of an attention head; must divide the width of the tokens.
    dtype: Dtype of the computation; the softmax is in float32.
  """

  features: int
  head_channels: int = 64
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, tokens: Float[Array, "b *f n d"], mask: Bool[Array, "b *f n"]
  ) -> Float[Array, "b *f features"]:
    """Pools the tokens.

    Args:
      tokens: Embeddings of the tokens, from any text encoder.
      mask: True on tokens, False on padding.
    """
    width = tokens.shape[-1]
    query = self.param("query", nn.initializers.normal(1.0), (width,), jnp.float32)
    pool = nn.MultiHeadDotProductAttention(
      count_heads(width, self.head_channels),
      dtype=self.dtype,
      force_fp32_for_softmax=True,
      name="attention",
    )
    # One query, and a mask for all heads: b *f 1 d and b *f heads 1 n.
    query = jnp.broadcast_to(query, (*tokens.shape[:-2], 1, width))
    pooled = pool(query, tokens, mask=mask[..., None, None, :])[..., 0, :]
    pooled = nn.LayerNorm(dtype=self.dtype, name="norm")(pooled)
    cond = nn.Dense(self.features, dtype=self.dtype, name="out")(pooled)
    return drop(cond.astype(jnp.float32), ~mask.any(axis=-1))


Condition = ClassCondition | CaptionCondition


class ClassToken(nn.Module):
  """A learned token for each class.

  Attributes:
    num_classes: Number of classes; labels run from 0, and others give NaN.
    features: Width of the tokens.
  """

  num_classes: int
  features: int

  @nn.compact
  def __call__(self, labels: Int[Array, " b"], *, train: bool = False) -> Tokens:
    """Looks up the tokens."""
    del train
    values = nn.Embed(self.num_classes, self.features, name="table")(labels)[:, None]
    return Tokens(values, jnp.ones(values.shape[:2], bool))


class CaptionTokens(nn.Module):
  """Projection of the tokens of a frozen text encoder.

  Attributes:
    features: Width of the tokens.
  """

  features: int

  @nn.compact
  def __call__(
    self,
    tokens: Float[Array, "b n d"],
    mask: Bool[Array, "b n"],
    *,
    train: bool = False,
  ) -> Tokens:
    """Projects embeddings; padding stays masked."""
    del train
    values = nn.Dense(self.features, name="out")(tokens.astype(jnp.float32))
    return Tokens(values, mask)


def drop(
  cond: Float[Array, "b d"] | Float[Array, "b f d"],
  is_null: Bool[Array, " b"] | Bool[Array, "b f"],
) -> Float[Array, "b *f d"]:
  """Returns the condition with zeros where `is_null`, per example or per frame.

  The result has a frame axis if either argument has one.
  """
  if is_null.ndim + 1 > cond.ndim:
    cond = cond[:, None]
  is_null = is_null.reshape(is_null.shape + (1,) * (cond.ndim - is_null.ndim))
  return jnp.where(is_null, 0.0, cond)


def drop_tokens(cond: Tokens, is_null: Bool[Array, " b"]) -> Tokens:
  """Returns the condition with all tokens masked where `is_null`."""
  return Tokens(cond.values, cond.mask & ~is_null[:, None])


def per_frame(
  video: Float[Array, "b d"], images: Float[Array, "b m d"], num_frames: int
) -> Float[Array, "b f d"]:
  """Returns the condition of each frame of a video, then of each image after it.

  Args:
    video: Condition of the video.
    images: Condition of each image.
    num_frames: Number of frames of the video.
  """
  b, d = video.shape
  video = jnp.broadcast_to(video[:, None], (b, num_frames, d))
  return jnp.concatenate([video, images], axis=1)
