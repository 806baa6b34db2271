"""BERT's tokenizer with a vocabulary made by the test; ids known by hand."""

import json
import pathlib
import sys
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import tokenizers

from lamd_jax.interop.bert_tokenizer import bert_tokenizer
from lamd_jax.types import UserError

# The number of a word is its place.
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "the", "circle", "move", "##s", "left", ".", "cafe"]
CLS, SEP, UNK = 2, 3, 1


class BertTokenizerTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def write(self, words):
    (self.folder / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")

  def ids(self, text, num_tokens=12):
    tokens = bert_tokenizer(self.folder, num_tokens)([text])
    return tokens.ids[0][tokens.mask[0]].tolist()

  def test_words_and_their_pieces(self):
    self.write(WORDS)
    self.assertEqual(self.ids("The circle moves  LEFT."), [CLS, 5, 6, 7, 8, 9, 10, SEP])
    self.assertEqual(self.ids("caf\N{LATIN SMALL LETTER E WITH ACUTE}"), [CLS, 11, SEP])
    self.assertEqual(self.ids("a square"), [CLS, UNK, UNK, SEP])
    self.assertEqual(self.ids(""), [CLS, SEP])

  def test_all_have_one_length_and_a_mask(self):
    self.write(WORDS)
    ids, mask = bert_tokenizer(self.folder, 5)(["the", "the circle left"])
    self.assertEqual(ids.tolist(), [[CLS, 5, SEP, 0, 0], [CLS, 5, 6, 9, SEP]])
    self.assertEqual(mask.sum(axis=1).tolist(), [3, 5])
    self.assertTrue(mask[0, :3].all())

  def test_no_texts_are_no_rows(self):
    self.write(WORDS)
    ids, mask = bert_tokenizer(self.folder, 5)([])
    self.assertEqual((ids.shape, mask.shape), ((0, 5), (0, 5)))

  def test_what_is_cut_keeps_its_end_and_is_said(self):
    self.write(WORDS)
    tokenize = bert_tokenizer(self.folder, 4)
    with self.assertLogs(level="WARNING") as logs:
      ids, mask = tokenize(["the", "the circle moves left", "the circle left"])
    self.assertEqual(ids[1].tolist(), [CLS, 5, 6, SEP])
    self.assertTrue(mask[1].all())
    self.assertLen(logs.output, 1)
    self.assertRegex(
      logs.output[0],
      "2 of 3 captions have more than 4 .*'the circle moves left'; with 7 tokens none",
    )
    with self.assertNoLogs(level="WARNING"):
      tokenize(["the", "the circle"])

  def test_a_whole_tokenizer_goes_before_and_its_lengths_do_not_count(self):
    tokenizer = tokenizers.BertWordPieceTokenizer({w: i for i, w in enumerate(WORDS)})
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(self.folder / "tokenizer.json"))
    self.write(reversed(WORDS))
    self.assertEqual(self.ids("The circle moves."), [CLS, 5, 6, 7, 8, 10, SEP])
    self.assertEqual(self.ids(""), [CLS, SEP])

  def test_capitals_count_where_the_vocabulary_has_some(self):
    self.write([*WORDS, "The"])
    self.assertEqual(self.ids("The the THE"), [CLS, 12, 5, UNK, SEP])

  @parameterized.parameters((True, [CLS, 5, SEP]), (False, [CLS, UNK, SEP]))
  def test_or_where_the_configuration_says_so(self, is_lower_case, expected):
    self.write([*WORDS, "Circle"] if is_lower_case else WORDS)
    (self.folder / "tokenizer_config.json").write_text(
      json.dumps({"do_lower_case": is_lower_case})
    )
    self.assertEqual(self.ids("THE"), expected)

  def test_without_the_package_it_says_what_to_install(self):
    with (
      mock.patch.dict(sys.modules, tokenizers=None),
      self.assertRaisesRegex(UserError, r"pip install 'lamd-jax\[text\]'"),
    ):
      bert_tokenizer(self.folder, 5)

  def test_missing_and_other_files_are_named(self):
    with self.assertRaisesRegex(UserError, "neither tokenizer.json nor vocab.txt"):
      bert_tokenizer(self.folder, 5)
    self.write(WORDS[len(SPECIAL) :])
    with self.assertRaisesRegex(UserError, "vocab.txt is not a BERT tokenizer"):
      bert_tokenizer(self.folder, 5)
    (self.folder / "tokenizer.json").write_text("{")
    with self.assertRaisesRegex(UserError, "tokenizer.json is not a BERT tokenizer"):
      bert_tokenizer(self.folder, 5)
    tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0, "[UNK]": 1})).save(
      str(self.folder / "tokenizer.json")
    )
    with self.assertRaisesRegex(UserError, "do not begin with .CLS. and end"):
      bert_tokenizer(self.folder, 5)

  def test_too_few_tokens_are_refused(self):
    with self.assertRaisesRegex(UserError, "captions of 2 tokens .* at least 3"):
      bert_tokenizer(self.folder, 2)


if __name__ == "__main__":
  absltest.main()
