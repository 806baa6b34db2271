"""Numbers, durations and nested settings in words, as the report prints them."""

from collections.abc import Mapping
import json
import math
import sys
from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[int | float]:
  """Returns whether a value from a file is a number, not a bool or text."""
  if isinstance(value, int) and not isinstance(value, bool):
    return abs(value) <= sys.float_info.max  # No figure, and too long to print.
  return isinstance(value, float)


def count(number: int, noun: str) -> str:
  """Returns a number with its noun in the singular or plural: "2 clips"."""
  return f"{number} {noun}{'' if number == 1 else 's'}"


def number(value: Any) -> str:
  """Formats a number to four digits, whole numbers in full; other values as text."""
  if not is_number(value):
    return str(value)
  if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
    return f"{int(value):,}"
  return f"{value:.4g}"


def duration(seconds: Any) -> str:
  """Formats seconds as "12 s", "3 min 4 s" or "5 h 6 min"; other values as text."""
  if not is_number(seconds):
    return str(seconds)
  if not math.isfinite(seconds) or seconds < 60:
    return f"{seconds:.3g} s"
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
  """Flattens nested settings into pairs of a dotted name and a JSON value."""
  pairs = []
  for name, value in tree.items():
    if isinstance(value, Mapping) and value:
      pairs += flat(value, f"{prefix}{name}.")
    else:
      pairs.append((prefix + str(name), json.dumps(value, default=str)))
  return pairs
