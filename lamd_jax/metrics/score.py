"""Job: measure anyone's videos against real ones, and say how it was done."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import pathlib
from typing import Any

from absl import logging
import numpy as np
import tqdm

from lamd_jax.metrics import card as card_lib
from lamd_jax.metrics import features as features_lib
from lamd_jax.metrics import motion
from lamd_jax.metrics.clip_set import ClipSet
from lamd_jax.metrics.features import Clip
from lamd_jax.metrics.measures import Measure, Rows
from lamd_jax.types import UserError

# What was computed already, by the detector, what it looked at, and the sets.
Seen = dict[tuple, Rows]


def score(
  measures: Sequence[Measure],
  real: ClipSet,
  generated: ClipSet,
  *,
  others: ClipSet | None = None,
  are_pairs: bool = False,
  num_clips: int | None = None,
  num_real: int | None = None,
  batch_size: int = 4,
  cache: pathlib.Path | None = None,
  num_draws: int = 100,
  protocol: dict[str, Any] | None = None,
  seen: Seen | None = None,
) -> list[card_lib.Card]:
  """A card for each measure.

  Beside the score of two sets stand those of other real clips (the floor: what perfect
  samples would score at this count) and of stills (the ceiling: what a model scores
  that has learned no motion), where there are enough real clips for them.

  Args:
    measures: What to measure; one that needs more clips than there are gives way to
      what it names instead, with a warning.
    real: Real clips.
    generated: Clips to judge.
    others: Other real clips; None takes the ones of `real` that are left over, if they
      are as many again.
    are_pairs: Whether each generated clip shows what the real one of the same number
      shows, as a reconstruction does, or what was made from its first frame. Stills are
      then of `real`, otherwise of `others`.
    num_clips: Clips taken of each set, the first ones; None takes as many as the
      smaller set has.
    num_real: Real clips, if they are not to be as many; as where each of 256 real ones
      is the start of 100 generated ones.
    batch_size: Clips that go through a detector together.
    cache: A folder that keeps the features of real clips.
    num_draws: See `card.make_card`.
    protocol: What else is known; see `card.FIELDS`.
    seen: Filled with what was computed, for the next call with some of the same sets.

  Raises:
    UserError: The sets do not go together, or hold too few clips.
  """
  _check_alike(real, generated)
  wanted = num_clips or (len(generated) if num_real else min(len(generated), len(real)))
  num_real = num_real or wanted
  for what, clips, count in (
    ("real", real, num_real),
    ("generated", generated, wanted),
  ):
    if len(clips) < count:
      raise UserError(
        f"{count} {what} clips were asked for; {clips.path} has {len(clips)}"
      )
  measures = _enough(measures, min(wanted, num_real))
  if num_real != wanted and any(measure.kind == "pairs" for measure in measures):
    raise UserError(
      f"{wanted} generated clips cannot be compared one by one with {num_real} real"
      " ones; give no --num_real"
    )
  if others is None:
    others = real.part(num_real, num_real + wanted)
  real, generated = real.part(0, num_real), generated.part(0, wanted)
  is_floor_missing = any(x.kind == "sets" for x in measures) and len(others) != wanted
  if is_floor_missing and not seen:
    logging.info(
      "%d real clips: with %d, what other real clips score would stand beside it",
      num_real + len(others),
      num_real + wanted,
    )
  seen = {} if seen is None else seen
  first = next(iter(real))
  known = {
    "real": str(real.path),
    "generated": str(generated.path),
    "first_frame": real.start,
    "num_frames": real.num_frames,
    "frame_stride": real.frame_stride,
    "height": first.shape[1],
    "width": first.shape[2],
  }
  if real.start != generated.start:
    known["first_frame_of_generated"] = generated.start

  def rows(measure: Measure, what: str, *sets: ClipSet) -> Rows:
    """Of a set, of its stills, or of the pairs of two sets."""
    key = (measure.detector.identity, what, *sets)
    if key not in seen:
      shown = tqdm.tqdm(
        _LOOKED_AT[what](*sets),
        f"{measure.detector.name}: {what}",
        len(sets[0]),
        unit="clip",
        disable=None,
      )
      seen[key] = features_lib.features(
        measure.detector,
        shown,
        batch_size=batch_size,
        cache=None if generated in sets else cache,
      )
    return measure.view(seen[key], generated.names)

  cards = []
  for measure in measures:
    companions = {}
    match measure.kind:
      case "sets":
        sets = [rows(measure, "clips", real), rows(measure, "clips", generated)]
        if len(others) == wanted:
          companions["other real"] = rows(measure, "clips", others)
        still_of = real if are_pairs else others
        if len(still_of) == wanted:
          companions["stills"] = rows(measure, "stills", still_of)
      case "alone":
        sets = [rows(measure, "clips", generated)]
        companions["real"] = rows(measure, "clips", real)
        companions["stills"] = rows(measure, "stills", real)
      case "pairs":
        sets = [rows(measure, "pairs", real, generated)]
        companions["stills"] = rows(measure, "pairs with stills", real)
    cards.append(
      card_lib.make_card(
        measure,
        sets,
        protocol=known | (protocol or {}),
        companions=companions,
        num_draws=num_draws,
      )
    )
  return cards


def _stills(clips: Iterable[Clip]) -> Iterator[Clip]:
  return (np.ascontiguousarray(motion.still(clip)) for clip in clips)


def _pairs(first: Iterable[Clip], second: Iterable[Clip]) -> Iterator[Clip]:
  """Each two as one clip, as `Measure` has it."""
  return (np.concatenate(pair) for pair in zip(first, second, strict=True))


_LOOKED_AT: dict[str, Callable[..., Iterable[Clip]]] = {
  "clips": iter,
  "stills": _stills,
  "pairs": _pairs,
  "pairs with stills": lambda clips: _pairs(clips, _stills(clips)),
}


def score_windows(
  measures: Sequence[Measure], real: ClipSet, generated: ClipSet, **kwargs
) -> dict[str, list[card_lib.Card]]:
  """Scores every window of long generated videos, each against the same real clips.

  The curve of LVDM (He et al. 2022, arXiv:2211.13221): a window is as long as a real
  clip, and the next begins where it ends.

  Args:
    measures: See `score`.
    real: Real clips.
    generated: Longer videos.
    **kwargs: See `score`.

  Returns:
    The cards of each window, by its first and last frame.
  """
  seen: Seen = {}
  found = {}
  for window in generated.windows():
    last = window.start + (window.num_frames - 1) * window.frame_stride
    name = f"frames {window.start} to {last}"
    found[name] = score(measures, real, window, seen=seen, **kwargs)
  return found


def score_groups(
  measures: Sequence[Measure], real: ClipSet, generated: ClipSet, level: int, **kwargs
) -> dict[str, list[card_lib.Card]]:
  """Scores the clips of each folder against real ones of the folder of that name.

  With folders of classes the mean over them is cFVD, with folders of subjects sFVD (Ni
  et al. 2023, arXiv:2303.13744).

  Args:
    measures: See `score`.
    real: Real clips in folders.
    generated: Generated ones in folders of the same names.
    level: See `ClipSet.groups`.
    **kwargs: See `score`.

  Returns:
    The cards of each group, by its name.

  Raises:
    UserError: A group is in one set alone.
  """
  of_real, of_generated = real.groups(level), generated.groups(level)
  if odd := sorted(of_real.keys() ^ of_generated.keys()):
    raise UserError(
      f"{odd[0]} is a folder of {(real if odd[0] in of_real else generated).path}"
      " alone; groups are compared by name, so both sets need the same ones"
      f" ({len(odd)} differ)"
    )
  return {
    name: score(measures, of_real[name], of_generated[name], **kwargs)
    for name in of_real
  }


def _enough(measures: Sequence[Measure], num_clips: int) -> list[Measure]:
  """The measures that so many clips allow; each once."""
  allowed = {}
  for measure in measures:
    if num_clips < measure.min_clips and measure.instead:
      logging.warning(
        "%d clips are too few for %s, which needs at least %d, better 2048: giving %s",
        num_clips,
        measure.name,
        measure.min_clips,
        measure.instead.name,
      )
      measure = measure.instead
    card_lib.check_count(measure, num_clips)
    allowed[measure.name] = measure
  return list(allowed.values())


def _check_alike(real: ClipSet, generated: ClipSet) -> None:
  if real.num_frames != generated.num_frames:
    raise UserError(
      f"{real.path} has clips of {real.num_frames} frames, {generated.path} of"
      f" {generated.num_frames}; say with --num_frames how many to take of each"
    )
  sizes = [next(iter(clips)).shape[1:3] for clips in (real, generated)]
  if sizes[0] != sizes[1]:
    (h, w), (other_h, other_w) = sizes
    raise UserError(
      f"{real.path} has frames of {h}x{w}, {generated.path} of {other_h}x{other_w};"
      " compare at one size: --resolution brings both to it"
    )
