"""CLIP: images and texts in one feature space (Radford et al. 2021, arXiv:2103.00020).

The variants whose image encoder is a vision transformer, with the weights and names of
OpenAI's package `clip`. CLIPSIM uses ViT-B/32. CLIP is only evaluated here: no dropout,
no temperature.
"""

from collections.abc import Mapping
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from lamd_jax.types import Params, UserError

HEAD_CHANNELS = 64  # Width of every attention head, in all variants.
_EPSILON = 1e-5  # Added to the variance by the layer norms.


class Block(nn.Module):
  """Self-attention and an MLP, each after a norm and with a residual.

  Attributes:
    is_causal: Whether tokens see only themselves and earlier ones.
  """

  is_causal: bool

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Mixes the tokens."""
    width = x.shape[-1]
    heads = (*x.shape[:-1], width // HEAD_CHANNELS, HEAD_CHANNELS)
    h = nn.Dense(3 * width, name="qkv")(nn.LayerNorm(_EPSILON, name="ln_1")(x))
    query, key, value = (part.reshape(heads) for part in jnp.split(h, 3, axis=-1))
    # b n heads d
    h = jax.nn.dot_product_attention(query, key, value, is_causal=self.is_causal)
    x += nn.Dense(width, name="out")(h.reshape(x.shape))
    h = nn.Dense(4 * width, name="c_fc")(nn.LayerNorm(_EPSILON, name="ln_2")(x))
    h *= nn.sigmoid(1.702 * h)  # The approximation of GELU that CLIP was trained with.
    return x + nn.Dense(width, name="c_proj")(h)


class ImageEncoder(nn.Module):
  """A vision transformer with a class token.

  Attributes:
    patch_size: Height and width of a patch, in pixels.
    width: Width of the tokens.
    num_blocks: Number of transformer blocks.
    features: Number of output features.
  """

  patch_size: int
  width: int
  num_blocks: int
  features: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
    """Returns the features of images."""
    normal = nn.initializers.normal(self.width**-0.5)
    patch = (self.patch_size, self.patch_size)
    x = nn.Conv(self.width, patch, patch, "VALID", use_bias=False, name="conv1")(x)
    x = x.reshape(x.shape[0], -1, self.width)  # b n d
    token = self.param("class_embedding", normal, (self.width,))
    token = jnp.broadcast_to(token, (x.shape[0], 1, self.width))
    x = jnp.concatenate([token, x], axis=1)
    x += self.param("positional_embedding", normal, x.shape[1:])
    x = nn.LayerNorm(_EPSILON, name="ln_pre")(x)
    for i in range(self.num_blocks):
      x = Block(is_causal=False, name=f"block_{i}")(x)
    x = nn.LayerNorm(_EPSILON, name="ln_post")(x[:, 0])
    return nn.Dense(self.features, use_bias=False, name="proj")(x)


class TextEncoder(nn.Module):
  """A causal transformer.

  Attributes:
    vocabulary: Number of tokens in the vocabulary.
    width: Width of the tokens.
    num_blocks: Number of transformer blocks.
    features: Number of output features.
  """

  vocabulary: int
  width: int
  num_blocks: int
  features: int

  @nn.compact
  def __call__(self, tokens: Int[Array, "b n"]) -> Float[Array, "b d"]:
    """Returns the features of texts, read at their end token."""
    normal = nn.initializers.normal(0.02)
    x = nn.Embed(self.vocabulary, self.width, name="token_embedding")(tokens)
    x += self.param("positional_embedding", normal, x.shape[1:])
    for i in range(self.num_blocks):
      x = Block(is_causal=True, name=f"block_{i}")(x)
    # The end token is the last of the vocabulary, so the largest number in each row.
    end = jnp.argmax(tokens, axis=-1)
    x = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
    x = nn.LayerNorm(_EPSILON, name="ln_final")(x)
    return nn.Dense(self.features, use_bias=False, name="text_projection")(x)


class CLIP(nn.Module):
  """Both encoders; the cosine of their features says how well image and text match.

  Attributes:
    image_size: Height and width of images, in pixels.
    text_length: Number of tokens of a text, padding included.
    image: Encoder of images.
    text: Encoder of texts.
  """

  image_size: int
  text_length: int
  image: ImageEncoder
  text: TextEncoder

  def encode_image(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
    """Returns the features of images, not normalized.

    Args:
      x: Images of `image_size`, normalized as in `metrics.frame_features`.
    """
    return self.image(x)

  def encode_text(self, tokens: Int[Array, "b n"]) -> Float[Array, "b d"]:
    """Returns the features of texts, not normalized.

    Args:
      tokens: Start, text, end, zeros, as from `interop.clip_tokenizer`.
    """
    return self.text(tokens)


def from_openai(arrays: Mapping[str, np.ndarray]) -> tuple[CLIP, Params]:
  """Reads the network and its parameters from the state dict of OpenAI's `clip`.

  Files of `open_clip` have the same names, but most of its networks were trained with
  the exact GELU, which the arrays do not reveal: use OpenAI's own weights only.

  Args:
    arrays: Arrays of any float type by name, such as
      `visual.transformer.resblocks.0.attn.in_proj_weight`. The network's sizes are read
      from them.

  Raises:
    UserError: Arrays are missing.
  """

  def array(name):
    if name not in arrays:
      raise UserError(
        f"these are no weights of a CLIP with a vision transformer: {name} is missing"
        f" among {len(arrays)} arrays; give those of OpenAI's ViT-B/32"
      )
    return jnp.asarray(np.asarray(arrays[name], np.float32))

  def dense(name):
    kernel = array(f"{name}weight").T  # o c -> c o
    return {"kernel": kernel, "bias": array(f"{name}bias")}

  def norm(name):
    return {"scale": array(f"{name}.weight"), "bias": array(f"{name}.bias")}

  def blocks(prefix):
    prefix += "transformer.resblocks."
    names = [name for name in arrays if name.startswith(prefix)]
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in names}
    return {
      f"block_{i}": {
        "ln_1": norm(f"{prefix}{i}.ln_1"),
        "qkv": dense(f"{prefix}{i}.attn.in_proj_"),
        "out": dense(f"{prefix}{i}.attn.out_proj."),
        "ln_2": norm(f"{prefix}{i}.ln_2"),
        "c_fc": dense(f"{prefix}{i}.mlp.c_fc."),
        "c_proj": dense(f"{prefix}{i}.mlp.c_proj."),
      }
      for i in range(len(numbers))
    }

  image_blocks, text_blocks = blocks("visual."), blocks("")
  conv = array("visual.conv1.weight").transpose(2, 3, 1, 0)  # o c h w -> h w c o
  image = {
    "conv1": {"kernel": conv},
    "class_embedding": array("visual.class_embedding"),
    "positional_embedding": array("visual.positional_embedding"),
    "ln_pre": norm("visual.ln_pre"),
    **image_blocks,
    "ln_post": norm("visual.ln_post"),
    "proj": {"kernel": array("visual.proj")},
  }
  text = {
    "token_embedding": {"embedding": array("token_embedding.weight")},
    "positional_embedding": array("positional_embedding"),
    **text_blocks,
    "ln_final": norm("ln_final"),
    "text_projection": {"kernel": array("text_projection")},
  }
  patch_size, _, _, image_width = conv.shape
  text_length, text_width = text["positional_embedding"].shape
  patches = len(image["positional_embedding"]) - 1  # All but the class token.
  features = image["proj"]["kernel"].shape[1]
  clip = CLIP(
    math.isqrt(patches) * patch_size,
    text_length,
    ImageEncoder(patch_size, image_width, len(image_blocks), features),
    TextEncoder(
      len(text["token_embedding"]["embedding"]), text_width, len(text_blocks), features
    ),
  )
  return clip, {"params": {"image": image, "text": text}}
