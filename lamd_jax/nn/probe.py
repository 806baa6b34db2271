"""Where in a network numbers stop being numbers."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp


def make_probe(fn: Callable[..., Any]) -> Callable[..., str]:
  """Returns a function that names the first linen module to give something not finite.

  It runs `fn` and looks at what each module in it gives; the innermost come first,
  as they are done first. Inside of scans and rematerialisation too.

  Args:
    fn: A pure function that applies modules. It is compiled at the first call.

  Returns:
    A function of the same arguments. It gives a module's path and class, such as
    "encoder/blocks_0/conv (Conv)"; "" if all is finite.
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
    jax.effects_barrier()  # The notes have arrived.
    return names[min(seen)] if seen else ""

  return probe
