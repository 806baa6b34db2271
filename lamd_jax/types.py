"""Array types, and the axis names every shape in this library is written in.

  b  batch      f  frames     h  height     w  width     c  channels
  n  tokens     d  features   *  any leading axes

Video is `b f h w c`, channels last. Inside networks pixels are float32 in
[-1, 1]; on disk and in the data pipeline they are uint8. The letter `t` is never
an axis: it is diffusion time, in [0, 1], 0 at data and 1 at noise.
"""

from collections.abc import Callable, Iterator, Mapping
import re
from typing import Any

from jaxtyping import Array, Float, Key

Batch = Mapping[str, Array]
Metrics = dict[str, Float[Array, ""]]
PRNGKey = Key[Array, ""]
# An `ml_collections.ConfigDict`; its values have any type, which its stubs deny.
Config = Any
Params = Any  # A nested dict of arrays.
LONGEST_LINE = 1200  # Characters of a message.
LossFn = Callable[..., tuple[Float[Array, ""], Metrics]]


def printable(text: object) -> str:
  """Returns a text that a terminal shows as it is: no control codes, no raw bytes.

  Names of files may hold anything. What does not print is written as in Python's
  strings, and a byte that is not UTF-8 as its two digits.
  """
  return "".join(c if c.isprintable() else _escaped(c) for c in str(text))


def is_utf_8(text: str) -> bool:
  """Returns whether a text has no bytes that are not UTF-8, as names of files may."""
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def _escaped(character: str) -> str:
  if "\udc80" <= character <= "\udcff":  # A raw byte, as `os.fsdecode` holds it.
    return f"\\x{ord(character) - 0xDC00:02x}"
  return repr(character)[1:-1]


class UserError(ValueError):
  """A mistake in what was given, not in the program.

  The message is one line: what was given, what was expected, what to do. The
  command line prints it without a traceback. Names of files are part of many a message,
  and may hold anything.
  """

  def __str__(self) -> str:
    """Returns the message as one printable line, the middle of a long one left out."""
    line = printable(re.sub(r"\s*[\r\n]\s*", " ", super().__str__()))
    if len(line) <= LONGEST_LINE:
      return line
    return f"{line[: LONGEST_LINE - 400]} ... {line[-300:]}"


def reason(error: BaseException) -> str:
  """Returns an error in a few words, without the path that messages name anyway."""
  if said := getattr(error, "strerror", None):  # Errors of the system and of FFmpeg.
    return said
  text = str(error).strip()
  # The text of a KeyError is a bare key, that of a MemoryError nothing.
  is_plain = text and not isinstance(error, KeyError)
  return text if is_plain else f"{type(error).__name__} {text}".strip()


def causes(error: BaseException) -> Iterator[BaseException]:
  """Yields an error and all that it was raised from or groups, each once."""
  seen = set()
  pending: list[BaseException | None] = [error]
  while pending:
    e = pending.pop()
    if e is None or id(e) in seen:
      continue
    seen.add(id(e))
    yield e
    if isinstance(e, BaseExceptionGroup):
      pending.extend(e.exceptions)
    pending.extend((e.__cause__, e.__context__))
