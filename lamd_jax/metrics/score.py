"""Scores of anyone's videos against real ones, with their protocol."""

from collections.abc import Iterable, Iterator, Sequence
import os
import pathlib
import re
from typing import Any

from absl import logging
import numpy as np
import tqdm

from lamd_jax.metrics import card as card_lib
from lamd_jax.metrics import features as features_lib
from lamd_jax.metrics import motion
from lamd_jax.metrics.clip_set import SEED, ClipSet
from lamd_jax.metrics.features import Clip
from lamd_jax.metrics.measures import Measure, Rows
from lamd_jax.types import UserError, printable

# Rows computed earlier, by detector, kind of clips, and sets.
Seen = dict[tuple, Rows]


def score(
  measures: Sequence[Measure],
  real: ClipSet,
  generated: ClipSet,
  *,
  others: ClipSet | None = None,
  are_pairs: bool = False,
  samples_per_clip: int = 1,
  given_frames: int = 0,
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
    others: Other real clips; None takes those left over in `real`. Where they are fewer
      than the generated clips, cards have no floor.
    are_pairs: Whether generated clip n shows the same as real clip n, as a
      reconstruction or a video from its first frame does. Stills are then made of
      `real`, otherwise of `others`.
    samples_per_clip: Generated clips in a row that go with one real clip. With more
      than one, clips are paired as with `are_pairs`.
    given_frames: Frames at the start of each clip that the model was given. Measures of
      single frames leave them out.
    num_clips: Clips to take of each set, at random with a fixed seed; None takes the
      size of the smaller set.
    num_real: Real clips to take, if not as many.
    batch_size: Clips per batch of a detector.
    cache: Folder that keeps the features of real clips.
    num_draws: Draws for intervals; see `card.make_card`.
    protocol: Further entries of the protocol; see `card.FIELDS`.
    seen: Rows of earlier calls, to be reused; new ones are added.

  Raises:
    UserError: The sets are not comparable, or hold too few clips.
  """
  _check_alike(real, generated)
  is_paired = are_pairs or samples_per_clip > 1 or _has_pairs(measures)
  if is_paired:
    _check_pairs(real, generated, samples_per_clip, num_clips, num_real)
    if samples_per_clip == 1 and not seen:
      _say_pairs(real, generated)
    num_real = num_clips or len(real)
    wanted = num_real * samples_per_clip
  else:
    wanted = num_clips or (
      len(generated) if num_real else min(len(generated), len(real))
    )
    num_real = num_real or wanted
  for what, clips, count in (
    ("real", real, num_real),
    ("generated", generated, wanted),
  ):
    if len(clips) < count:
      raise UserError(
        f"{count} {what} clips were asked for; {clips.path} has {len(clips)}"
      )
  measures = _enough(measures, num_real, wanted)
  if others is None:
    others = real.subset(num_real, num_real + wanted)
  else:
    others = others.subset(0, wanted)
  protocol = {
    "real": str(real.path),
    "generated": str(generated.path),
    "subset_of_real": _taken(num_real, len(real)),
    "subset_of_generated": _taken(wanted, len(generated)),
  } | (protocol or {})
  real = real.subset(0, num_real)
  generated = generated.subset(0, num_real if is_paired else wanted, samples_per_clip)
  is_floor_missing = any(x.kind == "sets" for x in measures) and len(others) != wanted
  if is_floor_missing and not seen:
    logging.info(
      "%d more real clips: with %d, cards would also hold the score of other real"
      " clips",
      len(others),
      wanted,
    )
  seen = {} if seen is None else seen
  _, height, width, _ = next(iter(real)).shape
  protocol |= {"height": height, "width": width}

  def rows(measure: Measure, what: str, *sets: ClipSet) -> Rows:
    """Computes the rows of a set, of its stills, or of the pairs of two sets."""
    skip = given_frames if measure.is_of_frames else 0
    key = (measure.detector.identity, what, skip, *sets)
    if key not in seen:
      shown = tqdm.tqdm(
        _looked_at(what, skip, sets),
        f"{measure.detector.name}: {what}",
        len(sets[-1]),
        unit="clip",
        disable=None,
      )
      seen[key] = features_lib.features(
        measure.detector,
        shown,
        batch_size=batch_size,
        cache=None if generated in sets else cache,
      )
    # Real clips have the captions of the generated ones that go with them.
    step = samples_per_clip if generated not in sets else 1
    return measure.view(seen[key], generated.names[::step])

  cards = []
  for measure in measures:
    companions = {}
    match measure.kind:
      case "sets":
        sets = [rows(measure, "clips", real), rows(measure, "clips", generated)]
        if len(others) == wanted:
          companions["other real"] = rows(measure, "clips", others)
        if are_pairs or len(others) == wanted:
          companions["stills"] = rows(measure, "stills", real if are_pairs else others)
      case "alone":
        sets = [rows(measure, "clips", generated)]
        is_enough = len(real) >= measure.min_clips
        if is_enough and len(real) * samples_per_clip == len(generated):
          companions["real"] = rows(measure, "clips", real)
          companions["stills"] = rows(measure, "stills", real)
      case "pairs":
        sets = [rows(measure, "pairs", real, generated)]
        companions["stills"] = rows(measure, "pairs with stills", real)
    cards.append(
      card_lib.make_card(
        measure,
        sets,
        protocol=protocol | _frames(measure, real, generated, given_frames),
        companions=companions,
        num_draws=num_draws,
        num_joint=num_real if is_paired else None,
      )
    )
  return cards


def _taken(count: int, there: int) -> str:
  return "all" if count == there else f"{count} of {there}, at random (seed {SEED})"


def _frames(
  measure: Measure, real: ClipSet, generated: ClipSet, given_frames: int
) -> dict[str, Any]:
  """Returns the protocol of the frames that a measure takes."""
  skip = given_frames if measure.is_of_frames else 0
  found: dict[str, Any] = {
    "first_frame": real.start + skip * real.frame_stride,
    "num_frames": real.num_frames - skip,
    "frame_stride": real.frame_stride,
  }
  if real.start != generated.start:
    found["first_frame_of_generated"] = generated.start + skip * generated.frame_stride
  if skip:
    found["given_frames"] = f"{skip}, left out: single frames are scored"
  return found


def _looked_at(what: str, skip: int, sets: Sequence[ClipSet]) -> Iterator[Clip]:
  """Yields the clips that a detector gets, without their first `skip` frames."""
  whole = _stills(sets[0]) if "stills" in what else iter(sets[0])
  first = (clip[skip:] for clip in whole)
  match what:
    case "pairs":
      times = len(sets[1]) // len(sets[0])
      repeated = (clip for clip in first for _ in range(times))
      return _pairs(repeated, (clip[skip:] for clip in sets[1]))
    case "pairs with stills":
      return _pairs((clip[skip:] for clip in sets[0]), first)
  return first


def _stills(clips: Iterable[Clip]) -> Iterator[Clip]:
  return (np.ascontiguousarray(motion.still(clip)) for clip in clips)


def _pairs(first: Iterable[Clip], second: Iterable[Clip]) -> Iterator[Clip]:
  """Joins each pair into one clip, as `Measure.detector` expects."""
  return (np.concatenate(pair) for pair in zip(first, second, strict=True))


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


def _enough(
  measures: Sequence[Measure], num_real: int, num_generated: int
) -> list[Measure]:
  """Returns the measures that this many clips allow, each once."""
  allowed = {}
  for measure in measures:
    is_alone = measure.kind == "alone"
    count = num_generated if is_alone else min(num_real, num_generated)
    instead = measure.instead
    if instead and instead.min_clips <= count < measure.min_clips:
      logging.warning(
        "%d clips are too few for %s, which needs at least %d: using %s",
        count,
        card_lib.title(measure),
        measure.min_clips,
        card_lib.title(instead),
      )
      measure = instead
    card_lib.check_count(measure, count)
    allowed[measure.name] = measure
  return list(allowed.values())


def _has_pairs(measures: Sequence[Measure]) -> bool:
  return any(measure.kind == "pairs" for measure in measures)


def _check_pairs(
  real: ClipSet,
  generated: ClipSet,
  samples_per_clip: int,
  num_clips: int | None,
  num_real: int | None,
) -> None:
  """Raises a `UserError` if one set has clips that the other one lacks."""
  if len(real) * samples_per_clip != len(generated):
    times = f" of {samples_per_clip} each" if samples_per_clip > 1 else ""
    raise UserError(
      f"{real.path} has {len(real)} clips, {generated.path} {len(generated)}{times};"
      " to be compared one by one, both sets need the clips of the other"
    )
  if num_real not in (None, num_clips or len(real)):
    raise UserError(
      f"{len(generated)} generated clips cannot be compared one by one with {num_real}"
      " real ones; give no --num_real"
    )


def _say_pairs(real: ClipSet, generated: ClipSet) -> None:
  """Says how clips are paired, unless their names do."""
  names = zip(_labels(real), _labels(generated), strict=False)
  if odd := [i for i, (a, b) in enumerate(names) if a != b]:
    shown = [
      f"{printable(real.names[i])} with {printable(generated.names[i])}"
      for i in dict.fromkeys((odd[0], len(real) - 1))
    ]
    logging.warning(
      "%d of %d names differ, so clips are paired by their order: %s",
      len(odd),
      len(real),
      ", ..., ".join(shown),
    )


def _labels(clips: ClipSet) -> list[str]:
  """Returns what names of one clip in two sets should share: all but their endings."""
  array = re.compile(r"(.*/)?" + re.escape(clips.path.name) + r"(\[\d+\])?", re.DOTALL)
  return [
    f"{match[1]}{match[2]}"
    if (match := array.fullmatch(name))
    else os.path.splitext(name)[0]
    for name in clips.names
  ]


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
