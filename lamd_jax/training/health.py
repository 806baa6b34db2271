"""What to do when a loss or a gradient is not a number, and when a loss jumps.

The update itself leaves such a step out, on the device (`training.step`). Here, when
metrics reach the host, the first bad step among them is found and said: step, modules,
examples. Then, by `config.run.on_nonfinite`:

stop      the run ends with a message; the last checkpoint is from before.
skip      the run goes on without that update; after ten in a row it ends.
rollback  the run goes back to its last checkpoint, and on with the batches after the
          bad one; after three times without getting further it ends.

A loss that jumps is only warned of: it may be what the data are like.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, NamedTuple

from absl import logging
import jax
from jax.experimental import multihost_utils
from jaxtyping import Int
import numpy as np

from lamd_jax.training.state import AdversarialState, TrainState
from lamd_jax.types import Params, UserError

POLICIES = ("stop", "skip", "rollback")
MAX_SKIPPED = 10  # In a row.
MAX_ROLLBACKS = 3  # Without getting past the bad step.
SPIKE = 3.0  # Times the median of the logged losses before.
SPIKE_MEMORY, SPIKE_LEAST = 20, 8  # So many of them; fewer say nothing yet.
# What is looked at, and the norms of the gradient that belongs to it.
LOSSES = {"loss": "grad_norm", "critic_loss": "critic_grad_norm"}


class Bad(NamedTuple):
  """A step that was left out.

  Attributes:
    step: Updates made, this one included.
    what: Such as "loss is nan".
    modules: Where the gradient is not finite; none where the loss is not.
  """

  step: int
  what: str
  modules: tuple[str, ...]


def check_policy(name: str) -> None:
  """Raises a `UserError` for a policy that does not exist."""
  if name not in POLICIES:
    raise UserError(f"config.run.on_nonfinite={name!r}; known: {', '.join(POLICIES)}")


def modules_of(params: Params) -> list[str]:
  """Returns the path of the module of each array, in the order of the arrays."""
  paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  return [jax.tree_util.keystr(p[:-1], simple=True, separator="/") for p in paths]


def find_bad(
  step: int, metrics: Mapping[str, Any], modules: Mapping[str, Sequence[str]]
) -> Bad | None:
  """Returns what was wrong with an update, None if nothing was.

  Args:
    step: Its number.
    metrics: Of `make_train_step`, on the host.
    modules: By the name of a loss, `modules_of` the parameters that follow it.
  """
  for loss, norm in LOSSES.items():
    if loss in metrics and not math.isfinite(metrics[loss]):
      return Bad(step, f"{loss} is {float(metrics[loss])}", ())
    if norm in metrics and not math.isfinite(metrics[norm]):
      # Of large numbers the sum of squares alone may be infinite; then all are named.
      is_bad = ~np.isfinite(metrics[f"{norm}s"])
      is_bad |= not is_bad.any()
      named = dict.fromkeys(
        m for m, bad in zip(modules[loss], is_bad, strict=True) if bad
      )
      return Bad(step, f"{norm} is {float(metrics[norm])}", tuple(named))
  return None


class Watch:
  """Looks at every update of a stage once it is logged.

  Attributes:
    policy: One of `POLICIES`.
  """

  def __init__(
    self,
    name: str,
    policy: str,
    state: TrainState,
    locate: Callable[[int, Params], str],
  ):
    """Begins to watch.

    Args:
      name: Of the stage, for messages.
      policy: What to do, one of `POLICIES`.
      state: Whose parameters the arrays of a gradient belong to; not kept.
      locate: From the number of a bad step, and parameters, to the module that its loss
        became not finite in, "" if it does not any more.
    """
    check_policy(policy)
    self.policy = policy
    self._name, self._locate = name, locate
    self._modules = {"loss": modules_of(state.params)}
    if isinstance(state, AdversarialState):
      self._modules["critic_loss"] = modules_of(state.critic_params)
    self._examples: dict[int, Int[np.ndarray, " b"]] = {}
    self._in_a_row = self._rollbacks = self._furthest = 0
    self._losses: collections.deque[float] = collections.deque(maxlen=SPIKE_MEMORY)
    self._is_high = False

  def saw(self, step: int, examples: Int[np.ndarray, " b"]) -> None:
    """Keeps the numbers of an update's examples until it is logged."""
    self._examples[step] = examples

  def look(
    self, window: Sequence[tuple[int, Mapping[str, Any]]], params: Params
  ) -> int | None:
    """Looks at the updates since the last time.

    Args:
      window: Number and metrics of each, on the host; see `Log.window`.
      params: The parameters of now, to look for the module with.

    Returns:
      The first bad step, if the run has to go back to before it; otherwise None.

    Raises:
      UserError: The run cannot go on.
    """
    bad, longest = [], 0
    for step, metrics in window:
      found = find_bad(step, metrics, self._modules)
      bad += [found] if found else []
      self._in_a_row = self._in_a_row + 1 if found else 0
      longest = max(longest, self._in_a_row)
    try:
      return self._act(bad, longest, params) if bad else self._look_for_spike(window)
    finally:
      last, _ = window[-1]
      self._examples = {k: v for k, v in self._examples.items() if k > last}

  def _act(self, bad: Sequence[Bad], longest: int, params: Params) -> int | None:
    first, story = bad[0].step, self._story(bad[0], params)
    if self.policy == "stop":
      raise UserError(
        f"training diverged: {story}; lower learning_rate or clip_norm, or raise"
        " warmup_steps, and start the stage again, or leave such updates out with"
        " --config.run.on_nonfinite=skip or rollback (checkpoints already written are"
        " from before)"
      )
    if self.policy == "skip":
      if longest >= MAX_SKIPPED:
        raise UserError(
          f"training diverged: {MAX_SKIPPED} updates in a row were left out, at last"
          f" {bad[-1].step}; {story}; checkpoints already written are from before"
        )
      others = f", and {len(bad) - 1} more since" if len(bad) > 1 else ""
      logging.warning("update left out%s: %s", others, story)
      return None
    self._rollbacks = 1 if first > self._furthest else self._rollbacks + 1
    self._furthest = max(first, self._furthest)
    if self._rollbacks > MAX_ROLLBACKS:
      raise UserError(
        f"training diverged: no way past step {self._furthest} with"
        f" {MAX_ROLLBACKS} rollbacks; {story}; lower learning_rate and start the stage"
        " again (checkpoints already written are from before)"
      )
    logging.warning("going back to the last checkpoint: %s", story)
    return first

  def _story(self, bad: Bad, params: Params) -> str:
    """Step, module and examples, in words."""
    if bad.modules:
      more = len(bad.modules) - 3
      where = "gradient of " + ", ".join(bad.modules[:3])
      where += f" and {more} more" if more > 0 else ""
    elif module := self._locate(bad.step, params):
      where = f"first in {module}"
    else:
      where = "with the parameters of now every module's output is finite"
    # Of several processes each knows its own examples.
    mine = self._examples.get(bad.step, np.zeros(0, np.int32))
    examples = np.asarray(multihost_utils.process_allgather(mine, tiled=True))
    numbers = " ".join(map(str, examples.tolist()))
    return f"{bad.what} at step {bad.step} of {self._name}, {where}, examples {numbers}"

  def _look_for_spike(self, window: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
    """Warns once of a loss that is far above what it was."""
    step = window[-1][0]
    loss = float(np.mean([metrics["loss"] for _, metrics in window], dtype=np.float64))
    median = float(np.median(self._losses)) if self._losses else 0.0
    # A factor says nothing of losses around zero.
    known = len(self._losses) >= SPIKE_LEAST and median > 0
    is_high = known and loss > SPIKE * median
    if is_high and not self._is_high:
      logging.warning(
        "loss spike at step %d of %s: %.4g, %.1f times the median of the %d logged"
        " before",
        *(step, self._name, loss, loss / median, len(self._losses)),
      )
    self._is_high = is_high
    self._losses.append(loss)
