"""Scores together with the protocol that gives them meaning.

Published FVDs of one model differ by more than those of different models, because of
details left unsaid: the number of clips, their length, how frames were resized, which
real videos. A card is a dict for JSON that states them; `compare` lists how two differ.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import math
from typing import Any

import numpy as np

from lamd_jax import __version__
from lamd_jax.metrics import frechet
from lamd_jax.metrics.measures import Measure, Rows
from lamd_jax.types import UserError, printable

Card = dict[str, Any]

_ABOUT_THE_SETS = ("real", "generated")  # May differ between comparable cards.
ABOUT_THE_MEASURE = (
  *("measure", "detector", "detector_sha256", "resize_rule"),
  *("covariance", "frames", "splits"),
)
# Parts of a protocol that cannot be read off the clips.
FIELDS: Mapping[str, str] = {
  "split": "the split that the real clips are from",
  "given_frames": "frames of each clip that the model was given, and whether the"
  " score includes them",
  "seed": "seed of sampling",
  "ema": "whether and how parameters were averaged",
  "sampler": "name and options of the sampler",
  "sampling_steps": "number of sampling steps",
  "guidance": "guidance scales",
  "checkpoint": "training steps, commit",
}


def make_card(
  measure: Measure,
  sets: Sequence[Rows],
  *,
  protocol: Mapping[str, Any],
  companions: Mapping[str, Rows] | None = None,
  num_draws: int = 100,
  num_joint: int | None = None,
  seed: int = 0,
) -> Card:
  """Computes a score and records its protocol.

  Args:
    measure: The measure to compute.
    sets: Rows for `measure.number`; the last set is the one being judged.
    protocol: The rest of the protocol: frames, stride, size, and `FIELDS`.
    companions: Further sets by name, each scored in place of the judged one and of the
      same size, such as other real clips (the floor) and stills (the ceiling).
    num_draws: Draws for the interval; 0 leaves it out, as do sets that are too small.
    num_joint: Number of real clips that all sets show, which are then drawn together;
      see `frechet.subsampling_interval`.
    seed: Seed of the draws.

  Returns:
    `name` (including the number of judged clips, as in "FVD@256" or "IS@300 in 1
    split"), `value`, `interval_95`, `companions` and `protocol`.

  Raises:
    UserError: There are too few clips, or the score is not finite.
  """
  *others, judged = sets
  check_count(measure, min(map(len, sets)))
  value = _finite(measure, measure.number(*sets))
  detector = measure.detector
  card: Card = {
    "name": f"{measure.name}@{len(judged)} {measure.remark}".strip(),
    "value": value,
    "companions": {
      name: _finite(measure, measure.number(*others, rows))
      for name, rows in (companions or {}).items()
    },
    "protocol": {
      key: printable(x) if isinstance(x, str) else x for key, x in protocol.items()
    }
    | {
      "detector": detector.name,
      "resize_rule": detector.resize_rule,
      "num_generated": len(judged),
      "version": __version__,
    }
    | dict(measure.facts),
  }
  if detector.sha256:
    card["protocol"]["detector_sha256"] = detector.sha256
  if others:
    card["protocol"]["num_real"] = len(others[0])
  if num_draws and (num_joint or min(map(len, sets))) >= frechet.MIN_INTERVAL:
    interval = frechet.subsampling_interval(
      measure.number, *sets, num_draws=num_draws, seed=seed, num_joint=num_joint
    )
    card["interval_95"] = list(interval)
  return card


def mean_card(cards: Mapping[str, Card], group: str) -> Card:
  """Returns the card of a measure's mean over groups of clips, as in cFVD.

  Args:
    cards: Cards of one measure, by the name of the group.
    group: The property that groups share, such as "label".

  Returns:
    `name`, as in "FVD by label@24x180", where 180 is the size of the smallest group;
    `value` and `std` over groups; `groups`, the value of each; and the protocol of the
    first.
  """
  values = {printable(name): card["value"] for name, card in cards.items()}
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
  """Checks that there are enough clips for a measure, before features are computed.

  Raises:
    UserError: There are too few clips.
  """
  if num_clips < measure.min_clips:
    instead = measure.instead
    hint = (
      f"; {title(instead)} can be computed from {instead.min_clips} on"
      if instead
      else ""
    )
    raise UserError(
      f"{num_clips} clips are too few for {title(measure)}, which needs at least"
      f" {measure.min_clips}{hint}"
    )


def title(measure: Measure) -> str:
  """Returns the name of a measure with its remark, as in "IS in 1 split"."""
  return f"{measure.name} {measure.remark}".strip()


def _finite(measure, value):
  if not math.isfinite(value):
    raise UserError(
      f"{measure.name} is not defined for these clips: the real ones do not move, or"
      " features are not finite"
    )
  return value


def headline(card: Card) -> str:
  """Returns the score in one line, including the number of clips."""
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
  """Returns the differences between the protocols of two cards, one per line."""
  first, second = _said(a), _said(b)
  return [
    f"{key}: {first.get(key, 'not said')} | {second.get(key, 'not said')}"
    for key in sorted(first | second)
    if key not in _ABOUT_THE_SETS and first.get(key) != second.get(key)
  ]


def unsaid(cards: Iterable[Card]) -> list[str]:
  """Returns the `FIELDS` that none of the cards states: they may differ too."""
  said = {key for card in cards for key in _said(card)}
  return [key for key in FIELDS if key not in said]


def measured(card: Card) -> str:
  """Returns the measure of a card: its name without the count."""
  return card["name"].partition("@")[0]


def check(content: Any) -> Card:
  """Returns what was read from JSON if it is a card.

  Raises:
    UserError: It is none.
  """
  is_right = isinstance(content, dict) and all(
    is_value(content[key]) if key in content else key not in _NEEDED
    for key, is_value in _CONTENTS.items()
  )
  if not is_right:
    raise UserError("this is not a card; expected a file written by --output")
  return {"companions": {}} | content


def _is_number(x: Any) -> bool:
  # Whole numbers of JSON may have more digits than floats can hold.
  return type(x) in (int, float) and abs(x) < 2**63


def _is_protocol(x: Any) -> bool:
  known = str | int | float | None
  return isinstance(x, dict) and all(isinstance(value, known) for value in x.values())


_NEEDED = ("name", "value", "protocol")
_CONTENTS: Mapping[str, Callable[[Any], bool]] = {
  "name": lambda x: isinstance(x, str),
  "value": _is_number,
  "std": _is_number,
  "part": lambda x: isinstance(x, str),
  "protocol": _is_protocol,
  "companions": lambda x: isinstance(x, dict) and all(map(_is_number, x.values())),
  "interval_95": lambda x: (
    isinstance(x, list) and len(x) == 2 and all(map(_is_number, x))
  ),
}


def _said(card: Card) -> dict[str, Any]:
  return {"measure": measured(card)} | card["protocol"]
