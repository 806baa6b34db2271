"""CLIP's tokenizer against OpenAI's, with merges made by the test.

The reference was written by tests/benchmarks/feature_networks_reference.py.
"""

import gzip
import pathlib
import sys
import tempfile
from unittest import mock

from absl.testing import absltest
import clip_merges
import numpy as np

from lamd_jax.interop.clip_tokenizer import clip_tokenizer
from lamd_jax.types import UserError

REFERENCE = pathlib.Path(__file__).with_name("clip_tokenizer_reference.npz")
START, END = 49406, 49407


class ClipTokenizerTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    clip_merges.write(cls.folder / "merges.txt.gz")
    cls.tokenize = staticmethod(clip_tokenizer(cls.folder / "merges.txt.gz"))

  def test_tokens_are_those_of_the_original(self):
    with np.load(REFERENCE) as reference:
      texts, expected = reference["texts"].tolist(), reference["tokens"]
    np.testing.assert_array_equal(self.tokenize(texts), expected)

  def test_a_text_known_by_hand(self):
    # 512 single characters, then the merges by rank; "a" has the number 64 among the
    # characters, and 256 more at the end of a word.
    rank = lambda merge: 512 + clip_merges.ENGLISH.index(merge)
    expected = [START, rank("th e</w>"), rank("ca t</w>"), 64 + 256, END, 0]
    self.assertEqual(self.tokenize(["The CAT a"])[0, :6].tolist(), expected)

  def test_an_empty_text_is_start_and_end(self):
    self.assertEqual(self.tokenize([""])[0, :3].tolist(), [START, END, 0])

  def test_a_text_that_does_not_fit_is_shown(self):
    self.tokenize(["a " * 75])
    with self.assertRaisesRegex(UserError, "has 78 tokens, expected at most 77.*'a a"):
      self.tokenize(["the cat", "a " * 76])

  def test_without_the_package_it_says_what_to_install(self):
    with (
      mock.patch.dict(sys.modules, tokenizers=None),
      self.assertRaisesRegex(UserError, r"pip install 'lamd-jax\[metrics\]'"),
    ):
      clip_tokenizer(self.folder / "merges.txt.gz")

  def test_a_missing_file_says_where_to_get_it(self):
    with self.assertRaisesRegex(UserError, "at /no/such.gz; get https://.*924691ac"):
      clip_tokenizer("/no/such.gz")

  def test_another_file_is_refused(self):
    path = self.folder / "other.gz"
    path.write_bytes(b"not a gzip file")
    with self.assertRaisesRegex(UserError, "not the file of CLIP's merges"):
      clip_tokenizer(path)
    path.write_bytes(gzip.compress(b"title\na b\n"))
    with self.assertRaisesRegex(UserError, "holds 1 merges, expected 48894"):
      clip_tokenizer(path)


if __name__ == "__main__":
  absltest.main()
