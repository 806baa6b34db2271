"""Files read with one line for all that can be wrong with them.

Damage shows as any error at all: a cut file, a folder in its place, text that nests a
thousand deep, a number of five thousand digits.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
from typing import Any

from lamd_jax.types import UserError

MAX_JSON_BYTES = 2**26
MAX_JSON_DEPTH = 100  # Functions that walk through it call themselves at each level.


@contextlib.contextmanager
def explain_damage(path: str | os.PathLike[str], advice: str) -> Iterator[None]:
  """Turns any error of reading a file into one `UserError` that names it.

  Args:
    path: The file.
    advice: What to do, for the end of the message.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as e:
    raise UserError(f"{os.fspath(path)} is damaged ({reason(e)}); {advice}") from e


def reason(error: BaseException) -> str:
  """Returns an error in a few words, without the path that messages name anyway."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  text = str(error).strip()
  # The text of a KeyError is a bare key, that of a MemoryError nothing.
  is_plain = text and not isinstance(error, KeyError)
  return text if is_plain else f"{type(error).__name__} {text}".strip()


def parse_json(text: str) -> Any:
  """Parses JSON; raises a `ValueError` for what nests too deep, too."""
  try:
    found = json.loads(text)
  except RecursionError as e:
    raise ValueError("it nests too deep") from e
  level: list[Any] = [[found]]
  for _ in range(MAX_JSON_DEPTH):
    inner = [x.values() if isinstance(x, dict) else x for x in level]
    level = [y for x in inner for y in x if isinstance(y, dict | list)]
    if not level:
      return found
  raise ValueError("it nests too deep")


def read_json(
  path: pathlib.Path, advice: str = "restore it, or move it away"
) -> dict[str, Any]:
  """Reads a JSON object from a file.

  Args:
    path: The file.
    advice: What to do about a damaged one, for the end of the message.

  Raises:
    UserError: The file holds no JSON object, or cannot be read.
  """
  with explain_damage(path, advice):
    if path.stat().st_size > MAX_JSON_BYTES:
      raise ValueError(f"it is larger than {MAX_JSON_BYTES} bytes")
    found = parse_json(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
      raise ValueError("it holds no JSON object")
    return found
