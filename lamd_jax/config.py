"""Configurations: arguments after the colon, shared blocks, objects built from values.

A dataclass that a configuration fills declares in its annotations which values it
takes, and `build` checks them:

    form: Literal["hinge", "log"]                # One of these names.
    eta: Annotated[float, Range(0, 1)]           # A number, bounds included.
    weight: Annotated[float, Range(0)] = 0.5     # 0 or more.
"""

from collections.abc import Callable, Iterable
import dataclasses
import difflib
import math
from typing import Annotated, Any, Literal, get_args, get_origin

import ml_collections

from lamd_jax.types import Config, UserError


@dataclasses.dataclass(frozen=True)
class Range:
  """Bounds of a number, both included, for `Annotated` fields.

  Attributes:
    low: The smallest value.
    high: The largest value; infinity for none.
  """

  low: int | float
  high: int | float = math.inf

  def __contains__(self, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and self.low <= value <= self.high

  def __str__(self) -> str:
    end = "or more" if self.high == math.inf else f"to {self.high:g}"
    return f"{self.low:g} {end}"


def experiment_config() -> ml_collections.ConfigDict:
  """Returns a configuration with the blocks that say how a run is executed.

  Neither block changes what is learned; configs/README.md explains both.
  """
  config = ml_collections.ConfigDict()
  config.mesh = dict(data=-1, fsdp=1, tensor=1, context=1)
  config.run = dict(
    remat="none", on_nonfinite="stop", keep_best="", log_examples=False, wandb=""
  )
  return config


def parse_arg(arg: str | None, **defaults):
  """Parses the part after the colon of `--config=file.py:a=1,b`.

  Args:
    arg: `name=value` pairs separated by commas; a name alone means True.
    **defaults: The default of each known name; its type is the argument's type. A
      tuple lists every allowed value, the default first.

  Returns:
    A dict with the names of `defaults`.

  Raises:
    UserError: A name is unknown, or a value has the wrong type.
  """
  values = {name: x[0] if isinstance(x, tuple) else x for name, x in defaults.items()}
  for item in filter(None, (arg or "").split(",")):
    name, _, text = item.partition("=")
    if name not in defaults:
      raise UserError(
        f"unknown configuration argument {name!r} (after the colon of --config);"
        f" known: {', '.join(sorted(defaults))}"
      )
    choices, kind = defaults[name], type(values[name])
    try:
      switch = {"": True, "true": True, "false": False}
      values[name] = switch[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
      raise UserError(
        f"configuration argument {name}={text!r}: expected {kind.__name__},"
        f" for example {name}={defaults[name]}"
      ) from None
    if isinstance(choices, tuple) and values[name] not in choices:
      raise UserError(
        f"configuration argument {name}={text!r}; known:"
        f" {', '.join(str(x) for x in choices if x != '')}"
      )
  return values


def build(cls: Callable[..., Any], values: Config, where: str, **bound):
  """Builds a linen module or another dataclass from the values of a configuration.

  Args:
    cls: The class to build.
    values: Its fields by name.
    where: The path of `values` in the configuration, for messages.
    **bound: Fields that the system sets itself; a configuration cannot.

  Raises:
    UserError: A key is not a field, a required field is missing, or a value is outside
      what its field's annotation allows.
  """
  fields = {
    field.name: field
    for field in dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    if field.init and field.name not in ("parent", "name", *bound)
  }
  for key, value in values.items():
    if key not in fields:
      close = difflib.get_close_matches(key, fields, n=1)
      hint = f"did you mean {where}.{close[0]}?" if close else ""
      raise UserError(
        f"{where}.{key} means nothing to {cls.__name__}; "
        + (hint or f"known: {', '.join(fields)}")
      )
    check(value, fields[key].type, f"{where}.{key}")
  for key, field in fields.items():
    if key not in values and _is_required(field):
      raise UserError(f"{where}.{key} is missing; {cls.__name__} needs a value for it")
  return cls(**bound, **{key: _plain(value) for key, value in values.items()})


def check(value: Any, annotation: Any, where: str) -> None:
  """Checks a value against `Literal[...]` or `Annotated[..., Range(...)]`.

  Args:
    value: The value in the configuration.
    annotation: Annotation of its field; any other kind allows everything.
    where: The value's path in the configuration, for messages.

  Raises:
    UserError: The value is not allowed.
  """
  if get_origin(annotation) is Literal:
    check_choice(value, get_args(annotation), where)
  elif get_origin(annotation) is Annotated:
    for bounds in get_args(annotation)[1:]:
      if isinstance(bounds, Range) and value not in bounds:
        raise UserError(f"{where}={value!r}: expected {bounds}")


def check_choice(value: Any, known: Iterable[Any], where: str) -> None:
  """Checks that a value is one of those known, for choices that are keys of a table.

  Args:
    value: The value in the configuration.
    known: Every allowed value.
    where: The value's path in the configuration, for messages.

  Raises:
    UserError: The value is not among them.
  """
  known = tuple(known)
  if value not in known:
    raise UserError(f"{where}={value!r}; known: {', '.join(str(x) for x in known)}")


def _is_required(field: dataclasses.Field) -> bool:
  missing = dataclasses.MISSING
  return field.default is missing and field.default_factory is missing


def _plain(value: Any) -> Any:
  """Turns lists into tuples, all the way down: fields of a module must be hashable."""
  if isinstance(value, (list, tuple)):
    return tuple(_plain(v) for v in value)
  return value
