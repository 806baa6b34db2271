"""Which checkpoints a run keeps.

Three kinds stay: the newest few; the newest of those saved at the regular interval,
which a rollback returns to wherever a run was stopped and saved in between; and the
best by a logged scalar, where one is named.

The name of that scalar, `keep_best` throughout, starts with "-" where lower is better.
"""

from collections.abc import Mapping
import math
from typing import Any

from orbax.checkpoint import checkpoint_managers

Scalars = Mapping[str, float]


def policy(
  max_to_keep: int, every: int, keep_best: str
) -> checkpoint_managers.AnyPreservationPolicy:
  """Returns the rule by which orbax deletes checkpoints.

  Args:
    max_to_keep: Number of newest checkpoints that stay.
    every: Regular interval in updates; 0 for none.
    keep_best: Scalar whose best checkpoint stays; empty for none.
  """
  policies: list[Any] = [checkpoint_managers.LatestN(max_to_keep)]
  if every:
    policies.append(checkpoint_managers.EveryNSteps(every, max_to_keep=1))
  if keep_best:
    best = checkpoint_managers.BestN(
      get_metric_fn=lambda scalars: score(scalars, keep_best),
      n=1,
      keep_checkpoints_without_metrics=False,
    )
    policies.append(best)
  return checkpoint_managers.AnyPreservationPolicy(policies)


def scalar_name(keep_best: str) -> str:
  """Returns the name of the scalar alone, without its sign."""
  return keep_best.removeprefix("-")


def score(scalars: Scalars | None, keep_best: str) -> float:
  """Returns how good a checkpoint is: higher is better, -inf where it is unknown."""
  value = (scalars or {}).get(scalar_name(keep_best), -math.inf)
  return -value if keep_best.startswith("-") and math.isfinite(value) else value


def best_first(scalars: Mapping[int, Scalars | None], keep_best: str) -> list[int]:
  """Returns the steps that have the scalar, the best first, ties newest first.

  Args:
    scalars: Scalars that each step was saved with; None where they are unknown.
    keep_best: Scalar to rank by.
  """
  scores = {step: score(scalars[step], keep_best) for step in scalars}
  ranked = [step for step in scores if math.isfinite(scores[step])]
  return sorted(ranked, key=lambda step: (scores[step], step), reverse=True)
