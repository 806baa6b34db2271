"""How a run stands in one sentence, and what to do about figures out of range."""

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

from lamd_jax.metrics import protocol
from lamd_jax.report import words
from lamd_jax.report.reading import Folder

# What to do about a figure below or above its expected range.
ADVICE: Mapping[tuple[str, Literal["below", "above"]], str] = {
  ("reconstruction_gain_db", "below"): (
    "Train the first stage for more steps. If its reconstructions still do not move,"
    " lower its KL weight or give its motion latent more channels."
  ),
  ("reconstruction_motion_ratio", "below"): (
    "Reconstructions lose motion: train the first stage for more steps, then lower its"
    " KL weight or give its motion latent more channels."
  ),
  ("reconstruction_motion_ratio", "above"): (
    "Reconstructions flicker, as they do early in training: train the first stage for"
    " more steps, or lower its learning rate if its loss is unsteady."
  ),
  ("sample_motion_ratio", "below"): (
    "Samples move too little: train the last stage for more steps."
  ),
  ("sample_motion_ratio", "above"): (
    "Samples flicker or jump: try more sampling steps (config.sample.num_steps), then"
    " train the last stage for more steps."
  ),
  ("sample_still_share", "above"): (
    "Some samples stand still: check that the real clips move, then train the last"
    " stage for more steps."
  ),
  ("sample_pairwise_psnr", "above"): (
    "Samples of a clip look alike: lower config.sample.guidance if it is above 1, then"
    " train the last stage for more steps. Where one picture has only one possible"
    " future, this figure is high for any model."
  ),
  ("sample_first_frame_psnr", "below"): (
    "The given picture changes: compare it with the reconstructions. If they change it"
    " too, train the first stage for more steps, otherwise the last one."
  ),
}


@dataclasses.dataclass(frozen=True)
class Verdict:
  """How the run stands: a sentence, and its colour on the page."""

  kind: Literal["good", "bad", "open"]
  sentence: str


@dataclasses.dataclass(frozen=True)
class NextStep:
  """A figure outside its expected range, with what to do about it."""

  name: str  # The figure's name in metrics.json.
  label: str
  finding: str  # As in "2.29, 0.7 to 1.3 expected".
  advice: str


def verdict(folder: Folder) -> Verdict:
  """Returns how the run stands: its training first, then its figures."""
  metrics = folder.metrics
  if not metrics and not any(stage.curves for stage in folder.stages):
    return Verdict("open", "Nothing has been trained yet.")
  for stage in folder.stages:
    done, planned = steps_done(stage.name, stage.curves, metrics), stage.planned
    if not (words.is_number(done) and words.is_number(planned)):
      continue
    if done < planned:
      progress = f"{words.number(done)} of {words.number(planned)} steps"
      return Verdict(
        "open", f"Training is not finished: stage {stage.name} has made {progress}."
      )
  names = [name for name in protocol.FIGURES if is_expected(name, metrics) is not None]
  outside = [name for name in names if not is_expected(name, metrics)]
  if not any(name in metrics for name in protocol.FIGURES):
    return Verdict("open", "Training is finished; nothing has been measured yet.")
  if not names:
    return Verdict("open", "Measured; none of the figures has an expected range.")
  if not outside:
    number = f"All {len(names)} figures" if len(names) > 1 else "The one figure"
    return Verdict(
      "good", f"{number} with an expected range {_is(len(names))} within it."
    )
  first = protocol.FIGURES[outside[0]].label
  start = f"{len(outside)} of {words.count(len(names), 'figure')}"
  sentence = f"{start} with an expected range {_is(len(outside))} outside it"
  if len(outside) == 1:
    return Verdict("bad", f"{sentence}: “{first}”.")
  return Verdict("bad", f"{sentence}; begin with “{first}”.")


def next_steps(metrics: Mapping[str, Any]) -> list[NextStep]:
  """Returns what to do next for each figure outside its expected range.

  Args:
    metrics: The contents of metrics.json.
  """
  steps = []
  for name, known in protocol.FIGURES.items():
    if is_expected(name, metrics) is not False:
      continue
    value = metrics[name]
    is_below = known.low is not None and value < known.low
    finding = f"{words.number(value)} {known.unit}".strip()
    advice = ADVICE.get((name, "below" if is_below else "above"), known.better)
    finding = f"{finding}, {known.expected()} expected"
    steps.append(NextStep(name, known.label, finding, advice))
  return steps


def is_expected(name: str, metrics: Mapping[str, Any]) -> bool | None:
  """Returns whether a figure is within its expected range.

  Args:
    name: The figure's name in metrics.json.
    metrics: The contents of metrics.json.

  Returns:
    None where there is no such range, no such figure or no number.
  """
  value = metrics.get(name)
  if not words.is_number(value) or name not in protocol.FIGURES:
    return None
  return protocol.FIGURES[name].is_expected(value)


def steps_done(stage: str, curves: Mapping[str, Any], metrics: Mapping[str, Any]):
  """Returns how many steps a stage has made, by metrics.json or else its curves."""
  last = max((steps[-1] for steps, _ in curves.values()), default=0)
  return metrics.get(f"{stage}_steps", last)


def _is(number: int) -> str:
  return "is" if number == 1 else "are"
