"""Tokens of CLIP, by OpenAI's file of byte-pair merges."""

from collections.abc import Callable, Sequence
import gzip
import html
import pathlib
import unicodedata
import zlib

from jaxtyping import Int32
import numpy as np

from lamd_jax.interop.weights import Path
from lamd_jax.types import UserError, is_utf_8

URL = "https://github.com/openai/CLIP/raw/main/clip/bpe_simple_vocab_16e6.txt.gz"
SHA256 = "924691ac"  # The first digits of the file's.
TEXT_LENGTH = 77  # Tokens per text, including start, end and padding.
_NUM_MERGES = 48894  # The file has more lines; these fill a vocabulary of 49408.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"

Tokenize = Callable[[Sequence[str]], Int32[np.ndarray, "n tokens"]]


def clip_tokenizer(path: Path) -> Tokenize:
  """Returns a function that tokenizes texts: start, text, end, and zeros up to 77.

  As OpenAI's tokenizer does, it lower-cases texts, collapses white space and resolves
  HTML entities. OpenAI's also repairs broken encodings and typographic quotes, with
  `ftfy`; this one expects texts without them.

  Args:
    path: OpenAI's file of merges, `bpe_simple_vocab_16e6.txt.gz`.

  Returns:
    The function, which raises a `UserError` for a text that is too long.

  Raises:
    UserError: The file is missing or is not OpenAI's, or `tokenizers` is not installed.
  """
  try:
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors
  except ImportError as e:
    raise UserError(
      "CLIP's texts need the package tokenizers, which is not installed; install it"
      " with pip install 'lamd-jax[metrics]'"
    ) from e

  merges = _read_merges(path)
  # The 256 bytes as printable characters, each inside a word and at its end.
  characters = sorted(pre_tokenizers.ByteLevel.alphabet())
  words = [*characters, *(f"{x}</w>" for x in characters), *map("".join, merges)]
  tokenizer = tokenizers.Tokenizer(
    models.BPE(
      vocab={word: i for i, word in enumerate(words)},
      merges=merges,
      end_of_word_suffix="</w>",
    )
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      # Matches are words; what lies between them is dropped.
      pre_tokenizers.Split(tokenizers.Regex(_WORDS), "removed", invert=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  tokenizer.post_processor = processors.TemplateProcessing(
    single="<start> $A <end>",
    special_tokens=[("<start>", len(words)), ("<end>", len(words) + 1)],
  )
  tokenizer.enable_padding(length=TEXT_LENGTH, pad_id=0)

  def tokenize(texts: Sequence[str]) -> Int32[np.ndarray, "n tokens"]:
    for text in texts:
      if not is_utf_8(text):
        raise UserError(f"{text!r} is not UTF-8; expected text")
    found = [x.ids for x in tokenizer.encode_batch([_cleaned(x) for x in texts])]
    for text, ids in zip(texts, found, strict=True):
      if len(ids) > TEXT_LENGTH:
        raise UserError(
          f"a text has {len(ids)} tokens, expected at most {TEXT_LENGTH}: shorten"
          f" {text!r}"
        )
    return np.array(found, np.int32).reshape(len(texts), TEXT_LENGTH)

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
