"""Runs PyTorch's transformer encoder as MAGE puts it together, and keeps what it gives.

    pip install torch==2.13.0
    python tests/benchmarks/word_encoder_reference.py

Writes tests/models/word_encoder_reference.npz: words of different lengths, tokens, and
the shapes of the original's state dict. Random weights are those that
`tests/helpers/random_weights.py` makes from these.
"""

import pathlib
import sys

import numpy as np
import torch
from torch import nn

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "helpers"))

import random_weights  # noqa: E402

WORDS, TOKENS, WIDTH, HEADS, HIDDEN, BLOCKS, FEATURES = 17, 9, 24, 4, 40, 3, 10


class Encoder(nn.Module):
  """Embeddings, PyTorch's own layers, a norm and a projection."""

  def __init__(self):
    super().__init__()
    self.words = nn.Embedding(WORDS, WIDTH, padding_idx=0)
    self.places = nn.Embedding(TOKENS, WIDTH)
    self.norm_in = nn.LayerNorm(WIDTH, eps=1e-8)
    layer = nn.TransformerEncoderLayer(
      WIDTH, HEADS, HIDDEN, dropout=0.1, activation="gelu", batch_first=True
    )
    self.blocks = nn.TransformerEncoder(layer, BLOCKS, enable_nested_tensor=False)
    self.norm_out = nn.LayerNorm(WIDTH)
    self.out = nn.Linear(WIDTH, FEATURES)

  def forward(self, words):
    """Tokens of words, of which 0 is padding."""
    x = self.norm_in(self.words(words) + self.places(torch.arange(words.shape[1])))
    x = self.blocks(x, src_key_padding_mask=words == 0)
    return self.out(self.norm_out(x))


def main():
  """Writes the file."""
  encoder = Encoder().eval()
  state = encoder.state_dict()
  packed = random_weights.pack({k: list(v.shape) for k, v in state.items()})
  arrays = random_weights.random_weights(packed)
  encoder.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})
  mask = np.arange(TOKENS) < np.array([[TOKENS], [3], [6]])
  words = np.random.default_rng(0).integers(1, WORDS, mask.shape) * mask
  with torch.no_grad():
    tokens = encoder(torch.from_numpy(words)).numpy()
  path = TESTS / "models/word_encoder_reference.npz"
  np.savez_compressed(
    path, shapes=packed, words=words.astype(np.int32), tokens=tokens * mask[..., None]
  )
  print(f"{path.name}: {path.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
  main()
