"""Word encoder: a closed vocabulary to condition tokens, trained with the generator.

The text encoder of MAGE (Hu et al. 2022, arXiv:2112.02815), an earlier system of LaMD's
authors for the same captions: embeddings of words and positions, then a transformer
with a norm after each residual. LaMD's paper only gives its 512 text features.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Int

from lamd_jax.models.conditioning import Tokens
from lamd_jax.models.text_encoder import Block

PAD = 0  # The padding word.
EPSILON = 1e-5


class WordEncoder(nn.Module):
  """A transformer over the words of a caption, about 6.6 M parameters.

  Attributes:
    num_words: Size of the vocabulary, word 0, padding, included.
    features: Width of the tokens.
    width: Width of the transformer.
    num_blocks: Number of transformer blocks.
    num_heads: Number of attention heads in each block.
    hidden_channels: Width of the MLPs' hidden layers.
    dropout_rate: Dropout rate of the embeddings and in the blocks.
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
    """Encodes captions, all padded to the length used in training.

    Args:
      words: Numbers of words.
      train: Whether dropout is on.

    Returns:
      A token per word; padding is masked.
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
