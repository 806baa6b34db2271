"""Locates the module of a network whose output is not finite."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp


def make_probe(fn: Callable[..., Any]) -> Callable[..., str]:
  """Returns a function that names the first linen module with a non-finite output.

  It runs `fn` and checks the output of every module inside; inner modules finish, and
  so are named, before those around them. Modules under rematerialisation are seen too,
  and those in a `flax.linen.scan` with `check_constancy_invariants=False`: its check
  refuses the callbacks that report from the device.

  Args:
    fn: A pure function that applies modules. It is compiled at the first call.

  Returns:
    A function of the same arguments, which returns the path and class of a module, such
    as "encoder/blocks_0/conv (Conv)", or "" if everything is finite.
  """
  names: list[str] = []
  seen: set[int] = set()

  def interceptor(next_fn, args, kwargs, context):
    output = next_fn(*args, **kwargs)
    numbers = [
      x
      for x in jax.tree.leaves(output)
      if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)
    ]
    if numbers:
      path = "/".join(context.module.path) or "the network"
      names.append(f"{path} ({type(context.module).__name__})")
      number = len(names) - 1
      note = lambda is_finite: None if is_finite else seen.add(number)
      are_finite = [jnp.all(jnp.isfinite(x)) for x in numbers]
      jax.debug.callback(note, jnp.all(jnp.stack(are_finite)))
    return output

  def watched(*args):
    with nn.intercept_methods(interceptor):
      return fn(*args)

  compiled = jax.jit(watched)

  def probe(*args: Any) -> str:
    seen.clear()
    jax.block_until_ready(compiled(*args))
    jax.effects_barrier()  # All notes have arrived.
    return names[min(seen)] if seen else ""

  return probe
