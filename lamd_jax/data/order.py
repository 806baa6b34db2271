"""The order of names that hold numbers."""

import re

_Part = tuple[int, int, str]


def natural(name: str) -> tuple[tuple[tuple[_Part, ...], ...], str]:
  """Returns a sort key of a path that puts clip_2 before clip_10, in folders too.

  Digits are compared as numbers, of any length, all else as text. Names that differ in
  leading zeros alone have an order, too.
  """
  folders = (re.split(r"([0-9]+)", part) for part in name.split("/"))
  return tuple(tuple(map(_part, folder)) for folder in folders), name


def _part(text: str) -> _Part:
  if not text.isascii() or not text.isdigit():
    return 1, 0, text
  digits = text.lstrip("0")  # As text: Python refuses numbers of thousands of digits.
  return 0, len(digits), digits
