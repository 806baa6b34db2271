"""Freezing by structure: a network whose halves are separate trees of parameters.

A stage that trains only some layers of a network returns only those from `init`; the
others are a `Part` it holds. So the frozen half is in no optimizer, no average and no
checkpoint, and either half can be saved, loaded or swapped alone.

    first, rest = split(params, lambda path: "temporal" not in path)
    model.apply({"params": merge(first, rest)}, ...)
"""

from collections.abc import Callable

from flax import traverse_util

from lamd_jax.types import Params


def split(
  params: Params, is_first: Callable[[tuple[str, ...]], bool]
) -> tuple[Params, Params]:
  """Divides a tree of parameters in two.

  Args:
    params: Nested dicts of arrays, or of their shapes.
    is_first: Whether an array belongs to the first half, by its path of names.

  Returns:
    The two halves, under the paths that they had.
  """
  flat = traverse_util.flatten_dict(params)
  halves = [
    {path: x for path, x in flat.items() if is_first(path) == wanted}
    for wanted in (True, False)
  ]
  first, second = map(traverse_util.unflatten_dict, halves)
  return first, second


def merge(*parts: Params) -> Params:
  """Joins trees of parameters that `split` divided.

  Raises:
    ValueError: Two of them have an array of the same path.
  """
  whole = {}
  for part in parts:
    flat = traverse_util.flatten_dict(part)
    for path in flat.keys() & whole.keys():
      raise ValueError(f"{'/'.join(path)} is in two of the parts to merge")
    whole |= flat
  return traverse_util.unflatten_dict(whole)
