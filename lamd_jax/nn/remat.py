"""Rematerialisation: which results the backward pass keeps and which it recomputes.

It trades arithmetic for memory (Chen et al. 2016, arXiv:1604.06174) and changes neither
parameters nor results, so the policy may change in the middle of a training run.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from lamd_jax.nn.conv import RESULT

# Name -> which results inside a block are kept, from the most memory to the least. The
# input of a block is always kept; "none" is no rematerialisation.
POLICIES: dict[str, Callable[..., Any] | None] = {
  "none": None,
  # Keeps convolutions and products with weights. Elementwise results are recomputed,
  # and attention's own products are too: its scores, of every pixel with every pixel,
  # would take as much memory as this saves.
  "elementwise": jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(RESULT),
  ),
  "block": jax.checkpoint_policies.nothing_saveable,
}


def call_block(block: nn.Module, policy: str, *args: Any, **static: Any) -> Any:
  """Calls a block of a network, rematerialized by a policy.

  Args:
    block: The module to call, bound to the calling module.
    policy: A key of `POLICIES`.
    *args: Arrays or None.
    **static: Arguments that are not arrays, such as `train`.
  """
  if POLICIES[policy] is None:
    return block(*args, **static)  # pyright: ignore[reportCallIssue]
  call = lambda block, *args: block(*args, **static)
  return nn.remat(call, policy=POLICIES[policy])(block, *args)
