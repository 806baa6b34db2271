"""Policies for losses and gradients that are not finite, and a warning of loss spikes.

The update itself skips such a step on the device (`training.step`). When its metrics
reach the host, this module finds the first bad step among them and reports its number,
modules and examples. `config.run.on_nonfinite` then decides:

stop      The run ends with a message; the last checkpoint is from before.
skip      The run continues without that update; after ten in a row it ends.
rollback  The run returns to its last checkpoint and continues with the batches after
          the bad one; after three rollbacks without progress it ends.

A loss spike only causes a warning: the data may simply be like that.
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

from lamd_jax.training import sharding
from lamd_jax.training.reader import Reader
from lamd_jax.training.state import AdversarialState, TrainState
from lamd_jax.types import Params, PRNGKey, UserError

POLICIES = ("stop", "skip", "rollback")
MAX_SKIPPED = 10  # In a row.
MAX_ROLLBACKS = 3  # Without getting past the bad step.
SPIKE = 3.0  # As a multiple of the median of the losses logged before.
# How many losses the median is over, and how many are too few for one.
SPIKE_MEMORY, SPIKE_LEAST = 20, 8
# Names of the losses to check, each with the norm of its gradient.
LOSSES = {"loss": "grad_norm", "critic_loss": "critic_grad_norm"}


class Bad(NamedTuple):
  """An update that was skipped.

  Attributes:
    step: Number of the update, from 1.
    what: Description such as "loss is nan".
    modules: Modules whose gradient is not finite; empty if the loss itself is not.
  """

  step: int
  what: str
  modules: tuple[str, ...]


def check_policy(name: str) -> None:
  """Raises a `UserError` for an unknown policy."""
  if name not in POLICIES:
    raise UserError(f"config.run.on_nonfinite={name!r}; known: {', '.join(POLICIES)}")


def modules_of(params: Params) -> list[str]:
  """Returns the module path of each array, in the order of the tree's leaves."""
  paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  return [jax.tree_util.keystr(p[:-1], simple=True, separator="/") for p in paths]


def find_bad(
  step: int, metrics: Mapping[str, Any], modules: Mapping[str, Sequence[str]]
) -> Bad | None:
  """Describes what is wrong with an update; returns None if nothing is.

  Args:
    step: Number of the update.
    metrics: Metrics from `make_train_step`, on the host.
    modules: For each loss, `modules_of` the parameters it trains.
  """
  for loss, norm in LOSSES.items():
    if loss in metrics and not math.isfinite(metrics[loss]):
      return Bad(step, f"{loss} is {float(metrics[loss])}", ())
    if norm in metrics and not math.isfinite(metrics[norm]):
      # Large but finite gradients can overflow in the sum of squares: name all.
      is_bad = ~np.isfinite(metrics[f"{norm}s"])
      is_bad |= not is_bad.any()
      named = dict.fromkeys(
        m for m, bad in zip(modules[loss], is_bad, strict=True) if bad
      )
      return Bad(step, f"{norm} is {float(metrics[norm])}", tuple(named))
  return None


class Locator:
  """Names the module in which the loss of a bad update first stops being finite.

  It computes that loss again from the same batch and random key, with the parameters
  it is given: those from before the update, or, where updates have been made since,
  later ones.
  """

  def __init__(
    self,
    find_module: Callable[..., str],
    stage: Any,
    reader: Reader,
    mesh: jax.sharding.Mesh,
    root_key: PRNGKey,
  ):
    """Prepares; computes nothing yet.

    Args:
      find_module: Function `(stage, params, batch, key) -> name of a module`, such as
        `systems.stage.make_probe` returns.
      stage: The stage being trained.
      reader: Source of the stage's batches.
      mesh: Mesh that batches are placed on.
      root_key: Key that every update derives its own from, as `make_train_step` takes.
    """
    self._find_module, self._stage, self._reader = find_module, stage, reader
    self._mesh, self._root_key = mesh, root_key

  def __call__(self, step: int, params: Params) -> str:
    """Returns the module's name, "" if every output is finite with these parameters.

    Args:
      step: Number of the bad update, from 1.
      params: Parameters to compute the loss with.
    """
    batch = sharding.shard_batch(self._reader.again(step), self._mesh)
    key = jax.random.fold_in(self._root_key, step - 1)
    return self._find_module(self._stage, params, batch, key)


class Watch:
  """Checks every update of a stage once its metrics are logged.

  Attributes:
    policy: The policy for updates that are not finite, one of `POLICIES`.
  """

  def __init__(
    self,
    name: str,
    policy: str,
    state: TrainState,
    locate: Callable[..., str],
  ):
    """Starts watching.

    Args:
      name: Name of the stage, for messages.
      policy: One of `POLICIES`.
      state: State whose parameters the gradients belong to, as arrays or shapes; not
        kept.
      locate: Returns the module in which the loss of a bad step first stops being
        finite, "" if it no longer does. Called with the step, followed by whatever
        `look` is given; a `Locator`, for example.
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
    """Remembers the indices of an update's examples until it is logged."""
    self._examples[step] = examples

  def look(
    self, window: Sequence[tuple[int, Mapping[str, Any]]], *context: Any
  ) -> int | None:
    """Checks the updates that have been logged since the last call.

    Args:
      window: Number and metrics of each update, on the host, from `Log.window`.
      *context: Further arguments of `locate`, such as the current parameters.

    Returns:
      The first bad step if the run has to go back to before it, otherwise None.

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
      if not bad:
        return self._look_for_spike(window)
      return self._act(bad, longest, self._story(bad[0], context))
    finally:
      last, _ = window[-1]
      self._examples = {k: v for k, v in self._examples.items() if k > last}

  def _act(self, bad: Sequence[Bad], longest: int, story: str) -> int | None:
    """Applies the policy.

    Args:
      bad: The bad updates of a window, at least one.
      longest: Length of the longest run of bad updates, earlier windows included.
      story: Description of the first one.
    """
    first = bad[0].step
    if self.policy == "stop":
      raise UserError(
        f"training diverged: {story}; lower learning_rate or clip_norm, or raise"
        " warmup_steps, and start the stage again, or set"
        " --config.run.on_nonfinite=skip or rollback (checkpoints already written are"
        " from before)"
      )
    if self.policy == "skip":
      if longest >= MAX_SKIPPED:
        raise UserError(
          f"training diverged: {MAX_SKIPPED} updates in a row were skipped, the last"
          f" {bad[-1].step}; {story}; checkpoints already written are from before"
        )
      others = f", and {len(bad) - 1} more since" if len(bad) > 1 else ""
      logging.warning("update skipped%s: %s", others, story)
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

  def _story(self, bad: Bad, context: Sequence[Any]) -> str:
    """Describes a bad update: its step, module and examples."""
    if bad.modules:
      more = len(bad.modules) - 3
      where = "gradient of " + ", ".join(bad.modules[:3])
      where += f" and {more} more" if more > 0 else ""
    elif module := self._locate(bad.step, *context):
      where = f"first in {module}"
    else:
      where = "every module's output is finite with the current parameters"
    # Each process knows only its own examples.
    mine = self._examples.get(bad.step, np.zeros(0, np.int32))
    examples = np.asarray(multihost_utils.process_allgather(mine, tiled=True))
    numbers = " ".join(map(str, examples.tolist()))
    return f"{bad.what} at step {bad.step} of {self._name}, {where}, examples {numbers}"

  def _look_for_spike(self, window: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
    """Warns when the loss jumps far above its recent level, once for each jump."""
    step = window[-1][0]
    loss = float(np.mean([metrics["loss"] for _, metrics in window], dtype=np.float64))
    median = float(np.median(self._losses)) if self._losses else 0.0
    # Around zero, a ratio means nothing.
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
