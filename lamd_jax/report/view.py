"""The view model of a report: plain values for its templates.

A value that came from a file stays text: the templates escape it. All HTML is in
`templates/`; of markup made in Python there are only the curves of `curves.py`.
"""

from collections.abc import Mapping
import dataclasses
import datetime
import re
from typing import Any

from markupsafe import Markup

from lamd_jax import __version__
from lamd_jax.metrics import protocol
from lamd_jax.report import verdict, videos, words
from lamd_jax.report.curves import curve_svg
from lamd_jax.report.reading import Curves, Folder, Sheet, Stage
from lamd_jax.report.verdict import NextStep, Verdict
from lamd_jax.report.videos import Videos

# Curves that tell how the run went, not what was learned, come after the losses.
LATER = (
  *("grad_norm", "learning_rate", "steps_per_second", "mfu", "data_wait"),
  *("device_memory_gb", "host_memory_gb"),
)
# Scalars without a curve: times, those printed as text, those shaped like another.
NO_CURVE = (
  *("seconds", "compile_seconds", "examples_per_second_per_device"),
  "flops_per_second",
)

Pairs = list[tuple[str, str]]  # Name, value.


@dataclasses.dataclass(frozen=True)
class FigureRow:
  """A figure of metrics.json in the table and, if it has a range, on a card."""

  name: str
  label: str
  value: str
  meaning: str
  better: str
  expected: str  # The range in words; "" without one.
  is_expected: bool | None


@dataclasses.dataclass(frozen=True)
class Score:
  """A score against real clips."""

  name: str  # With its number of clips, as in "FVD@256".
  judged: str  # As in "sample".
  value: str
  interval: str
  companions: str
  protocol: Pairs


@dataclasses.dataclass(frozen=True)
class Chart:
  """A curve of two values or more."""

  name: str
  ends: str  # The first and the last value.
  svg: Markup


@dataclasses.dataclass(frozen=True)
class SheetView:
  """A contact sheet with a label for each of its rows."""

  step: int
  url: str
  labels: list[str]  # [] where the rows cannot be told apart.


@dataclasses.dataclass(frozen=True)
class StageView:
  """A stage: its facts, curves and last contact sheet."""

  name: str
  facts: str
  charts: list[Chart]
  single: Pairs  # Scalars with one value, which make no curve.
  sheet: SheetView | None


@dataclasses.dataclass(frozen=True)
class Table:
  """Pairs of name and value under a title that opens them."""

  title: str
  pairs: Pairs


@dataclasses.dataclass(frozen=True)
class View:
  """The whole page."""

  title: str
  subtitle: str
  verdict: Verdict
  next_steps: list[NextStep]
  command: str  # "" where it is not recorded.
  links: list[str]
  missing: list[str]
  videos: Videos | None
  figures: list[FigureRow]
  protocol: str
  scores: list[Score]
  stages: list[StageView]
  facts: Pairs
  skipped: list[str]
  tables: list[Table]
  date: str
  version: str


def make_view(folder: Folder) -> View:
  """Turns the contents of a work folder into what its page shows."""
  data = folder.config.get("data")
  data = data if isinstance(data, Mapping) else {}
  numbers = {k: v for k, v in folder.metrics.items() if words.is_number(v)}
  frames = data.get("num_frames")
  facts, tables = _run(folder)
  return View(
    title=f"{folder.config.get('system', 'Run')} on {data.get('name', folder.name)}",
    subtitle=_subtitle(folder, data),
    verdict=verdict.verdict(folder),
    next_steps=verdict.next_steps(folder.metrics),
    command=command(folder.environment),
    links=folder.links,
    missing=folder.missing,
    videos=videos.make_videos(folder.clips) if folder.clips else None,
    figures=_figures(folder.metrics),
    protocol=protocol.sentence(numbers),
    scores=[_score(key, card) for key, card in folder.cards.items()],
    stages=[_stage(stage, folder.metrics, frames) for stage in folder.stages],
    facts=facts,
    skipped=folder.skipped,
    tables=tables,
    date=datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z"),
    version=__version__,
  )


def command(environment: Mapping[str, Any]) -> str:
  """Returns the command that began the run, as one types it; "" if unknown.

  Args:
    environment: The contents of environment.json, where the program is a path.
  """
  text = str(environment.get("command", ""))
  program = r"^.*?\blamd_jax[/\\]main\.py(?= |$)"
  return re.sub(program, "python -m lamd_jax.main", text)


def sheet_labels(sheet: Sheet, num_frames: Any) -> list[str]:
  """Labels the rows of a contact sheet: real clips and the model's in turn.

  Args:
    sheet: The sheet, of square frames with two white pixels around each.
    num_frames: The number of its columns.

  Returns:
    A label for each row; [] if the sheet is not laid out like that.
  """
  if not isinstance(num_frames, int) or num_frames < 1:
    return []
  cell, rest = divmod(sheet.width - 2, num_frames)
  if rest or cell <= 2:
    return []
  rows, rest = divmod(sheet.height - 2, cell)
  if rest or rows % 2:
    return []
  return [f"{who} {n + 1}" for n in range(rows // 2) for who in ("real", "model")]


def _subtitle(folder: Folder, data: Mapping[str, Any]) -> str:
  """Describes the clips and the time in a sentence each."""
  parts = []
  if {"num_frames", "resolution"} <= data.keys():
    size = f"{data['resolution']}x{data['resolution']}"
    given = folder.metrics.get("protocol_given_frames")
    match given:
      case 0:
        start = ", none of them given"
      case 1:
        start = " from one given frame"
      case int() | float():
        start = f", the first {words.number(given)} of them given"
      case _:
        start = ""
    parts.append(f"{data['num_frames']} frames of {size} pixels{start}.")
  if "wall_seconds" in folder.metrics:
    parts.append(
      f"The whole job took {words.duration(folder.metrics['wall_seconds'])}."
    )
  return " ".join(parts)


def _figures(metrics: Mapping[str, Any]) -> list[FigureRow]:
  return [
    FigureRow(
      name=name,
      label=known.label,
      value=f"{words.number(metrics[name])} {known.unit}".strip(),
      meaning=known.meaning,
      better=known.better,
      expected=known.expected(),
      is_expected=verdict.is_expected(name, metrics),
    )
    for name, known in protocol.FIGURES.items()
    if name in metrics
  ]


def _score(key: str, card: Mapping[str, Any]) -> Score:
  interval = map(words.number, card.get("interval_95", ()))
  companions = card.get("companions", {}).items()
  return Score(
    name=str(card["name"]),
    judged=key.partition("_")[0],
    value=words.number(card["value"]),
    interval=" to ".join(interval),
    companions=", ".join(f"{name} {words.number(x)}" for name, x in companions),
    protocol=[(name, str(x)) for name, x in card.get("protocol", {}).items()],
  )


def _stage(stage: Stage, metrics: Mapping[str, Any], frames: Any) -> StageView:
  """Returns a stage as the page shows it.

  Args:
    stage: The stage.
    metrics: The contents of metrics.json; numbers of this stage are picked.
    frames: The number of frames of a clip in the configuration.
  """
  name, sheet = stage.name, stage.sheet
  charts, single = _charts(name, stage.curves)
  labels = sheet_labels(sheet, frames) if sheet else []
  return StageView(
    name=name,
    facts=", ".join(_stage_facts(stage, metrics)),
    charts=charts,
    single=single,
    sheet=sheet
    and SheetView(sheet.step, videos.data_url(sheet.png, "image/png"), labels),
  )


def _stage_facts(stage: Stage, metrics: Mapping[str, Any]) -> list[str]:
  name = stage.name
  planned = f" of {words.number(stage.planned)}" if stage.planned else ""
  done = verdict.steps_done(name, stage.curves, metrics)
  facts = [f"{words.number(done)}{planned} steps"]
  if f"{name}_seconds" in metrics:
    facts.append(words.duration(metrics[f"{name}_seconds"]))
  if f"num_parameters_{name}" in metrics:
    facts.append(f"{words.number(metrics[f'num_parameters_{name}'])} parameters")
  if f"{name}_best_step" in metrics:
    best = words.number(metrics[f"{name}_best_step"])
    facts.append(f"samples of step {best}, the best")
  if "compile_seconds" in stage.curves:
    seconds = stage.curves["compile_seconds"][1][-1]
    facts.append(f"compiled in {words.duration(seconds)}")
  return facts


def _charts(stage: str, curves: Curves) -> tuple[list[Chart], Pairs]:
  """Draws curves, the loss first; scalars with one value are returned as text."""
  charts, single = [], []
  for name in sorted(curves, key=lambda key: (key in LATER, key != "loss")):
    steps, values = curves[name]
    if name in NO_CURVE:
      continue
    first, last = words.number(values[0]), words.number(values[-1])
    if len(values) == 1:
      single.append((name, f"{last} at step {steps[0]}"))
      continue
    label = f"{stage} {name} over {steps[-1]} steps, from {first} to {last}"
    charts.append(Chart(name, f"{first} → {last}", curve_svg(steps, values, label)))
  return charts, single


def _run(folder: Folder) -> tuple[Pairs, list[Table]]:
  """Returns times and sizes of the run, and the tables that open below them."""
  metrics = folder.metrics
  facts, parts, other = [], [], []
  used = {"wall_seconds", "peak_memory_gb", "skipped_files"}
  used |= {*protocol.FIGURES, *folder.cards}
  for key, value in metrics.items():
    if key in used or key.startswith("protocol_"):
      continue
    if key.endswith("_seconds"):
      parts.append((f"of which {key.removesuffix('_seconds')}", words.duration(value)))
    else:
      other.append((key, words.number(value)))
  if "wall_seconds" in metrics:
    facts.append(("Whole job", words.duration(metrics["wall_seconds"])))
  facts += parts
  if "peak_memory_gb" in metrics:
    facts.append(("Peak memory", f"{words.number(metrics['peak_memory_gb'])} GB"))
  if "skipped_files" in metrics:
    facts.append(("Files skipped", words.number(metrics["skipped_files"])))
  environment = [(name, str(value)) for name, value in folder.environment.items()]
  tables = [
    Table("Other numbers", other),
    Table("Versions and machine", environment),
    Table("Configuration", words.flat(folder.config)),
  ]
  return facts, [table for table in tables if table.pairs]
