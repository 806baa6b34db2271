"""The encoder of words beside PyTorch's transformer, with random weights.

The reference was written by tests/benchmarks/word_encoder_reference.py.
"""

import functools
import pathlib

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import random_weights

from lamd_jax.models.word_encoder import WordEncoder

REFERENCE = pathlib.Path(__file__).with_name("word_encoder_reference.npz")
ENCODER = WordEncoder(
  17, 10, width=24, num_blocks=3, num_heads=4, hidden_channels=40, dropout_rate=0.2
)


@functools.cache
def reference():
  with np.load(REFERENCE) as file:
    return dict(file)


@functools.cache
def params():
  """The original's weights under the names of this one."""
  arrays = random_weights.random_weights(reference()["shapes"])

  def norm(name):
    return {"scale": arrays[f"{name}.weight"], "bias": arrays[f"{name}.bias"]}

  def dense(weight, bias):
    return {"kernel": weight.T, "bias": bias}

  def block(name):
    weights, biases = (
      np.split(arrays[f"{name}.self_attn.in_proj_{x}"], 3) for x in ("weight", "bias")
    )
    names = ("query", "key", "value")
    found = {n: dense(w, b) for n, w, b in zip(names, weights, biases, strict=True)}
    for mine, theirs in (
      ("attention_out", "self_attn.out_proj"),
      ("mlp_in", "linear1"),
      ("mlp_out", "linear2"),
    ):
      theirs = f"{name}.{theirs}"
      found[mine] = dense(arrays[f"{theirs}.weight"], arrays[f"{theirs}.bias"])
    return found | {
      "attention_norm": norm(f"{name}.norm1"), "mlp_norm": norm(f"{name}.norm2")
    }  # fmt: skip

  return {
    "word_embedding": {"embedding": arrays["words.weight"]},
    "positional_embedding": arrays["places.weight"],
    "embedding_norm": norm("norm_in"),
    **{f"block_{i}": block(f"blocks.layers.{i}") for i in range(3)},
    "norm": norm("norm_out"),
    "out": dense(arrays["out.weight"], arrays["out.bias"]),
  }


@jax.jit
def encode(words):
  return ENCODER.apply({"params": params()}, words)


@jax.jit
def encode_in_training(words, key):
  run = functools.partial(ENCODER.apply, {"params": params()}, words, train=True)
  return run(rngs={"dropout": key}).values


class WordEncoderTest(absltest.TestCase):
  def test_tokens_are_those_of_the_original(self):
    words = reference()["words"]
    values, mask = encode(words)
    np.testing.assert_array_equal(mask, words > 0)
    np.testing.assert_allclose(
      values * mask[..., None], reference()["tokens"], atol=2e-5
    )

  def test_a_caption_without_words_is_masked_and_finite(self):
    values, mask = encode(jnp.zeros((3, 9), jnp.int32))
    self.assertFalse(mask.any())
    self.assertTrue(np.isfinite(values).all())

  def test_dropout_is_for_training_and_anew_in_each_example(self):
    words = jnp.asarray(reference()["words"][:1].repeat(3, axis=0))
    calm = encode(words).values
    np.testing.assert_array_equal(calm[0], calm[1])
    drawn, again = (encode_in_training(words, jax.random.key(i)) for i in range(2))
    for other in (drawn[1], again[0], calm[0]):
      self.assertGreater(np.abs(drawn[0] - other).max(), 0.1)

  def test_it_has_mages_size(self):
    words = jnp.zeros((1, 38), jnp.int32)
    variables = jax.eval_shape(WordEncoder(50, 512).init, jax.random.key(0), words)
    count = sum(x.size for x in jax.tree.leaves(variables))
    embeddings, layer = (50 + 38) * 512, 4 * 513 * 512 + 513 * 2048 + 2049 * 512
    norms, out = (2 * 2 + 2) * 2 * 512, 513 * 512
    self.assertEqual(count, embeddings + 2 * layer + norms + out)
    self.assertEqual(round(count / 1e6, 1), 6.6)


if __name__ == "__main__":
  absltest.main()
