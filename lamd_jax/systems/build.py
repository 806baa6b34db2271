"""Modules from a configuration: keys are the module's fields, nothing else."""

from collections.abc import Callable
import dataclasses
import difflib
from typing import Any

import jax.numpy as jnp

from lamd_jax.nn.remat import POLICIES
from lamd_jax.types import Config, Params, UserError

# Keys of `config.sample` that jobs read; the rest is the system's.
OF_JOBS = ("batch_size", "checkpoint")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build(cls: Callable[..., Any], values: Config, where: str, **bound):
  """Calls a module's class with the values of a configuration.

  Args:
    cls: A linen module or another dataclass.
    values: Its fields by name.
    where: The path of `values` in the configuration, for messages.
    **bound: Fields that the system sets itself.

  Raises:
    UserError: A key is not a field.
  """
  known = [f.name for f in dataclasses.fields(cls) if f.name not in ("parent", "name")]  # pyright: ignore[reportArgumentType]
  known = [name for name in known if name not in bound]
  for key in values:
    if key not in known:
      close = difflib.get_close_matches(key, known, n=1)
      hint = f"did you mean {where}.{close[0]}?" if close else ""
      raise UserError(
        f"{where}.{key} means nothing to {cls.__name__}; "
        + (hint or f"known: {', '.join(known)}")
      )
  return cls(**bound, **{k: _plain(v) for k, v in values.items()})


def apply(model: Any, params: Params, *args, **kwargs) -> Any:
  """Applies a linen module to parameters; `method=` calls another of its methods."""
  return model.apply({"params": params}, *args, **kwargs)


def compute_dtype(config: Config) -> jnp.dtype:
  """Returns what the networks compute in; parameters are always float32."""
  if config.compute_dtype not in DTYPES:
    raise UserError(
      f"config.compute_dtype is {config.compute_dtype!r}; known: {', '.join(DTYPES)}"
    )
  return jnp.dtype(DTYPES[config.compute_dtype])


def of_computation(config: Config) -> dict[str, Any]:
  """Returns the fields of a network that say how it is computed, not what."""
  if config.run.remat not in POLICIES:
    raise UserError(
      f"config.run.remat is {config.run.remat!r}; known: {', '.join(POLICIES)}"
    )
  return {"dtype": compute_dtype(config), "remat": config.run.remat}


def _plain(value: Any) -> Any:
  """Lists as tuples, all the way down: fields of a module must be hashable."""
  if isinstance(value, (list, tuple)):
    return tuple(_plain(v) for v in value)
  return value
