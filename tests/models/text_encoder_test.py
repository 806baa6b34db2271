"""BERT against Hugging Face's, with random weights in its layout.

The reference was written by tests/benchmarks/text_encoder_reference.py.
"""

import functools
import pathlib

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import random_weights

from lamd_jax.models import text_encoder
from lamd_jax.types import UserError

REFERENCE = pathlib.Path(__file__).with_name("text_encoder_reference.npz")
CONFIG = {
  "model_type": "bert",
  "num_attention_heads": 4,
  "layer_norm_eps": 1e-3,
  "hidden_act": "gelu",
}


@functools.cache
def reference():
  with np.load(REFERENCE) as file:
    return dict(file)


@functools.cache
def arrays():
  return random_weights.random_weights(reference()["shapes"])


@functools.cache
def network():
  return text_encoder.from_huggingface(arrays(), CONFIG)


@jax.jit
def run(params, tokens, mask):
  return network()[0].apply(params, tokens, mask)


def encode(tokens, mask):
  return np.asarray(run(network()[1], jnp.asarray(tokens), jnp.asarray(mask)))


def assert_same_params(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


class TextEncoderTest(parameterized.TestCase):
  def test_sizes_are_read_from_the_arrays(self):
    self.assertEqual(
      network()[0],
      text_encoder.BERT(
        vocabulary=50,
        max_tokens=12,
        width=24,
        num_blocks=3,
        num_heads=4,
        hidden_channels=40,
        epsilon=1e-3,
      ),
    )

  def test_bert_large_has_its_size(self):
    large = text_encoder.BERT(30522, 512, 1024, 24, 16, 4096)
    inputs = jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    variables = jax.eval_shape(large.init, jax.random.key(0), *inputs)
    count = sum(x.size for x in jax.tree.leaves(variables))
    # The original also has a pooler and the type of second texts.
    self.assertEqual(count + 1024 * 1025 + 1024, 335_141_888)

  def test_embeddings_are_those_of_the_original(self):
    y = encode(reference()["tokens"], reference()["mask"])
    expected = reference()["hidden"]
    self.assertEqual(y.dtype, np.float32)
    self.assertLess(np.abs(y - expected).max() / np.abs(expected).max(), 1e-5)

  def test_more_padding_changes_nothing(self):
    tokens, mask = reference()["tokens"], reference()["mask"]
    y = encode(tokens, mask)
    longer = [(0, 0), (0, 3)]
    padded = encode(np.pad(tokens, longer, constant_values=7), np.pad(mask, longer))
    np.testing.assert_allclose(padded[:, :9][mask], y[mask], atol=1e-5)

  def test_what_is_masked_changes_nothing_and_all_else_does(self):
    tokens, mask = reference()["tokens"], reference()["mask"]
    moved = np.where(mask, tokens, 7)
    y = encode(tokens, mask)
    np.testing.assert_allclose(encode(moved, mask)[mask], y[mask], atol=1e-5)
    for place in range(5):  # The third text has so many.
      moved = tokens.copy()
      moved[2, place] = 50 - tokens[2, place]
      by = np.abs(encode(moved, mask) - y).max(axis=2)
      self.assertGreater(by[2, :5].min(), 1e-4)
      np.testing.assert_allclose(by[:2], 0, atol=1e-5)

  def test_names_with_a_prefix_next_to_heads_are_the_same(self):
    full = {f"bert.{name}": x for name, x in arrays().items()}
    full["cls.predictions.bias"] = np.zeros(50, np.float32)
    full["bert.embeddings.position_ids"] = np.arange(12)[None]
    assert_same_params(text_encoder.from_huggingface(full, CONFIG)[1], network()[1])

  def test_norms_with_the_names_of_the_first_files_are_the_same(self):
    old = {
      name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
        "LayerNorm.bias", "LayerNorm.beta"
      ): x
      for name, x in arrays().items()
    }
    assert_same_params(text_encoder.from_huggingface(old, CONFIG)[1], network()[1])

  def test_weights_in_half_precision_are_read(self):
    half = {k: v.astype(np.float16) for k, v in arrays().items()}
    _, params = text_encoder.from_huggingface(half, CONFIG)
    self.assertEqual({x.dtype for x in jax.tree.leaves(params)}, {jnp.dtype("float32")})

  @parameterized.parameters(
    "embeddings.word_embeddings.weight",
    "embeddings.LayerNorm.weight",
    "encoder.layer.0.attention.self.query.weight",
    "encoder.layer.2.output.dense.bias",
  )
  def test_a_missing_array_is_named(self, name):
    some = {k: v for k, v in arrays().items() if k != name}
    with self.assertRaisesRegex(UserError, f"{name} is missing among .*BertModel"):
      text_encoder.from_huggingface(some, CONFIG)

  def test_other_networks_are_refused(self):
    with self.assertRaisesRegex(UserError, "embeddings.weight is missing among 1 arr"):
      text_encoder.from_huggingface({"shared.weight": np.zeros((3, 2))})
    adapted = arrays() | {"encoder.layer.0.attention.self.query.lora_A": np.zeros(3)}
    with self.assertRaisesRegex(UserError, "query.lora_A is not part of BERT"):
      text_encoder.from_huggingface(adapted, CONFIG)
    for key, value in (
      ("model_type", "roberta"),
      ("hidden_act", "gelu_new"),
      ("position_embedding_type", "relative_key"),
    ):
      with self.assertRaisesRegex(UserError, f"says {key}: '{value}', expected '"):
        text_encoder.from_huggingface(arrays(), CONFIG | {key: value})

  def test_heads_are_known_or_asked_for(self):
    with self.assertRaisesRegex(UserError, "text encoder of width 24 .*config"):
      text_encoder.from_huggingface(arrays())
    with self.assertRaisesRegex(UserError, "is 5, expected a divisor of the width, 24"):
      text_encoder.from_huggingface(arrays(), CONFIG | {"num_attention_heads": 5})
    minilm = {
      k: np.zeros([384 if n == 24 else n for n in v.shape], np.float32)
      for k, v in arrays().items()
    }
    found, _ = text_encoder.from_huggingface(minilm)
    self.assertEqual((found.num_heads, found.epsilon), (12, 1e-12))

  def test_a_text_longer_than_the_positions_is_refused(self):
    with self.assertRaisesRegex(UserError, "13 tokens were given .* at most 12"):
      encode(np.ones((1, 13), np.int32), np.ones((1, 13), bool))


if __name__ == "__main__":
  absltest.main()
