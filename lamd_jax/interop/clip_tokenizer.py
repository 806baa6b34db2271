"""Texts to the tokens of CLIP, by byte-pair merges in a file that the user names."""

from collections.abc import Callable, Sequence
import gzip
import html
import pathlib
import unicodedata
import zlib

from jaxtyping import Int32
import numpy as np

from lamd_jax.interop.weights import Path
from lamd_jax.types import UserError

URL = "https://github.com/openai/CLIP/raw/main/clip/bpe_simple_vocab_16e6.txt.gz"
# How the file's SHA-256 begins.
SHA256 = "924691ac"
TEXT_LENGTH = 77  # Of all of OpenAI's networks: tokens, with start, end and padding.
_NUM_MERGES = 48894  # The file has more lines; these fill a vocabulary of 49408.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"

Tokenize = Callable[[Sequence[str]], Int32[np.ndarray, "n tokens"]]


def clip_tokenizer(path: Path) -> Tokenize:
  """A function from texts to tokens: start, text, end, and zeros up to 77.

  Texts are lower-cased, spaces joined and HTML entities resolved, as OpenAI's tokenizer
  does. That also repairs texts in broken encodings, with `ftfy`, and makes typographic
  quotes plain; whoever has such texts should do it first.

  Args:
    path: OpenAI's file of merges, `bpe_simple_vocab_16e6.txt.gz`.

  Returns:
    A function; of a text that does not fit it raises a `UserError`.

  Raises:
    UserError: The file is missing or another, or `tokenizers` is not installed.
  """
  try:
    import tokenizers
    from tokenizers import models, pre_tokenizers
  except ImportError as e:
    raise UserError(
      "CLIP's texts need the package tokenizers, which is not installed; install it"
      " with pip install 'lamd-jax[metrics]'"
    ) from e

  merges = _read_merges(path)
  # The 256 bytes, each as one printable character; then each as the end of a word.
  characters = sorted(pre_tokenizers.ByteLevel.alphabet())
  words = [*characters, *(f"{x}</w>" for x in characters), *map("".join, merges)]
  start, end = len(words), len(words) + 1
  tokenizer = tokenizers.Tokenizer(
    models.BPE(
      vocab={word: i for i, word in enumerate(words)},
      merges=merges,
      end_of_word_suffix="</w>",
    )
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      # What the expression matches is a word, what lies between is left out.
      pre_tokenizers.Split(tokenizers.Regex(_WORDS), "removed", invert=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )

  def tokenize(texts: Sequence[str]) -> Int32[np.ndarray, "n tokens"]:
    rows = np.zeros((len(texts), TEXT_LENGTH), np.int32)
    for row, text in zip(rows, texts, strict=True):
      tokens = [start, *tokenizer.encode(_cleaned(text)).ids, end]
      if len(tokens) > TEXT_LENGTH:
        raise UserError(
          f"a text has {len(tokens)} tokens, expected at most {TEXT_LENGTH}: shorten"
          f" {text!r}"
        )
      row[: len(tokens)] = tokens
    return rows

  return tokenize


def _cleaned(text: str) -> str:
  text = unicodedata.normalize("NFC", html.unescape(html.unescape(text)))
  return " ".join(text.split()).lower()


def _read_merges(path: Path) -> list[tuple[str, str]]:
  path = pathlib.Path(path).expanduser()
  advice = f"get {URL} (SHA-256 {SHA256}...)"
  if not path.is_file():
    raise UserError(f"no file of CLIP's merges at {path}; {advice}")
  try:
    with gzip.open(path, "rt", encoding="utf-8") as file:
      lines = file.read().split("\n")
  except (OSError, EOFError, UnicodeDecodeError, zlib.error) as e:
    raise UserError(f"{path} is not the file of CLIP's merges ({e}); {advice}") from e
  # The first line is a title.
  merges = [tuple(line.split()) for line in lines[1 : 1 + _NUM_MERGES]]
  merges = [(pair[0], pair[1]) for pair in merges if len(pair) == 2]
  if len(merges) != _NUM_MERGES:
    raise UserError(
      f"{path} holds {len(merges)} merges, expected {_NUM_MERGES}: it is not the file"
      f" of CLIP's merges; {advice}"
    )
  return merges
