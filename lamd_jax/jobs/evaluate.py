"""Job: measure what was sampled, and write the figures."""

from collections.abc import Mapping, Sequence
import pathlib
import time
from typing import Any

from absl import logging
import jax
import numpy as np

from lamd_jax.data import pipeline, sources
from lamd_jax.experiment import trained
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.experiment.blocks import Evaluation, read_evaluation
from lamd_jax.experiment.run import Run
from lamd_jax.files import reading, writing
from lamd_jax.metrics import card as card_lib
from lamd_jax.metrics import clip_set, protocol, score
from lamd_jax.metrics import measures as measures_lib
from lamd_jax.systems.table import bare_stage
from lamd_jax.training import checkpoint
from lamd_jax.training import memory as memory_lib
from lamd_jax.types import UserError


def check(run: Run) -> None:
  """Raises a `UserError` if a measure is unknown or lacks its weights."""
  _make_measures(read_evaluation(run.config))


def evaluate(run: Run, startup_seconds: float) -> dict[str, float]:
  """Writes `metrics.json`, flat, from the sampled clips and the stages' checkpoints.

  Args:
    run: The experiment; its work folder has samples.
    startup_seconds: From the start of the process to the start of its first job.

  Returns:
    The figures. `wall_seconds` is all the time spent on training, sampling and
    measuring, in all runs, and this process's start.
  """
  started = time.monotonic()
  config, path = run.config, run.folder / workdir_lib.CLIPS
  if not path.exists():
    raise UserError(f"nothing to evaluate: {path} is missing; run --mode=sample first")
  with (
    reading.explain_damage(path, "delete it and run --mode=sample again"),
    path.open("rb") as opened,
    np.load(opened, allow_pickle=False) as file,
  ):
    real, sampled = file["real"], file["sampled"]
    reconstructed = file.get("reconstructed")
    given_frames = int(file["given_frames"])
    sample_seconds = float(file["seconds"])
    notes = [dict(reading.parse_json(str(x))) for x in file["notes"]]
  figures: dict[str, float] = dict(
    protocol.video_figures(real, reconstructed, sampled, given_frames)
  )
  if config.evaluate.metrics and jax.process_index() == 0:
    figures |= _write_cards(run, real, reconstructed, sampled, given_frames, notes)
  seconds = {"startup": startup_seconds, "sample": sample_seconds}
  memory = [memory_lib.host_peak_gb()]
  for name in run.stages:
    steps, meta = checkpoint.read_meta(run.stage_folder(name) / workdir_lib.CHECKPOINTS)
    seconds[name] = meta.get("seconds", 0.0)
    memory.append(meta.get("peak_memory_gb", 0.0))
    figures[f"{name}_steps"] = steps
    figures[f"num_parameters_{name}"] = meta.get("num_parameters", 0)
    if trained.best_of(run, name) is not None:
      figures[f"{name}_best_step"] = trained.read_meta(run, name)[0]
  skipped = run.folder / "skipped_files.txt"
  if skipped.is_file():
    text = skipped.read_text(encoding="utf-8", errors="replace")
    figures["skipped_files"] = len(text.splitlines())
  seconds["evaluate"] = time.monotonic() - started
  figures |= {f"{name}_seconds": value for name, value in seconds.items()}
  figures["wall_seconds"] = sum(seconds.values())
  figures["peak_memory_gb"] = max(memory)
  for name, value in figures.items():
    if name in protocol.FIGURES:
      logging.info("%s = %.4g", name, value)
  logging.info("%s", protocol.sentence(figures))
  writing.write_json(run.folder / workdir_lib.METRICS, figures)
  return figures


def _write_cards(
  run: Run,
  real: np.ndarray,
  reconstructed: np.ndarray | None,
  sampled: np.ndarray,
  given_frames: int,
  notes: Sequence[Mapping[str, Any]],
) -> dict[str, float]:
  """Scores reconstructions, and all samples of each clip; a card for each measure.

  And for what `config.evaluate.group_by` names, such as labels, one of the mean over
  groups, of measures of sets. With `config.evaluate.substitute_given` samples are
  judged also with the given frames put back as they were, which papers do on BAIR.

  Returns:
    The values, as in `sample_fvd`.
  """
  config, real_set = run.config, clip_set.of_array("real", real)
  settings = read_evaluation(config)
  others = _others(run, len(real) * max(sampled.shape[1], 1))
  generator, autoencoder = map(run.with_output, ("sample", "reconstruction"))
  judged = {}  # Sets of videos, with the videos of one clip in a row: n s f h w 3.
  if generator is not None and sampled.shape[1]:
    judged["sample"] = generator, sampled
  if judged and settings.substitute_given:
    videos = sampled.copy()
    videos[:, :, :given_frames] = real[:, None, :given_frames]
    judged["sample-given"] = generator, videos
  if autoencoder is not None and reconstructed is not None:
    judged = {"reconstruction": (autoencoder, reconstructed[:, None])} | judged
  sets = {
    what: clip_set.of_array(what, videos.reshape(-1, *real.shape[1:]))
    for what, (_, videos) in judged.items()
  }
  # The clips of all sets show what the same captions say.
  by_name = {
    name: str(note.get("caption", ""))
    for what, clips in sets.items()
    for name, note in zip(clips.names, _each(notes, judged[what][1]), strict=False)
  }
  measures = _make_measures(settings, by_name)
  values: dict[str, float] = {}
  seen: score.Seen = {}
  for what, (name, videos) in judged.items():
    stage = bare_stage(config, name)
    steps, _ = trained.read_meta(run, name)
    best = trained.best_of(run, name)
    known = stage.protocol() | {
      "data": config.data.name,
      "split": "eval",
      "split_of_other_real": "train",
      "seed": config.seed,
      "ema": config[name].train.ema_decay,
      "checkpoint": f"step {steps} of {name}" + (f", best by {best}" if best else ""),
    }
    if what == "sample-given":
      known["given_frames"] = f"{given_frames}, put back as given, measured too"
    kwargs: dict[str, Any] = dict(
      are_pairs=stage.given_frames > 0,
      samples_per_clip=videos.shape[1],
      # An autoencoder is given all frames, and makes all.
      given_frames=0 if what == "reconstruction" else given_frames,
      cache=run.folder / workdir_lib.FEATURES,
      protocol=known,
    )
    cards = score.score(
      measures, real_set, sets[what], others=others, seen=seen, **kwargs
    )
    of_sets = [measure for measure in measures if measure.kind == "sets"]
    for group in settings.group_by if what == "sample" else ():
      folders = _folders(notes, group)
      pair = (
        clip_set.of_array("real", real, folders),
        clip_set.of_array(
          what, videos.reshape(-1, *real.shape[1:]), _each(folders, videos)
        ),
      )
      found = score.score_groups(of_sets, *pair, level=1, num_draws=0, **kwargs)
      for of_groups in zip(*found.values(), strict=True):
        cards.append(
          card_lib.mean_card(dict(zip(found, of_groups, strict=True)), group)
        )
    for card in cards:
      key = f"{what}_{card['name'].partition('@')[0].lower().replace(' ', '_')}"
      # First: a file that cannot be written costs no figure.
      logging.info("%s: %s", what, card_lib.headline(card))
      writing.write_json(run.folder / workdir_lib.CARDS / f"{key}.json", card)
      values[key] = card["value"]
  return values


def _others(run: Run, count: int) -> clip_set.ClipSet:
  """Returns clips of all training videos, and further windows if there are few."""
  shown = run.stages[-1]
  source = sources.make_source(run.data(shown), "train")
  num_frames, stride, *_ = run.clip(shown)
  count = max(count, len(source))
  windows = pipeline.eval_windows(source, count, num_frames, stride)
  return clip_set.of_windows("train", source.read, windows, num_frames, stride)


def _each(values: Sequence[Any], videos: np.ndarray) -> list[Any]:
  """Returns the value of each clip for each of its videos, `n s f h w 3`."""
  return [value for value in values for _ in range(videos.shape[1])]


def _folders(notes: Sequence[Mapping[str, Any]], group: str) -> list[str]:
  """Returns the value of a group in each clip's annotation."""
  if lacking := [i for i, note in enumerate(notes) if group not in note]:
    known = sorted({key for note in notes for key in note})
    raise UserError(
      f"config.evaluate.group_by names {group!r}, which held-out clip {lacking[0]} does"
      f" not have; known: {', '.join(known) or 'nothing'}"
    )
  return [str(note[group]) for note in notes]


def _make_measures(settings: Evaluation, captions=None) -> list[measures_lib.Measure]:
  options = measures_lib.Options(
    folder=pathlib.Path(settings.weights), captions=captions or {}
  )
  try:
    return measures_lib.make_measures(settings.metrics, options)
  except UserError as e:
    raise UserError(
      f"config.evaluate.metrics={settings.metrics}: {e};"
      ' --config.evaluate.metrics="()" does without'
    ) from e
