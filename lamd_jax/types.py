"""Array types, and the axis names every shape in this library is written in.

  b  batch      f  frames     h  height     w  width     c  channels
  n  tokens     d  features   *  any leading axes

Video is `b f h w c`, channels last. Inside networks pixels are float32 in
[-1, 1]; on disk and in the data pipeline they are uint8. The letter `t` is never
an axis: it is diffusion time, in [0, 1], 0 at data and 1 at noise.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxtyping import Array, Float, Key

Batch = Mapping[str, Array]
Metrics = dict[str, Float[Array, ""]]
PRNGKey = Key[Array, ""]
# An `ml_collections.ConfigDict`; its values have any type, which its stubs deny.
Config = Any
Params = Any  # A nested dict of arrays.
LossFn = Callable[..., tuple[Float[Array, ""], Metrics]]


class UserError(ValueError):
  """A mistake in what was given, not in the program.

  The message is one line: what was given, what was expected, what to do. The
  command line prints it without a traceback.
  """

  def __str__(self) -> str:
    """Returns the message, printable whatever names of files it quotes."""
    return printable(super().__str__())


def printable(text: str) -> str:
  r"""Returns text in one line that every terminal and file takes as it is.

  Names of files may hold line breaks, escape codes, and bytes that are not UTF-8.
  They are shown as Python writes them, as in "a\nb" and "\xff".
  """
  return "".join(x if x.isprintable() else _escaped(x) for x in text)


def _escaped(character: str) -> str:
  if "\udc80" <= character <= "\udcff":  # A byte of a name that is not UTF-8.
    return f"\\x{ord(character) - 0xDC00:02x}"
  return ascii(character)[1:-1]


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
