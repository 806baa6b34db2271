"""Applying networks, and the settings of how they compute."""

from typing import Any

import jax.numpy as jnp

from lamd_jax.config import check_choice
from lamd_jax.nn.remat import POLICIES
from lamd_jax.types import Config, Params

# Keys of `config.sample` that jobs read; the rest is the system's.
OF_JOBS = ("batch_size", "checkpoint")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def apply(model: Any, params: Params, *args, **kwargs) -> Any:
  """Applies a linen module to parameters; `method=` calls another of its methods."""
  return model.apply({"params": params}, *args, **kwargs)


def compute_dtype(name: str) -> jnp.dtype:
  """Returns the dtype that networks compute in; parameters are always float32."""
  check_choice(name, DTYPES, "compute_dtype")
  return jnp.dtype(DTYPES[name])


def of_computation(config: Config) -> dict[str, Any]:
  """Returns the fields of a network that say how it computes, not what it computes."""
  check_choice(config.run.remat, POLICIES, "run.remat")
  return {"dtype": compute_dtype(config.compute_dtype), "remat": config.run.remat}
