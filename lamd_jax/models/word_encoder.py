"""Words of a closed vocabulary to condition tokens, trained with who reads them.

The text encoder of MAGE (Hu et al. 2022, arXiv:2112.02815), which LaMD's authors made
before for the same captions: embeddings of words and places, then a transformer with
a norm after each residual. LaMD's paper gives the 512 features of its text alone.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Int

from lamd_jax.models.conditioning import Tokens
from lamd_jax.models.text_encoder import Block

PAD = 0  # The word that fills captions up.
EPSILON = 1e-5


class WordEncoder(nn.Module):
  """A transformer over the words of a caption, about 6.6 M parameters.

  Attributes:
    num_words: Of the vocabulary; words run from 0, padding, to `num_words - 1`.
    features: Of the tokens.
    width: Of the transformer.
    num_blocks: Of the transformer.
    num_heads: Of each block.
    hidden_channels: Of the MLPs.
    dropout_rate: Of embeddings and in the blocks.
  """

  num_words: int
  features: int
  width: int = 512
  num_blocks: int = 2
  num_heads: int = 16
  hidden_channels: int = 2048
  dropout_rate: float = 0.1

  @nn.compact
  def __call__(self, words: Int[Array, "b n"], *, train: bool = False) -> Tokens:
    """Reads captions, all filled up to the length that it is trained with.

    Args:
      words: Numbers of words.
      train: Whether dropout is on.

    Returns:
      A token for each word; those of padding are masked.
    """
    mask = words != PAD
    normal = nn.initializers.normal(0.02)
    embed = nn.Embed(
      self.num_words, self.width, embedding_init=normal, name="word_embedding"
    )
    shape = (words.shape[1], self.width)
    x = embed(words) + self.param("positional_embedding", normal, shape)
    x = nn.LayerNorm(1e-8, name="embedding_norm")(x)
    x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
    for i in range(self.num_blocks):
      block = Block(
        self.num_heads,
        self.hidden_channels,
        EPSILON,
        self.dropout_rate,
        name=f"block_{i}",
      )
      x = block(x, mask, train=train)
    x = nn.LayerNorm(EPSILON, name="norm")(x)
    x = nn.Dense(self.features, name="out")(x)
    return Tokens(x.astype(jnp.float32), mask)
