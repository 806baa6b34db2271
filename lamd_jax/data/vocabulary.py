"""Closed vocabularies, for captions that are made of few words, as in MAGE.

A caption becomes [CLS], its words and [SEP], padded with [PAD]; these special tokens
have the numbers 1, 2 and 0. All words are known in advance, so an unknown word is a
mistake in the caption or in the choice of vocabulary; an error names it.

Captions are lower-cased and split at spaces. Punctuation marks are tokens of their own,
except inside a word ("t-shirt") and for the minus of a number ("-1"). For captions of
CATER-GEN this gives the tokens of NLTK's `word_tokenize`, which MAGE uses.

Source: the tables of words in the code of MAGE (Hu et al. 2022, arXiv:2112.02815), with
its lengths; LaMD's text encoder is not known.
"""

from collections.abc import Iterable
import dataclasses
import difflib
import os
import pathlib
import re

from jaxtyping import Int32
import numpy as np

from lamd_jax.data import shapes
from lamd_jax.data.regular_files import read_text
from lamd_jax.types import UserError

SPECIAL = ("[PAD]", "[CLS]", "[SEP]")
_PAD, _CLS, _SEP = range(len(SPECIAL))
_TOKEN = re.compile(r"-\d+|\w+(?:[-']\w+)*|[^\w\s]")
_MOST_LISTED = 60  # Number of words that fit into a message.


def split_words(text: str) -> list[str]:
  """Splits a caption into words and punctuation marks, in lower case."""
  return _TOKEN.findall(text.lower())


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """All words that captions may contain.

  Attributes:
    words: The words by their numbers; SPECIAL come first.
    num_tokens: Number of tokens of a caption, with [CLS], [SEP] and padding.
  """

  words: tuple[str, ...]
  num_tokens: int

  def __post_init__(self):
    """Raises a `UserError` for words that no caption could contain."""
    words = self.words[len(SPECIAL) :]
    if self.words[: len(SPECIAL)] != SPECIAL or not words:
      raise UserError(
        f"a vocabulary that begins with {self.words[:4]}; expected {SPECIAL}, and then "
        "words"
      )
    for word in words:
      if split_words(word) != [word]:
        raise UserError(
          f"{word!r} cannot be a word of a vocabulary; expected a word in lower case, "
          "a number or a mark"
        )
    if len(set(words)) < len(words):
      twice = next(word for word in words if words.count(word) > 1)
      raise UserError(f"{twice!r} is in the vocabulary twice; keep it once")

  def encode(self, texts: Iterable[str]) -> Int32[np.ndarray, "b n"]:
    """Encodes captions as the numbers of their tokens, padded with 0.

    Raises:
      UserError: A word is not in the vocabulary, or a caption is too long.
    """
    if isinstance(texts, str):
      raise ValueError(f"one text, {texts!r}, in place of several")
    numbers = {word: number for number, word in enumerate(self.words)}
    rows: list[list[int]] = []
    for text in texts:
      words = split_words(text)
      for word in words:
        if word not in numbers:
          raise UserError(f"caption {text!r}: {self._unknown(word)}")
      if len(words) + 2 > self.num_tokens:
        raise UserError(
          f"caption {text!r} has {len(words)} words and marks; the vocabulary takes "
          f"{self.num_tokens - 2}: shorten it"
        )
      row = [_CLS, *(numbers[word] for word in words), _SEP]
      rows.append(row + [_PAD] * (self.num_tokens - len(row)))
    return np.asarray(rows, np.int32).reshape(-1, self.num_tokens)

  def _unknown(self, word: str) -> str:
    words = self.words[len(SPECIAL) :]
    close = difflib.get_close_matches(word, words, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    known = f"it knows {' '.join(words)}"
    if len(words) > _MOST_LISTED:
      known = f"it knows {len(words)} words"
    return f"{word!r} is not in the vocabulary{hint}; {known}"


def read_vocabulary(path: str | os.PathLike[str], num_tokens: int) -> Vocabulary:
  """Reads a vocabulary from a text file with one word per line, in any case.

  Args:
    path: The file, in UTF-8. Empty lines are ignored; SPECIAL are put in front.
    num_tokens: Number of tokens of a caption, with [CLS], [SEP] and padding.

  Raises:
    UserError: The file is missing, or a line is not one word or occurs twice.
  """
  path = pathlib.Path(path).expanduser()
  try:
    lines = read_text(path).removeprefix("\ufeff").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, "strerror", None) or "it is not a text in UTF-8"
    raise UserError(
      f"the vocabulary {str(path)!r} cannot be read ({reason}); expected a text file "
      "with a word in each line"
    ) from error
  words = tuple(line.strip().lower() for line in lines if line.strip())
  if words[: len(SPECIAL)] == tuple(word.lower() for word in SPECIAL):
    words = words[len(SPECIAL) :]
  if not words:
    raise UserError(f"the vocabulary {str(path)!r} has no word; put one in each line")
  try:
    return Vocabulary(SPECIAL + words, num_tokens)
  except UserError as error:
    raise UserError(f"the vocabulary {str(path)!r}: {error}") from error


def _of_shapes() -> Vocabulary:
  captions = [split_words(caption) for caption in shapes.caption_samples()]
  words = sorted({word for caption in captions for word in caption})
  longest = max(len(caption) for caption in captions)
  return Vocabulary((*SPECIAL, *words), longest + 2)


def _of_table(words: str, num_tokens: int) -> Vocabulary:
  return Vocabulary((*SPECIAL, *words.split()), num_tokens)


VOCABULARIES = {
  "cater_gen_v1": _of_table(
    "the cone snitch is sliding picked placed containing rotating and to up"
    " ( ) 1 2 3 -1 -2 -3 , . first second third fourth quadrant",
    num_tokens=32,
  ),
  "cater_gen_v2": _of_table(
    "the cone snitch is sliding picked placed containing and to up sphere cylinder"
    " cube small medium large metal rubber gold gray red blue green brown purple cyan"
    " yellow ( ) 1 2 3 -1 -2 -3 , . rotating while contained still"
    " first second third fourth quadrant",
    num_tokens=38,
  ),
  "shapes": _of_shapes(),
}
"""Vocabularies of data sets; CATER-GEN's words are numbered as in MAGE."""
