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

from lamd_jax.types import UserError, reason

MAX_JSON_BYTES = 2**26
MAX_JSON_DEPTH = 100  # Functions that walk through it call themselves at each level.


@contextlib.contextmanager
def explain_damage(path: str | os.PathLike[str], advice: str) -> Iterator[None]:
  """Turns any error of reading a file into one `UserError` that names it.

  Args:
    path: The file.
    advice: Advice to the user, for the end of the message.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as e:
    raise UserError(f"{os.fspath(path)} is damaged ({reason(e)}); {advice}") from e


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


def load_json(path: pathlib.Path) -> Any:
  """Reads JSON of any kind from a file.

  Raises:
    OSError: The file cannot be read.
    ValueError: It is no JSON, or too large.
  """
  if path.stat().st_size > MAX_JSON_BYTES:
    raise ValueError(f"it is larger than {MAX_JSON_BYTES} bytes")
  return parse_json(path.read_text(encoding="utf-8-sig"))


def read_json(
  path: pathlib.Path, advice: str = "restore it, or move it away"
) -> dict[str, Any]:
  """Reads a JSON object from a file.

  Args:
    path: The file.
    advice: Advice about a damaged one, for the end of the message.

  Raises:
    UserError: The file holds no JSON object, or cannot be read.
  """
  with explain_damage(path, advice):
    found = load_json(path)
    if not isinstance(found, dict):
      raise ValueError("it holds no JSON object")
    return found
