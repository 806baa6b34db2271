"""Texts to the tokens of BERT, by the tokenizer files beside its weights."""

from collections.abc import Callable, Sequence
import json
import pathlib
from typing import NamedTuple

from absl import logging
from jaxtyping import Bool, Int32
import numpy as np

from lamd_jax.interop.weights import Path
from lamd_jax.types import UserError


class Tokens(NamedTuple):
  """Texts as a text encoder takes them: each begins and ends with a token of its own.

  Attributes:
    ids: Numbers of the tokens, and of the padding after them.
    mask: True on tokens, false on padding.
  """

  ids: Int32[np.ndarray, "b n"]
  mask: Bool[np.ndarray, "b n"]


Tokenize = Callable[[Sequence[str]], Tokens]


def bert_tokenizer(folder: Path, num_tokens: int) -> Tokenize:
  """A function from texts to tokens, all padded or cut to the same number.

  A text with more tokens keeps its first ones and its end; a warning says how many
  are cut so, once for each call.

  Args:
    folder: Holds `tokenizer.json`, or else `vocab.txt`; of a vocabulary alone,
      `tokenizer_config.json` or its words say whether capitals count.
    num_tokens: Tokens of a text, with start, end and padding.

  Raises:
    UserError: A file is missing or another, or `tokenizers` is not installed.
  """
  try:
    import tokenizers
  except ImportError as e:
    raise UserError(
      "captions need the package tokenizers, which is not installed; install it with"
      " pip install 'lamd-jax[text]'"
    ) from e
  if num_tokens < 3:
    raise UserError(
      f"captions of {num_tokens} tokens were asked for; expected at least 3: start, a"
      " token, end"
    )
  folder = pathlib.Path(folder).expanduser()
  whole, vocabulary = folder / "tokenizer.json", folder / "vocab.txt"
  path = next((path for path in (whole, vocabulary) if path.is_file()), None)
  if path is None:
    raise UserError(
      f"{folder} has neither tokenizer.json nor vocab.txt; put one of them there, from"
      " where its weights come from"
    )
  try:
    if path == whole:
      tokenizer = tokenizers.Tokenizer.from_file(str(path))
    else:
      tokenizer = tokenizers.BertWordPieceTokenizer(
        str(path), lowercase=_is_lower_case(path)
      )
    # Files bring lengths of their own, and would cut without a word.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    start, end, padding = (
      tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]", "[PAD]")
    )
    sample = tokenizer.encode("a").ids
  except Exception as e:  # What `tokenizers` raises of damaged files has no other type.
    raise UserError(
      f"{path} is no tokenizer of a BERT ({e}); put there the file from where its"
      " weights come from"
    ) from e
  if padding is None or [sample[0], sample[-1]] != [start, end]:
    raise UserError(
      f"{path} is no tokenizer of a BERT: texts do not begin with [CLS] and end with"
      " [SEP], or there is no [PAD]; put there the file of the encoder's own weights"
    )

  def tokenize(texts: Sequence[str]) -> Tokens:
    ids = np.full((len(texts), num_tokens), padding, np.int32)
    mask = np.zeros(ids.shape, bool)
    cut, longest = [], 0
    for i, text in enumerate(texts):
      found = tokenizer.encode(text).ids
      if len(found) > num_tokens:
        cut.append(text)
        longest = max(longest, len(found))
        found = [*found[: num_tokens - 1], end]
      ids[i, : len(found)] = found
      mask[i, : len(found)] = True
    if cut:
      logging.warning(
        "%d of %d captions have more than %d tokens and lose their end, the first"
        " is %r; with %d tokens none would",
        len(cut),
        len(texts),
        num_tokens,
        cut[0],
        longest,
      )
    return Tokens(ids, mask)

  return tokenize


def _is_lower_case(vocabulary: pathlib.Path) -> bool:
  """Whether texts are to be lower-cased for a vocabulary."""
  config = vocabulary.with_name("tokenizer_config.json")
  if config.is_file():
    found = json.loads(config.read_text("utf-8")).get("do_lower_case")
    if found is not None:
      return found
  words = vocabulary.read_text("utf-8").split()
  return all(word == word.lower() for word in words if not word.startswith("["))
