"""A score with the protocol that makes it mean something.

Published FVDs of one model differ by more than those of different models, because
of what was not said: how many clips, of how many frames, how resized, against which
videos. A card is a dict for JSON that says it; `compare` tells how two differ.
"""

from collections.abc import Mapping
from typing import Any

import lamd_jax
from lamd_jax.metrics import features as features_lib
from lamd_jax.metrics import frechet
from lamd_jax.types import UserError

Card = dict[str, Any]

# Below, a covariance of hundreds of features is noise, whatever it is used for.
MIN_FRECHET = 64
DISTANCES: Mapping[str, frechet.Distance] = {
  "FVD": frechet.frechet_distance,
  "KVD": frechet.kernel_distance,
}
_ABOUT_THE_SETS = ("real", "generated")  # These differ between cards that compare.


def make_card(
  name: str,
  real: frechet.Features,
  generated: frechet.Features,
  *,
  detector: features_lib.Detector,
  protocol: Mapping[str, Any],
  companions: Mapping[str, frechet.Features] | None = None,
  num_draws: int = 100,
  seed: int = 0,
) -> Card:
  """Measures a distance and writes down how.

  Args:
    name: A key of `DISTANCES`.
    real: Features of real clips.
    generated: Features of generated ones.
    detector: What took the features.
    protocol: What else belongs to the number: frames, stride, size, split, sampler...
    companions: Further sets that are measured against `real`, by name, such as other
      real clips (the floor) and stills (the ceiling); of as many clips as `generated`.
    num_draws: For the interval; 0 leaves it out.
    seed: Of the interval's draws.

  Returns:
    `name` (with the number of generated clips, as in "FVD@256"), `value`,
    `interval_95`, `companions` and `protocol`.

  Raises:
    UserError: There are too few clips for this distance, or features are not finite.
  """
  check_count(name, min(len(real), len(generated)))
  distance = DISTANCES[name]
  card: Card = {
    "name": f"{name}@{len(generated)}",
    "value": distance(real, generated),
    "companions": {
      key: distance(real, other) for key, other in (companions or {}).items()
    },
    "protocol": dict(protocol)
    | {
      "detector": detector.name,
      "detector_sha256": detector.sha256,
      "resize_rule": detector.resize_rule,
      "num_real": len(real),
      "num_generated": len(generated),
      "version": lamd_jax.__version__,
    },
  }
  if name == "FVD":
    card["protocol"]["covariance"] = "divided by n - 1"
  if num_draws:
    interval = frechet.bootstrap_interval(
      distance, real, generated, num_draws=num_draws, seed=seed
    )
    card["interval_95"] = list(interval)
  return card


def check_count(name: str, num_clips: int) -> None:
  """Refuses a distance of fewer clips than it needs; ask before features are taken.

  Raises:
    UserError: There are too few.
  """
  if name == "FVD" and num_clips < MIN_FRECHET:
    raise UserError(
      f"{num_clips} clips are too few for FVD, whose covariances need at least"
      f" {MIN_FRECHET}, better 2048; KVD can be had from 2 on"
    )


def headline(card: Card) -> str:
  """The score in one line, never without its count."""
  text = f"{card['name']} = {card['value']:.4g}"
  if "interval_95" in card:
    low, high = card["interval_95"]
    text += f" (95 % interval {low:.4g} to {high:.4g})"
  for name, value in card["companions"].items():
    text += f"; {name} {value:.4g}"
  return text


def compare(a: Card, b: Card) -> list[str]:
  """What differs between the protocols of two cards, a line each; [] if nothing.

  Raises:
    UserError: One of them is no card.
  """
  first, second = _said(a), _said(b)
  return [
    f"{key}: {first.get(key, 'not said')} | {second.get(key, 'not said')}"
    for key in sorted(first | second)
    if key not in _ABOUT_THE_SETS and first.get(key) != second.get(key)
  ]


def _said(card: Card) -> dict[str, Any]:
  if not isinstance(card, dict) or not {"name", "value", "protocol"} <= card.keys():
    raise UserError("this is no card; expected a file as --output writes it")
  return {"measure": card["name"].partition("@")[0]} | card["protocol"]
