"""Job: measure anyone's videos against real ones, and say how it was done."""

from collections.abc import Iterator
import pathlib
from typing import Any

from absl import logging
import numpy as np
import tqdm

from lamd_jax.data.clip_set import ClipSet
from lamd_jax.metrics import card as card_lib
from lamd_jax.metrics import features as features_lib
from lamd_jax.metrics import motion
from lamd_jax.types import UserError


def score(
  names: tuple[str, ...],
  real: ClipSet,
  generated: ClipSet,
  *,
  detector: features_lib.Detector,
  num_clips: int | None = None,
  batch_size: int = 4,
  cache: pathlib.Path | None = None,
  num_draws: int = 100,
  protocol: dict[str, Any] | None = None,
) -> list[card_lib.Card]:
  """A card for each measure.

  Where there are twice as many real clips as generated ones, the second half is
  measured too, as it is (the floor: what perfect samples would score at this count)
  and as stills (the ceiling: what a model scores that has learned no motion).

  Args:
    names: Keys of `card.DISTANCES`.
    real: Real clips.
    generated: Clips to judge.
    detector: What takes features.
    num_clips: Clips taken of each set, the first ones; None takes as many generated
      ones as there are, and real ones to the same number.
    batch_size: Clips that go through the detector together.
    cache: A folder that keeps features.
    num_draws: See `card.make_card`.
    protocol: What else is known: split, sampler, steps, EMA.

  Raises:
    UserError: The sets do not go together, or hold too few clips.
  """
  _check_alike(real, generated)
  wanted = num_clips or min(len(generated), len(real))
  for what, clips in (("real", real), ("generated", generated)):
    if len(clips) < wanted:
      raise UserError(
        f"{wanted} {what} clips were asked for; {clips.path} has {len(clips)}"
      )
  for name in names:
    card_lib.check_count(name, wanted)
  generated = generated.part(0, wanted)
  real, others = real.part(0, wanted), real.part(wanted, 2 * wanted)

  def features(what: str, clips: Iterator[features_lib.Clip], count: int):
    shown = tqdm.tqdm(clips, f"features of {what}", count, unit="clip", disable=None)
    return features_lib.features(detector, shown, batch_size=batch_size, cache=cache)

  of_real = features("real clips", iter(real), wanted)
  of_generated = features("generated clips", iter(generated), wanted)
  companions = {}
  if len(others) == wanted:
    companions["real against other real"] = features(
      "other real clips", iter(others), wanted
    )
    stills = (np.ascontiguousarray(motion.still(clip)) for clip in others)
    companions["stills of other real"] = features("stills", stills, wanted)
  else:
    logging.info(
      "%d real clips: with %d, the score of other real clips and of stills would"
      " stand beside it",
      len(real) + len(others),
      2 * wanted,
    )
  height, width = next(iter(real)).shape[1:3]
  known = {
    "real": str(real.path),
    "generated": str(generated.path),
    "num_frames": real.num_frames,
    "frame_stride": real.frame_stride,
    "height": height,
    "width": width,
  }
  return [
    card_lib.make_card(
      name,
      of_real,
      of_generated,
      detector=detector,
      protocol=known | (protocol or {}),
      companions=companions,
      num_draws=num_draws,
    )
    for name in names
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
