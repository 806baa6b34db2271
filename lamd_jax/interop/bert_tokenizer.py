"""Tokens of BERT, by the tokenizer files that come with its weights."""

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
  """Tokenized texts, each with a start and an end token.

  Attributes:
    ids: Token ids, padded on the right.
    mask: True on tokens, false on padding.
  """

  ids: Int32[np.ndarray, "b n"]
  mask: Bool[np.ndarray, "b n"]


Tokenize = Callable[[Sequence[str]], Tokens]


def bert_tokenizer(folder: Path, num_tokens: int) -> Tokenize:
  """Returns a function that tokenizes texts, all padded or cut to one length.

  A text that is too long keeps its first tokens and the end token; each call warns once
  of all texts that it cut.

  Args:
    folder: Folder with `tokenizer.json` or, failing that, `vocab.txt`. For a bare
      vocabulary, `tokenizer_config.json` says whether text is lower-cased; without that
      file, text is lower-cased if the vocabulary has no capitals.
    num_tokens: Tokens per text, including start, end and padding.

  Raises:
    UserError: A file is missing or is not a BERT tokenizer, or `tokenizers` is not
      installed.
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
      f"captions of {num_tokens} tokens were asked for; expected at least 3: a start,"
      " a word and an end"
    )
  folder = pathlib.Path(folder).expanduser()
  whole, vocabulary = folder / "tokenizer.json", folder / "vocab.txt"
  path = next((path for path in (whole, vocabulary) if path.is_file()), None)
  if path is None:
    raise UserError(
      f"{folder} has neither tokenizer.json nor vocab.txt; get one of them from where"
      " the weights came from"
    )
  try:
    if path == whole:
      tokenizer = tokenizers.Tokenizer.from_file(str(path))
    else:
      tokenizer = tokenizers.BertWordPieceTokenizer(
        str(path), lowercase=_is_lower_case(path)
      )
    # A file may bring a length of its own, and cut or pad texts to it.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    start, end, padding = map(tokenizer.token_to_id, ("[CLS]", "[SEP]", "[PAD]"))
    sample = tokenizer.encode("a").ids
  except Exception as e:  # `tokenizers` raises bare exceptions for damaged files.
    raise UserError(
      f"{path} is not a BERT tokenizer ({e}); get the file from where the weights came"
      " from"
    ) from e
  if end is None or padding is None or [sample[0], sample[-1]] != [start, end]:
    raise UserError(
      f"{path} is not a BERT tokenizer: texts do not begin with [CLS] and end with"
      " [SEP], or there is no [PAD]; get the file that belongs to the encoder's weights"
    )
  tokenizer.enable_padding(length=num_tokens, pad_id=padding)

  def tokenize(texts: Sequence[str]) -> Tokens:
    found = tokenizer.encode_batch(list(texts))
    shape = len(texts), num_tokens
    ids = np.array([x.ids[:num_tokens] for x in found], np.int32).reshape(shape)
    mask = np.array([x.attention_mask[:num_tokens] for x in found], bool).reshape(shape)
    lengths = [len(x.ids) for x in found]
    if cut := [i for i, length in enumerate(lengths) if length > num_tokens]:
      ids[cut, -1] = end
      logging.warning(
        "%d of %d captions have more than %d tokens and lose their end, the first"
        " is %r; with %d tokens none would",
        len(cut),
        len(texts),
        num_tokens,
        texts[cut[0]],
        max(lengths),
      )
    return Tokens(ids, mask)

  return tokenize


def _is_lower_case(vocabulary: pathlib.Path) -> bool:
  """Returns whether texts are lower-cased for a vocabulary."""
  config = vocabulary.with_name("tokenizer_config.json")
  if config.is_file():
    found = json.loads(config.read_text("utf-8")).get("do_lower_case")
    if found is not None:
      return found
  words = vocabulary.read_text("utf-8").split()
  return all(word == word.lower() for word in words if not word.startswith("["))
