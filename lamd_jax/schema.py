"""Values that users give: which are allowed, said once, where they are taken.

A class or function whose fields or parameters come from a configuration says in its
annotations which values it takes:

    form: Literal["hinge", "log"]                     # One of these names.
    schedule: Annotated[str, OneOf(SCHEDULES)]        # A key of a table.
    eta: Annotated[float, Range(0, 1)]                # A number, bounds included.
    channels: Annotated[Sequence[Channels], Length(1, 8)]
    path: Annotated[str, Path()]

`block` turns such signatures into the description of a block of a configuration,
`check_block` compares a block with it, and `build` calls the class with the values.
Numbers are always finite, and a bool is no number.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import dataclasses
import difflib
import inspect
import math
import numbers
import pathlib
import types
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from lamd_jax.types import Config, UserError

REQUIRED = inspect.Parameter.empty
MAX_FLOAT = 3.4e38  # Of float32, in which everything is computed.
MAX_TEXT = 4096  # Bytes; the longest path of Linux.
MAX_NAME = 255  # Bytes of a file's name.
MAX_CLIP_BYTES = 2**32
MAX_LEVELS = 12  # Of a network, each of half the size.
MAX_SHOWN = 80  # Characters of a value in a message.


class UnfitError(Exception):
  """A value that an annotation does not allow.

  The message goes on from the value, such as "; known: a, b"; without one, the words
  for the annotation are enough.
  """


@dataclasses.dataclass(frozen=True)
class Range:
  """Bounds of a number, both included.

  Attributes:
    low: The smallest value.
    high: The largest value; infinity for none.
  """

  low: int | float
  high: int | float = math.inf

  def check(self, value: int | float) -> None:
    """Raises `UnfitError` for a number outside."""
    if not self.low <= value <= self.high:
      raise UnfitError

  def __str__(self) -> str:
    end = "on" if self.high == math.inf else f"to {_digits(self.high)}"
    return f"from {_digits(self.low)} {end}"


@dataclasses.dataclass(frozen=True)
class Length:
  """Bounds of the number of values in a tuple, both included.

  Attributes:
    low: The smallest number.
    high: The largest number.
  """

  low: int
  high: int

  def check(self, value: Sequence[Any]) -> None:
    """Raises `UnfitError` for a tuple that is too long or too short."""
    if not self.low <= len(value) <= self.high:
      raise UnfitError

  def __str__(self) -> str:
    return f"{self.low} to {self.high} values"


class OneOf:
  """Names that are keys of a table."""

  def __init__(self, known: Iterable[str]):
    """Remembers the names."""
    self.known = tuple(known)

  def check(self, value: str) -> None:
    """Raises `UnfitError` for another name."""
    if value not in self.known:
      close = difflib.get_close_matches(value, self.known, n=1)
      hint = f"; did you mean {close[0]!r}?" if close else ""
      raise UnfitError(f"; known: {', '.join(self.known)}{hint}")

  def __str__(self) -> str:
    return f"one of {', '.join(self.known)}"


class Path:
  """Text that can be the path of a file or folder; whether it is there is not asked."""

  def check(self, value: str) -> None:
    """Raises `UnfitError` for a path that no file system has."""
    long = max(len(_encoded(part)) for part in value.split("/"))
    if long > MAX_NAME:
      raise UnfitError(
        f": a name in this path has {long} bytes, of which file systems take {MAX_NAME}"
      )
    try:
      pathlib.Path(value).expanduser()
    except RuntimeError:  # `~name`, where nobody has the name.
      user = shown(value.partition("/")[0][1:])
      raise UnfitError(f": there is no user {user}; give the whole path") from None

  def __str__(self) -> str:
    return "a path"


# Sizes that more than one part of the library takes. What is above them is a slip of
# the hand, and is said to be one before anything is allocated.
Seed = Annotated[int, Range(0, 2**32 - 1)]
Count = Annotated[int, Range(1, 10**9)]
Frames = Annotated[int, Range(1, 2**14)]
Side = Annotated[int, Range(1, 2**13)]
Bytes = Annotated[int, Range(0, 2**50)]
Channels = Annotated[int, Range(1, 2**14)]
Blocks = Annotated[int, Range(0, 16)]
Widths = Annotated[Sequence[Channels], Length(1, MAX_LEVELS)]
Multiples = Annotated[Sequence[Annotated[int, Range(1, 64)]], Length(1, MAX_LEVELS)]
Factors = Annotated[Sequence[Annotated[int, Range(1, 2**14)]], Length(0, MAX_LEVELS)]
KernelSize = Annotated[int, Range(1, 15)]
VideoKernels = Annotated[
  Sequence[tuple[KernelSize, KernelSize, KernelSize]], Length(1, 8)
]
Fraction = Annotated[float, Range(0, 1)]
Weight = Annotated[float, Range(0, 10**6)]
Guidance = Annotated[float, Range(-(10**4), 10**4)]
FilePath = Annotated[str, Path()]


def check_clip(num_frames: int, resolution: int) -> None:
  """Raises a `UserError` for a clip in uint8 that is too large for memory."""
  if (size := 3 * num_frames * resolution**2) > MAX_CLIP_BYTES:
    raise UserError(
      f"a clip of data.num_frames={num_frames} and data.resolution={resolution} takes"
      f" {size / 2**30:.0f} GiB; at most {MAX_CLIP_BYTES / 2**30:.0f} are possible"
    )


class Field(NamedTuple):
  """A key of a block.

  Attributes:
    annotation: The values that it takes: a type, or a `Block`.
    default: Anything but `REQUIRED` where the key may be missing.
  """

  annotation: Any
  default: Any = REQUIRED


@dataclasses.dataclass(frozen=True)
class Block:
  """The keys of a block of a configuration.

  Attributes:
    taker: Name of what takes its values, for messages.
    fields: Values and default of each key.
  """

  taker: str
  fields: Mapping[str, Field]


def block(
  *takers: Callable[..., Any],
  taker: str = "",
  without: Collection[str] = (),
  **further: Field,
) -> Block:
  """Reads the keys of a block off what takes its values.

  Args:
    *takers: Classes and functions, whose arguments are the keys.
    taker: Name for messages; by default that of the first.
    without: Arguments that are no keys.
    **further: Further keys, such as blocks within the block.

  Raises:
    TypeError: An annotation says nothing that can be checked.
  """
  fields = {
    name: Field(parameter.annotation, parameter.default)
    for each in takers
    for name, parameter in inspect.signature(each).parameters.items()
    if name not in ("parent", "name", *without)  # The first two are linen's.
  }
  for name, field in fields.items():
    try:
      describe(field.annotation)
    except TypeError as e:
      raise TypeError(f"{takers[0].__name__}.{name}: {e}") from None
  return Block(taker or takers[0].__name__, fields | further)


def build(cls: Callable[..., Any], values: Config, where: str, **bound: Any) -> Any:
  """Calls a class, or a function, with the values of a block.

  Args:
    cls: The class to build, a linen module or another dataclass.
    values: Its fields by name.
    where: The path of `values` in the configuration, for messages.
    **bound: Fields that the system sets itself; a configuration cannot.

  Raises:
    UserError: A key is not a field, a required field is missing, or a value is not what
      its field's annotation allows.
  """
  found = check_block(values, block(cls, without=tuple(bound)), where)
  return cls(**bound, **found)


def check_block(values: Config, expected: Block, where: str) -> dict[str, Any]:
  """Checks a block and all blocks in it.

  Args:
    values: The block, a mapping.
    expected: Its description.
    where: Its path in the configuration, for messages; "" for the whole one.

  Returns:
    Its values, in the types of their annotations.

  Raises:
    UserError: A key is unknown or missing, or a value is not allowed.
  """
  fields, keys = expected.fields, _keys(values)
  path = lambda key: f"{where}.{key}" if where else f"config.{key}"
  if keys is None:
    raise UserError(
      f"{where or 'the configuration'} is {shown(values)}; expected a block with"
      f" {', '.join(fields) or 'no key'}"
    )
  for key in keys:
    if key not in fields:
      hint = _nearest(str(key), fields, lambda name: path(name))
      raise UserError(
        f"{path(key)} means nothing to {expected.taker};"
        + (hint or f" known: {', '.join(fields) or 'nothing'}")
      )
  found = {}
  for key, (annotation, default) in fields.items():
    if key in keys:
      value = _value(values, key, path(key))
      inner = f"{where}.{key}" if where else key
      if isinstance(annotation, Block):
        found[key] = check_block(value, annotation, inner)
      else:
        found[key] = check(value, annotation, path(key))
    elif default is REQUIRED:
      raise UserError(
        f"{path(key)} is missing; {expected.taker} needs a value for it:"
        f" {describe(annotation)}"
      )
  return found


def check_key(values: Config, key: str, annotation: Any, where: str) -> Any:
  """Checks one key of a block, whatever else is in it.

  Args:
    values: The block.
    key: The key.
    annotation: The values that it takes.
    where: The path of the block; "" for the whole configuration.

  Raises:
    UserError: It is missing, or its value is not allowed.
  """
  if _keys(values) is not None:
    values = {key: values[key]} if key in values else {}
  taker = where or "a configuration"
  return check_block(values, Block(taker, {key: Field(annotation)}), where)[key]


def check(value: Any, annotation: Any, where: str) -> Any:
  """Checks a value against an annotation.

  Args:
    value: The value that was given.
    annotation: Annotation of the field that is to hold it.
    where: The value's path in the configuration, or its flag, for messages.

  Returns:
    The value in the type of the annotation: lists become tuples, whole numbers floats.

  Raises:
    UserError: The value is not allowed.
  """
  try:
    return _fitted(value, annotation)
  except UnfitError as e:
    problem = str(e) or f": expected {describe(annotation)}"
    raise UserError(f"{where}={shown(value)}{problem}") from None


def describe(annotation: Any) -> str:
  """Returns the values that an annotation allows, in words.

  Raises:
    TypeError: It is none that can be checked.
  """
  if isinstance(annotation, Block):
    return f"a block with {', '.join(annotation.fields) or 'no key'}"
  if annotation in _WORDS:
    return _WORDS[annotation]
  origin, args = get_origin(annotation), get_args(annotation)
  if origin is Annotated:
    limit = " ".join(map(str, args[1:]))
    if args[0] is str:
      return limit
    inner = describe(args[0])
    if get_origin(args[0]) in _TUPLES:
      return inner.replace("any number of values", limit, 1)
    return f"{inner} {limit}"
  if origin is Literal:
    return str(OneOf(args))
  if origin in _UNIONS:
    return " or ".join(map(describe, args))
  if origin in _TUPLES:
    items = dict.fromkeys(map(describe, _items(annotation)))
    number = "any number of" if _is_open(annotation) else len(args)
    return f"a tuple of {number} values, each {' or '.join(items)}"
  raise TypeError(f"{annotation!r} does not say which values are allowed")


def shown(value: Any) -> str:
  """Returns a value as a message shows it, in one short line."""
  if _keys(value) is not None:
    return "a block"
  try:
    text = ascii(value) if isinstance(value, str) else repr(value)
  except Exception:  # A number of thousands of digits, or any object at all.
    text = f"<{type(value).__name__} that cannot be shown>"
  text = " ".join(text.split())
  return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _fitted(value: Any, annotation: Any) -> Any:
  """Returns a value in the type of its annotation, or raises `UnfitError`."""
  origin, args = get_origin(annotation), get_args(annotation)
  if origin is Annotated:
    found = _fitted(value, args[0])
    for limit in args[1:]:
      limit.check(found)
    return found
  if origin in _UNIONS:
    problems = []
    for kind in args:
      try:
        return _fitted(value, kind)
      except UnfitError as e:
        problems.append(e)
    raise max(problems, key=lambda e: len(str(e)))
  if origin is Literal:
    found = _fitted(value, str)
    OneOf(args).check(found)
    return found
  if origin in _TUPLES:
    return _fitted_tuple(value, annotation)
  if annotation is float and _is_number(value, numbers.Real):
    if abs(value) <= MAX_FLOAT:  # Also false for nan.
      return float(value)
  elif annotation is int and _is_number(value, numbers.Integral):
    return int(value)
  elif annotation is str and isinstance(value, str):
    if "\0" not in value and len(_encoded(value)) <= MAX_TEXT:
      return str(value)
  elif annotation in (bool, types.NoneType) and type(value) is annotation:
    return value
  raise UnfitError


def _fitted_tuple(value: Any, annotation: Any) -> tuple[Any, ...]:
  if not isinstance(value, list | tuple):
    raise UnfitError
  kinds = _items(annotation)
  if _is_open(annotation):
    kinds = kinds * len(value)
  elif len(kinds) != len(value):
    raise UnfitError
  return tuple(_fitted(x, kind) for x, kind in zip(value, kinds, strict=True))


_WORDS = {
  bool: "True or False",
  int: "a whole number",
  float: "a number",
  str: f"text of up to {MAX_TEXT} bytes",
  types.NoneType: "None",
}
_UNIONS = (Union, types.UnionType)
_TUPLES = (tuple, Sequence)


def _is_open(annotation: Any) -> bool:
  """Whether a tuple may have any length."""
  return get_origin(annotation) is Sequence or get_args(annotation)[-1:] == (...,)


def _items(annotation: Any) -> tuple[Any, ...]:
  """Returns the annotations of a tuple's values."""
  return tuple(x for x in get_args(annotation) if x is not ...)


def _is_number(value: Any, kind: type) -> bool:
  return isinstance(value, kind) and not isinstance(value, bool)


def _encoded(text: str) -> bytes:
  """Returns the bytes of a text, whatever is in it."""
  return text.encode("utf-8", "surrogatepass")


def _nearest(word: str, known: Iterable[str], show: Callable[[str], str]) -> str:
  close = difflib.get_close_matches(word, known, n=1)
  return f" did you mean {show(close[0])}?" if close else ""


def _keys(values: Any) -> list[Any] | None:
  """Returns the keys of a mapping; None for anything else."""
  if isinstance(values, type) or not hasattr(values, "keys"):
    return None
  return list(values.keys())


def _value(values: Config, key: str, path: str) -> Any:
  try:
    return values[key]
  except Exception as e:  # A placeholder of ml_collections that was never filled.
    raise UserError(f"{path} has no value yet; --{path}=VALUE sets it") from e


def _digits(number: int | float) -> str:
  return f"{number:,}" if isinstance(number, int) else f"{number:g}"
