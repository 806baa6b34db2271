"""What the backward pass keeps of the forward pass, and what it computes again.

Rematerialisation (Chen et al. 2016, arXiv:1604.06174) trades arithmetic for memory. It
changes neither parameters nor results, so a policy may change in the middle of a
training.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from lamd_jax.nn.conv import RESULT

# Name -> which results inside a block are kept, from the most memory to the least. What
# enters a block is kept always; "none" is no rematerialisation.
POLICIES: dict[str, Callable[..., Any] | None] = {
  "none": None,
  # Convolutions and products with weights. What is computed again is elementwise, but
  # for attention's own products: its scores, of every pixel with every pixel, would
  # take as much memory as this saves.
  "elementwise": jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(RESULT),
  ),
  "block": jax.checkpoint_policies.nothing_saveable,
}


def call_block(block: nn.Module, policy: str, *args: Any, **static: Any) -> Any:
  """Calls a block of a network; its backward pass keeps what the policy says.

  Args:
    block: A module, bound to the one that calls it.
    policy: A key of `POLICIES`.
    *args: Arrays, or None.
    **static: What is no array, such as `train`.
  """
  if POLICIES[policy] is None:
    return block(*args, **static)  # pyright: ignore[reportCallIssue]
  call = lambda block, *args: block(*args, **static)
  return nn.remat(call, policy=POLICIES[policy])(block, *args)
