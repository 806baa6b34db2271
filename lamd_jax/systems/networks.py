"""Applying networks, and the settings of how they compute."""

from typing import Annotated, Any

import jax.numpy as jnp

from lamd_jax.nn.remat import POLICIES
from lamd_jax.schema import OneOf, check
from lamd_jax.types import Config, Params

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# Values of `config.compute_dtype` and `config.run.remat`.
DType = Annotated[str, OneOf(DTYPES)]
Remat = Annotated[str, OneOf(POLICIES)]
# Fields of networks that `of_computation` sets.
OF_COMPUTATION = ("dtype", "remat")


def apply(model: Any, params: Params, *args, **kwargs) -> Any:
  """Applies a linen module to parameters; `method=` calls another of its methods."""
  return model.apply({"params": params}, *args, **kwargs)


def compute_dtype(name: str) -> jnp.dtype:
  """Returns the dtype that networks compute in; parameters are always float32."""
  return jnp.dtype(DTYPES[check(name, DType, "config.compute_dtype")])


def of_computation(config: Config) -> dict[str, Any]:
  """Returns the fields of a network that say how it computes, not what it computes."""
  remat = check(config.run.remat, Remat, "run.remat")
  return {"dtype": compute_dtype(config.compute_dtype), "remat": remat}
