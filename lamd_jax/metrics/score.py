"""Scores of anyone's videos against real ones, with their protocol."""

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

# Rows computed earlier, by detector, kind of clips, and sets.
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
  """Scores generated clips and returns a card for each measure.

  If there are enough real clips, a card also holds the scores of other real clips (the
  floor: perfect samples at this count) and of stills (the ceiling: a model that has
  learned no motion).

  Args:
    measures: Measures to compute; one that needs more clips than there are is replaced
      by its `instead`, with a warning.
    real: Real clips.
    generated: Clips to judge.
    others: Other real clips; None takes those left over in `real`, if there are enough.
    are_pairs: Whether generated clip n shows the same as real clip n, as a
      reconstruction or a video from its first frame does. Stills are then made of
      `real`, otherwise of `others`.
    num_clips: Clips to take from the start of each set; None takes the size of the
      smaller set.
    num_real: Real clips to take, if not as many: for instance 256, each of which is the
      start of 100 generated clips.
    batch_size: Clips per batch of a detector.
    cache: Folder that keeps the features of real clips.
    num_draws: Bootstrap draws; see `card.make_card`.
    protocol: Further entries of the protocol; see `card.FIELDS`.
    seen: Rows of earlier calls, to be reused; new ones are added.

  Raises:
    UserError: The sets are not comparable, or hold too few clips.
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
      "%d real clips: with %d, cards would also hold the score of other real clips",
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
    """Computes the rows of a set, of its stills, or of the pairs of two sets."""
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
  """Joins each pair into one clip, as `Measure.detector` expects."""
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
  """Scores every window of long generated videos against the same real clips.

  This gives the curve of LVDM (He et al. 2022, arXiv:2211.13221): a window is as long
  as a real clip, and the next one begins where it ends.

  Args:
    measures: Measures to compute.
    real: Real clips.
    generated: Longer videos.
    **kwargs: Further arguments of `score`.

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
  """Scores the clips of each folder against the real clips of its namesake.

  The mean over folders is cFVD for folders of classes, sFVD for folders of subjects (Ni
  et al. 2023, arXiv:2303.13744).

  Args:
    measures: Measures to compute.
    real: Real clips in folders.
    generated: Generated clips in folders of the same names.
    level: Depth of the folders; see `ClipSet.groups`.
    **kwargs: Further arguments of `score`.

  Returns:
    The cards of each group, by its name.

  Raises:
    UserError: A group is in one set only.
  """
  of_real, of_generated = real.groups(level), generated.groups(level)
  if odd := sorted(of_real.keys() ^ of_generated.keys()):
    raise UserError(
      f"{odd[0]} is a folder of {(real if odd[0] in of_real else generated).path}"
      " alone; groups are compared by name, so both sets need the same folders"
      f" ({len(odd)} differ)"
    )
  return {
    name: score(measures, of_real[name], of_generated[name], **kwargs)
    for name in of_real
  }


def _enough(measures: Sequence[Measure], num_clips: int) -> list[Measure]:
  """Returns the measures that this many clips allow, each once."""
  allowed = {}
  for measure in measures:
    if num_clips < measure.min_clips and measure.instead:
      logging.warning(
        "%d clips are too few for %s, which needs at least %d, better 2048: using %s",
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
