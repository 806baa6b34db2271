"""A score with the protocol that makes it mean something.

Published FVDs of one model differ by more than those of different models, because
of what was not said: how many clips, of how many frames, how resized, against which
videos. A card is a dict for JSON that says it; `compare` tells how two differ.
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import numpy as np

import lamd_jax
from lamd_jax.metrics import frechet
from lamd_jax.metrics.measures import Measure, Rows
from lamd_jax.types import UserError

Card = dict[str, Any]

_ABOUT_THE_SETS = ("real", "generated")  # These differ between cards that compare.
# What belongs to a number and cannot be seen in the clips.
FIELDS: Mapping[str, str] = {
  "split": "of the data set that the real clips are from",
  "given_frames": "frames of each clip that the model was given, and whether they are"
  " measured",
  "seed": "of sampling",
  "ema": "whether parameters were averaged, and how",
  "sampler": "name and options",
  "sampling_steps": "steps of the sampler",
  "guidance": "scales of guidance",
  "checkpoint": "steps of training, commit",
}


def make_card(
  measure: Measure,
  sets: Sequence[Rows],
  *,
  protocol: Mapping[str, Any],
  companions: Mapping[str, Rows] | None = None,
  num_draws: int = 100,
  seed: int = 0,
) -> Card:
  """Measures, and writes down how.

  Args:
    measure: What to measure.
    sets: The rows that its number takes; the last ones are judged.
    protocol: What else belongs to the number: frames, stride, size, and `FIELDS`.
    companions: Further rows, by name, measured in place of the judged ones; of as many
      clips. Such as other real clips (the floor) and stills (the ceiling).
    num_draws: For the interval; 0 leaves it out.
    seed: Of the interval's draws.

  Returns:
    `name` (with the number of judged clips, as in "FVD@256"), `value`, `interval_95`,
    `companions` and `protocol`.

  Raises:
    UserError: There are too few clips, or the number is not finite.
  """
  *others, judged = sets
  check_count(measure, min(map(len, sets)))
  value = _finite(measure, measure.number(*sets))
  detector = measure.detector
  card: Card = {
    "name": f"{measure.name}@{len(judged)}",
    "value": value,
    "companions": {
      name: _finite(measure, measure.number(*others, rows))
      for name, rows in (companions or {}).items()
    },
    "protocol": dict(protocol)
    | {
      "detector": detector.name,
      "resize_rule": detector.resize_rule,
      "num_generated": len(judged),
      "version": lamd_jax.__version__,
    }
    | dict(measure.facts),
  }
  if detector.sha256:
    card["protocol"]["detector_sha256"] = detector.sha256
  if others:
    card["protocol"]["num_real"] = len(others[0])
  if num_draws:
    interval = frechet.bootstrap_interval(
      measure.number, *sets, num_draws=num_draws, seed=seed
    )
    card["interval_95"] = list(interval)
  return card


def mean_card(cards: Mapping[str, Card], group: str) -> Card:
  """The mean of a measure over groups of clips, as in cFVD, as a card.

  Args:
    cards: Of one measure, by the name of the group.
    group: What groups are of, such as "label".

  Returns:
    `name`, as in "FVD by label@24x180", where 180 is the smallest group; `value` and
    `std` over groups, the value of each as `groups`, and the protocol of the first.
  """
  values = {name: card["value"] for name, card in cards.items()}
  first = next(iter(cards.values()))
  least = min(card["protocol"]["num_generated"] for card in cards.values())
  return {
    "name": f"{measured(first)} by {group}@{len(cards)}x{least}",
    "value": float(np.mean(list(values.values()))),
    "std": float(np.std(list(values.values()))),
    "groups": values,
    "companions": {},
    "protocol": first["protocol"] | {"num_generated": least, "groups": len(cards)},
  }


def check_count(measure: Measure, num_clips: int) -> None:
  """Refuses a number of fewer clips than it needs; ask before features are taken.

  Raises:
    UserError: There are too few.
  """
  if num_clips < measure.min_clips:
    instead = measure.instead
    hint = (
      f", better 2048; {instead.name} can be had from {instead.min_clips} on"
      if instead
      else ""
    )
    raise UserError(
      f"{num_clips} clips are too few for {measure.name}, which needs at least"
      f" {measure.min_clips}{hint}"
    )


def _finite(measure, value):
  if not math.isfinite(value):
    raise UserError(
      f"{measure.name} is not defined for these clips: the real ones do not move, or"
      " features are not finite"
    )
  return value


def headline(card: Card) -> str:
  """The score in one line, never without its count."""
  text = f"{card['name']} = {card['value']:.4g}"
  if "std" in card:
    text += f" ± {card['std']:.4g}"
  if "interval_95" in card:
    low, high = card["interval_95"]
    text += f" (95 % interval {low:.4g} to {high:.4g})"
  for name, value in card["companions"].items():
    text += f"; {name} {value:.4g}"
  return text


def compare(a: Card, b: Card) -> list[str]:
  """What differs between the protocols of two cards, a line each; [] if nothing.

  A last line names the `FIELDS` that neither says, which may differ too.

  Raises:
    UserError: One of them is no card.
  """
  first, second = _said(a), _said(b)
  different = [
    f"{key}: {first.get(key, 'not said')} | {second.get(key, 'not said')}"
    for key in sorted(first | second)
    if key not in _ABOUT_THE_SETS and first.get(key) != second.get(key)
  ]
  unsaid = [key for key in FIELDS if key not in first and key not in second]
  return different + ([f"neither says: {', '.join(unsaid)}"] if unsaid else [])


def measured(card: Card) -> str:
  """The measure of a card: its name without the count.

  Raises:
    UserError: It is no card.
  """
  if not isinstance(card, dict) or not {"name", "value", "protocol"} <= card.keys():
    raise UserError("this is no card; expected a file as --output writes it")
  return card["name"].partition("@")[0]


def _said(card: Card) -> dict[str, Any]:
  return {"measure": measured(card)} | card["protocol"]
