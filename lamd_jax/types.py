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
LONGEST_LINE = 1200  # Characters of a message.
LossFn = Callable[..., tuple[Float[Array, ""], Metrics]]


class UserError(ValueError):
  """A mistake in what was given, not in the program.

  The message is one line: what was given, what was expected, what to do. The
  command line prints it without a traceback. Names of files are part of many a message,
  and may hold anything: it is made `printable`.
  """

  def __init__(self, message: str = ""):
    """Makes the message one printable line."""
    super().__init__(printable(message))


def printable(text: object) -> str:
  """Returns a text as one line that any terminal, log and file can take.

  Line breaks, escape codes and bytes that are not UTF-8, all of which names of files
  may have, are written as Python escapes them; a very long text loses its middle.
  """
  line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
  if len(line) <= LONGEST_LINE:
    return line
  return f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"


def is_utf_8(text: str) -> bool:
  """Returns whether a text has no bytes that are not UTF-8, as names of files may."""
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


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
