"""Configurations: arguments after the colon, and the blocks that all of them share."""

import ml_collections

from lamd_jax.types import UserError


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
