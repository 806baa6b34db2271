"""Closed vocabularies: MAGE's numbers, every caption there is, and named mistakes."""

from absl.testing import absltest, parameterized
import numpy as np
from video_fixtures import FolderTestCase

from lamd_jax.data import shapes, vocabulary
from lamd_jax.types import UserError

SMALL = vocabulary.Vocabulary((*vocabulary.SPECIAL, "cone", "slides", "-1", "."), 6)


class SplitTest(parameterized.TestCase):
  @parameterized.parameters(
    ("The cone is rotating.", "the cone is rotating ."),
    # What NLTK's word_tokenize gives.
    ("the cone is sliding to (-1, 2). the", "the cone is sliding to ( -1 , 2 ) . the"),
    ("to the first quadrant.The end", "to the first quadrant . the end"),
    ("a t-shirt, isn't it?", "a t-shirt , isn't it ?"),
    ("3-1 -12 - 4", "3-1 -12 - 4"),
    (" \n", ""),
  )
  def test_words_and_marks_come_apart(self, text, expected):
    self.assertEqual(vocabulary.split_words(text), expected.split())


class EncodeTest(FolderTestCase):
  def test_a_caption_is_its_numbers_between_1_and_2_filled_up_with_0(self):
    numbers = SMALL.encode(["Cone slides -1.", "slides", ""])
    self.assertEqual(numbers.dtype, np.int32)
    self.assertEqual(
      numbers.tolist(),
      [[1, 3, 4, 5, 6, 2], [1, 4, 2, 0, 0, 0], [1, 2, 0, 0, 0, 0]],
    )
    self.assertEqual(SMALL.encode([]).shape, (0, 6))

  @parameterized.parameters(("cater_gen_v1", 30, 32), ("cater_gen_v2", 50, 38))
  def test_those_of_cater_gen_have_the_sizes_of_mage(self, name, num_words, num_tokens):
    words, length = vocabulary.VOCABULARIES[name].words, 0
    self.assertLen(words, num_words)
    self.assertEqual(words[:3], ("[PAD]", "[CLS]", "[SEP]"))
    # Two of the longest sentences its generator writes.
    subject = dict(
      cater_gen_v1="the cone", cater_gen_v2="the medium purple rubber cylinder"
    )[name]
    text = f"{subject} is picked up and placed to (-3, -1)."
    for texts in ([f"{text} {text}"], ["the cone is rotating. the snitch is sliding."]):
      numbers = vocabulary.VOCABULARIES[name].encode(texts)
      self.assertEqual(numbers.shape, (1, num_tokens))
      length = max(length, int((numbers > 0).sum()))
    self.assertLen(vocabulary.split_words(text) * 2, length - 2)

  @parameterized.parameters(
    ("cater_gen_v1", "[CLS] the snitch is rotating . [SEP]", [1, 3, 5, 6, 11, 24, 2]),
    ("cater_gen_v1", "[CLS] to ( -1 , 2 ) [SEP]", [1, 13, 15, 20, 23, 18, 16, 2]),
    ("cater_gen_v1", "[CLS] first second third fourth quadrant [SEP]",
     [1, 25, 26, 27, 28, 29, 2]),
    ("cater_gen_v1", "[CLS] the cone is picked up and placed to [SEP]",
     [1, 3, 4, 6, 8, 14, 12, 9, 13, 2]),
    ("cater_gen_v1", "[CLS] sliding and containing 1 2 3 -2 -3 [SEP]",
     [1, 7, 12, 10, 17, 18, 19, 21, 22, 2]),
    ("cater_gen_v2", "[CLS] the gold cube is sliding [SEP]", [1, 3, 22, 16, 6, 7, 2]),
    ("cater_gen_v2", "[CLS] rotating . ( -3 , 3 ) [SEP]",
     [1, 41, 40, 31, 38, 39, 35, 32, 2]),
    ("cater_gen_v2", "[CLS] still first second third fourth quadrant [SEP]",
     [1, 44, 45, 46, 47, 48, 49, 2]),
    ("cater_gen_v2", "[CLS] picked up and containing the small metal gray cone [SEP]",
     [1, 8, 13, 11, 10, 3, 17, 20, 23, 4, 2]),
    ("cater_gen_v2", "[CLS] placed to the medium rubber red sphere [SEP]",
     [1, 9, 12, 3, 18, 21, 24, 14, 2]),
    ("cater_gen_v2", "[CLS] large blue cylinder green brown purple cyan yellow [SEP]",
     [1, 19, 25, 15, 26, 27, 28, 29, 30, 2]),
    ("cater_gen_v2", "[CLS] snitch while contained 1 2 -1 -2 [SEP]",
     [1, 5, 42, 43, 33, 34, 36, 37, 2]),
  )  # fmt: skip
  def test_the_numbers_of_cater_gen_are_those_of_mage(self, name, text, expected):
    words = vocabulary.VOCABULARIES[name].words
    self.assertEqual([words[number] for number in expected], text.split())
    caption = " ".join(text.split()[1:-1])
    numbers = vocabulary.VOCABULARIES[name].encode([caption])[0]
    self.assertEqual(numbers[: len(expected)].tolist(), expected)

  def test_that_of_the_shapes_has_the_words_of_their_captions_and_no_others(self):
    known = vocabulary.VOCABULARIES["shapes"]
    captions = [
      shapes.make_scene(seed, split, index).caption
      for seed in (0, 1)
      for split in shapes.SPLITS
      for index in range(300)
    ]
    numbers = known.encode(captions)
    self.assertEqual(set(np.unique(numbers)), set(range(len(known.words))))
    # No room is wasted: some caption has the longest phrases all four times.
    texts = [" ".join(known.words[i] for i in row if i > 2) for row in numbers]
    for caption, text in zip(captions, texts, strict=True):
      self.assertEqual(text.replace(" ,", ","), caption)
    phrase = "a large red triangle grows and shrinks"
    text = f"{phrase} while {phrase}, {phrase} and {phrase} on a blue background"
    self.assertEqual(known.encode([text])[0, -1], 2)

  def test_an_unknown_word_is_named_with_the_nearest_and_with_all(self):
    with self.assertRaisesRegex(
      UserError, "^caption 'the Cnoe': 'the' is not in the vocabulary; it knows cone sl"
    ):
      SMALL.encode(["cone", "the Cnoe"])
    with self.assertRaisesRegex(
      UserError, "'cnoe' is not .*; did you mean 'cone'.; it knows cone slides -1 .$"
    ):
      SMALL.encode(["Cnoe slides."])

  def test_of_many_words_the_number_is_told(self):
    words = tuple(f"word{i}" for i in range(61))
    known = vocabulary.Vocabulary(vocabulary.SPECIAL + words, 4)
    with self.assertRaisesRegex(UserError, "did you mean 'word7'.; it knows 61 words$"):
      known.encode(["wrd7"])
    self.assertEqual(known.encode(["word60"])[0].tolist(), [1, 63, 2, 0])

  def test_a_caption_with_no_room_for_its_end_is_refused(self):
    SMALL.encode(["cone cone cone cone"])
    with self.assertRaisesRegex(
      UserError, "'cone cone cone cone.' has 5 words and marks; the vocabulary takes 4"
    ):
      SMALL.encode(["cone cone cone cone."])

  def test_one_text_in_place_of_several_is_a_mistake(self):
    with self.assertRaisesRegex(ValueError, "one text, 'cone'"):
      SMALL.encode("cone")

  @parameterized.parameters("[PAD]", "[CLS]", "[SEP]")
  def test_captions_cannot_hold_the_special_tokens(self, word):
    with self.assertRaisesRegex(UserError, "'.' is not in the vocabulary"):
      SMALL.encode([word])

  def test_a_file_has_a_word_in_each_line(self):
    path = self.folder / "words.txt"
    for text in (
      "Cone\n\n slides\r\n-1\n.\n",
      "[PAD]\n[CLS]\n[SEP]\ncone\nslides\n-1\n.",
    ):
      path.write_bytes(b"\xef\xbb\xbf" + text.encode())  # As Windows writes.
      self.assertEqual(vocabulary.read_vocabulary(path, 6), SMALL)

  @parameterized.parameters(
    ("cone\nslides to\n", "words.txt': 'slides to' cannot be a word"),
    ("cone\n[UNK]\n", "'.unk.' cannot be a word"),
    ("cone\nbar\nCone\n", "words.txt': 'cone' is in the vocabulary twice"),
    ("\n\n", "words.txt' has no word; put one in each line"),
    (b"\xff\xfe\x00", "words.txt' cannot be read .it is not a text"),
    (None, "words.txt' cannot be read .No such file .*; expected a text file"),
  )
  def test_a_file_that_is_no_vocabulary_is_refused(self, content, expected):
    path = self.folder / "words.txt"
    if content is not None:
      path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with self.assertRaisesRegex(UserError, expected) as caught:
      vocabulary.read_vocabulary(path, 6)
    self.assertNotIn("\n", str(caught.exception))

  @parameterized.parameters(
    (("cone", "slides"),), (vocabulary.SPECIAL,), ((*vocabulary.SPECIAL[::-1], "cone"),)
  )
  def test_the_special_tokens_have_to_come_first(self, words):
    with self.assertRaisesRegex(
      UserError, "expected .*PAD.*CLS.*SEP.*, and then words"
    ):
      vocabulary.Vocabulary(words, 5)


if __name__ == "__main__":
  absltest.main()
