"""What the files in configs/ share, and what every job asks of a configuration."""

from lamd_jax.types import UserError


def parse_arg(arg: str | None, **defaults):
  """Reads the part after the colon of `--config=file.py:a=1,b` by typed defaults.

  Args:
    arg: `name=value` pairs separated by commas; a name alone means True.
    **defaults: The known names, each with its default; its type is the
      argument's type. A tuple is all values there are, the default first.

  Returns:
    A dict with the names of `defaults`.

  Raises:
    UserError: An unknown name, or a value of another type.
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
