"""BERT: an embedding for each token of a text (Devlin et al. 2018, arXiv:1810.04805).

Any size, with the weights and names of Hugging Face's `BertModel`: BERT-large, which
conditions Video Diffusion Models (Ho et al. 2022), and the small MiniLM, which has the
same layers. BERT is only evaluated here: no dropout, no pooler, no pre-training heads.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from lamd_jax.types import Params, UserError

# Number of heads by width, without a config.json: MiniLM (heads of 32 channels),
# BERT-base and BERT-large (64). The arrays do not reveal it.
PUBLISHED_HEADS = {384: 12, 768: 12, 1024: 16}
# Values of `config.json` that this module supports.
_ONLY = {
  "model_type": "bert",
  "hidden_act": "gelu",
  "position_embedding_type": "absolute",
}
# Buffers in old files: the numbers from 0 on, and zeros.
_BUFFERS = {"embeddings.position_ids", "embeddings.token_type_ids"}


class Block(nn.Module):
  """Self-attention and an MLP, each with a residual and a norm after it.

  Attributes:
    num_heads: Number of attention heads; must divide the channels.
    hidden_channels: Width of the MLP's hidden layer.
    epsilon: Added to the variance by the layer norms.
    dropout_rate: Dropout rate of attention weights, hidden values and both residual
      branches.
  """

  num_heads: int
  hidden_channels: int
  epsilon: float
  dropout_rate: float = 0.0

  @nn.compact
  def __call__(
    self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], *, train: bool = False
  ) -> Float[Array, "b n d"]:
    """Mixes the tokens; none looks where the mask is false."""
    width = x.shape[-1]
    drops = train and self.dropout_rate > 0
    drop = nn.Dropout(self.dropout_rate, deterministic=not drops)
    heads = (*x.shape[:-1], self.num_heads, width // self.num_heads)
    query, key, value = (
      nn.Dense(width, name=name)(x).reshape(heads)  # b n heads d
      for name in ("query", "key", "value")
    )
    seen = mask[:, None, None, :]  # b heads n n, alike for all heads and tokens.
    h = nn.dot_product_attention(
      query,
      key,
      value,
      mask=seen,
      broadcast_dropout=False,
      dropout_rng=self.make_rng("dropout") if drops else None,
      dropout_rate=self.dropout_rate,
      deterministic=not drops,
    )
    h = nn.Dense(width, name="attention_out")(h.reshape(x.shape))
    x = _norm(self.epsilon, "attention_norm")(x + drop(h))
    h = nn.Dense(self.hidden_channels, name="mlp_in")(x)
    h = drop(nn.gelu(h, approximate=False))
    h = nn.Dense(width, name="mlp_out")(h)
    return _norm(self.epsilon, "mlp_norm")(x + drop(h))


class BERT(nn.Module):
  """A transformer that sees a whole text at once.

  Attributes:
    vocabulary: Number of tokens in the vocabulary.
    max_tokens: Length of the longest text, padding included.
    width: Width of the embeddings.
    num_blocks: Number of transformer blocks.
    num_heads: Number of attention heads in each block.
    hidden_channels: Width of the MLPs' hidden layers.
    epsilon: Added to the variance by the layer norms.
  """

  vocabulary: int
  max_tokens: int
  width: int
  num_blocks: int
  num_heads: int
  hidden_channels: int
  epsilon: float = 1e-12

  @nn.compact
  def __call__(
    self, tokens: Int[Array, "b n"], mask: Bool[Array, "b n"]
  ) -> Float[Array, "b n d"]:
    """Returns the embeddings of tokens: the hidden states after the last block.

    Args:
      tokens: Texts, each with its start and end tokens.
      mask: True on tokens, False on padding. Embeddings of padding are meaningless.
    """
    num_tokens = tokens.shape[1]
    if num_tokens > self.max_tokens:
      raise UserError(
        f"texts of {num_tokens} tokens were given to a text encoder for at most"
        f" {self.max_tokens}; ask for fewer tokens"
      )
    normal = nn.initializers.normal(0.02)
    shape = (self.max_tokens, self.width)
    x = nn.Embed(self.vocabulary, self.width, name="token_embedding")(tokens)
    x += self.param("positional_embedding", normal, shape)[:num_tokens]
    x += self.param("type_embedding", normal, (self.width,))
    x = _norm(self.epsilon, "embedding_norm")(x)
    for i in range(self.num_blocks):
      block = Block(
        self.num_heads, self.hidden_channels, self.epsilon, name=f"block_{i}"
      )
      x = block(x, mask)
    return x


def _norm(epsilon: float, name: str) -> nn.LayerNorm:
  # The fast variance is too inaccurate to compare with the original.
  return nn.LayerNorm(epsilon, use_fast_variance=False, name=name)


def from_huggingface(
  arrays: Mapping[str, np.ndarray], config: Mapping[str, Any] | None = None
) -> tuple[BERT, Params]:
  """Reads the network and its parameters from the state dict of a BERT.

  Names may begin with `bert.`, and norms may have `gamma` and `beta` as in the files of
  the first BERTs. The pooler, the heads of pre-training and the embedding of second
  texts are left out.

  Args:
    arrays: Arrays of any float type by name, such as
      `encoder.layer.0.attention.self.query.weight`. All sizes but the number of heads
      are read from them.
    config: Contents of the `config.json` next to the weights, for the number of heads
      and the epsilon of the norms; None takes those of the published network of this
      width.

  Raises:
    UserError: Arrays are missing, or belong to another network than BERT.
  """
  config = config or {}
  for key, expected in _ONLY.items():
    if (given := config.get(key, expected)) != expected:
      raise UserError(
        f"the text encoder's configuration says {key}: {given!r}, expected"
        f" {expected!r}; give a BERT, such as bert-large-uncased"
      )
  prefix = "bert." if any(name.startswith("bert.") for name in arrays) else ""
  used = set()

  def find(*names):
    for name in names:
      if prefix + name in arrays:
        used.add(prefix + name)
        return jnp.asarray(np.asarray(arrays[prefix + name], np.float32))
    raise UserError(
      f"these are no weights of a BERT: {prefix}{names[0]} is missing among"
      f" {len(arrays)} arrays; give those of Hugging Face's BertModel"
    )

  def dense(name):
    return {"kernel": find(f"{name}.weight").T, "bias": find(f"{name}.bias")}

  def norm(name):
    name += ".LayerNorm."
    scale, bias = (
      find(f"{name}weight", f"{name}gamma"),
      find(f"{name}bias", f"{name}beta"),
    )
    return {"scale": scale, "bias": bias}

  def block(i):
    name = f"encoder.layer.{i}."
    return {
      "query": dense(f"{name}attention.self.query"),
      "key": dense(f"{name}attention.self.key"),
      "value": dense(f"{name}attention.self.value"),
      "attention_out": dense(f"{name}attention.output.dense"),
      "attention_norm": norm(f"{name}attention.output"),
      "mlp_in": dense(f"{name}intermediate.dense"),
      "mlp_out": dense(f"{name}output.dense"),
      "mlp_norm": norm(f"{name}output"),
    }

  layers = f"{prefix}encoder.layer."
  names = (name.removeprefix(layers) for name in arrays if name.startswith(layers))
  # At least one, so that the arrays of other networks are reported as missing.
  num_blocks = max(1, len({name.partition(".")[0] for name in names}))
  words = find("embeddings.word_embeddings.weight")
  positions = find("embeddings.position_embeddings.weight")
  params = {
    "token_embedding": {"embedding": words},
    "positional_embedding": positions,
    "type_embedding": find("embeddings.token_type_embeddings.weight")[0],
    "embedding_norm": norm("embeddings"),
    **{f"block_{i}": block(i) for i in range(num_blocks)},
  }
  network = BERT(
    vocabulary=len(words),
    max_tokens=len(positions),
    width=words.shape[1],
    num_blocks=num_blocks,
    num_heads=_num_heads(config, words.shape[1]),
    hidden_channels=params["block_0"]["mlp_in"]["bias"].size,
    epsilon=config.get("layer_norm_eps", 1e-12),
  )
  _check_left_out(arrays.keys() - used, prefix)
  return network, {"params": params}


def _num_heads(config: Mapping[str, Any], width: int) -> int:
  found = config.get("num_attention_heads", PUBLISHED_HEADS.get(width))
  if found is None:
    raise UserError(
      f"the number of attention heads of a text encoder of width {width} cannot be read"
      " from its weights; put its config.json, with num_attention_heads, next to them"
    )
  if width % found:
    raise UserError(
      f"num_attention_heads is {found}, expected a divisor of the width, {width}: the"
      " config.json belongs to other weights"
    )
  return found


def _check_left_out(names: set[str], prefix: str) -> None:
  """Raises UserError on unused arrays inside the transformer: they would matter."""
  for name in sorted(names):
    inside = name.removeprefix(prefix)
    if inside.startswith(("embeddings.", "encoder.")) and inside not in _BUFFERS:
      raise UserError(
        f"the array {name} is not part of BERT: the weights belong to another network"
        " or hold adapters; give those of Hugging Face's BertModel"
      )
