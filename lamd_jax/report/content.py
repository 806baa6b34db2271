"""What is on the page of a report: video, figures, curves and facts, as HTML.

Values in, HTML out; `page.py` reads the work folder, and the design (layout,
colours, playing in step) is in `template.html`. Everything that came from
a file passes `escape`.
"""

import base64
from collections.abc import Iterable, Mapping
import html
import io
import json
import math
import pathlib
import tempfile
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lamd_jax.data import media
from lamd_jax.metrics import protocol
from lamd_jax.report.curves import curve_svg

MAX_CLIPS = 8  # Rows of video on the page,
MAX_SAMPLES = 5  # and samples in a row: a browser plays some 60 videos at once.
CLIP_PIXELS = 192  # Smaller clips are enlarged to at least this short side.
# Curves that say how the run went, not what was learned: behind the losses.
LATER = (
  *("grad_norm", "learning_rate", "steps_per_second", "mfu", "data_wait"),
  *("device_memory_gb", "host_memory_gb"),
)
# No curve of their own: time, what is said in words, what has the shape of another.
NO_CURVE = (
  *("seconds", "compile_seconds", "examples_per_second_per_device"),
  "flops_per_second",
)

Curves = dict[str, tuple[list[int], list[float]]]  # Name -> steps, values.


class Clips(NamedTuple):
  """The arrays of samples/clips.npz."""

  real: np.ndarray  # uint8 [n f h w c]
  reconstructed: np.ndarray | None  # uint8 [n f h w c]
  sampled: np.ndarray  # uint8 [n s f h w c]
  fps: float
  captions: list[str]
  given_frames: int = 1


def _data_url(content: bytes, kind: str) -> str:
  return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _png(image: np.ndarray) -> str:
  out = io.BytesIO()
  Image.fromarray(image).save(out, "PNG", optimize=True)
  return _data_url(out.getvalue(), "image/png")


def escape(text: Any) -> str:
  """Makes text safe between tags and inside quoted attributes."""
  return html.escape(str(text), quote=True)


def _count(number: int, noun: str) -> str:
  return f"{number} {noun}{'' if number == 1 else 's'}"


def _number(value: Any) -> str:
  if isinstance(value, bool) or not isinstance(value, int | float):
    return str(value)
  if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
    return f"{int(value):,}"
  return f"{value:.4g}"


def _duration(seconds: Any) -> str:
  if isinstance(seconds, bool) or not isinstance(seconds, int | float):
    return str(seconds)
  if not math.isfinite(seconds) or seconds < 60:
    return f"{seconds:.3g} s"
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _rows(pairs: Iterable[tuple[str, Any]]) -> str:
  rows = "".join(
    f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>\n'
    for name, value in pairs
  )
  return (
    f'<div class="scroll"><table class="plain"><tbody>\n{rows}</tbody></table></div>'
  )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
  pairs = []
  for name, value in tree.items():
    if isinstance(value, Mapping) and value:
      pairs += _flat(value, f"{prefix}{name}.")
    else:
      pairs.append((prefix + str(name), json.dumps(value, default=str)))
  return pairs


def notice(missing: list[str]) -> str:
  """What is missing, as a note at the top; "" if nothing is."""
  if not missing:
    return ""
  items = "".join(f"<li>{escape(line)}</li>" for line in missing)
  return (
    '<div class="notice" role="note"><strong>This report is not complete.</strong>'
    f" <ul>{items}</ul> The same command goes on where the job stopped.</div>"
  )


def subtitle(data: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
  """The clips and the time in a sentence each."""
  parts = []
  if {"num_frames", "resolution"} <= data.keys():
    frames, size = data["num_frames"], data["resolution"]
    parts.append(f"{frames} frames of {size}x{size} pixels from one given frame.")
  if "wall_seconds" in metrics:
    parts.append(f"The whole job took {_duration(metrics['wall_seconds'])}.")
  return " ".join(parts)


def _mark(known: protocol.Figure, value: Any) -> str:
  """A word and a colour for a figure against its expected range."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return ""
  match known.is_expected(value):
    case None:
      return ""
    case True:
      return '<span class="mark good">✓ as expected</span>'
    case _:
      return '<span class="mark bad">✗ outside</span>'


def cards(metrics: Mapping[str, Any]) -> str:
  """The figures that have an expected range, large."""
  cards = []
  for name, known in protocol.FIGURES.items():
    if name in metrics and known.expected():
      value = f"{_number(metrics[name])} {known.unit}".strip()
      cards.append(
        f'<div class="card"><span>{escape(known.label)}</span><b>{escape(value)}</b>'
        f"<span>{escape(known.expected())} expected</span>"
        f"{_mark(known, metrics[name])}</div>"
      )
  return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def figures(metrics: Mapping[str, Any]) -> str:
  """The table of figures with their meaning, and how they were taken."""
  rows = ""
  for name, known in protocol.FIGURES.items():
    if name not in metrics:
      continue
    value = f"{_number(metrics[name])} {known.unit}".strip()
    rows += (
      f'<tr><th scope="row">{escape(known.label)}<code>{escape(name)}</code></th>'
      f'<td class="number">{escape(value)}</td>'
      f"<td>{escape(known.meaning)} {escape(known.better)}</td>"
      f"<td>{escape(known.expected())} {_mark(known, metrics[name])}</td></tr>\n"
    )
  if not rows:
    return "<p>Nothing has been measured yet.</p>"
  numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
  return (
    '<div class="scroll"><table class="figures"><thead><tr><th scope="col">Figure</th>'
    '<th scope="col">Value</th><th scope="col">What it means</th>'
    f'<th scope="col">Expected</th></tr></thead><tbody>\n{rows}</tbody></table></div>'
    f'<p class="soft">{escape(protocol.sentence(numbers))}</p>'
  )


def scores(found: Mapping[str, Mapping[str, Any]]) -> str:
  """The scores against real clips, each with its companions and its protocol.

  Args:
    found: Cards by the names of their files, such as "sample_fvd".
  """
  rows = ""
  for key, card in found.items():
    low, high = card.get("interval_95", (math.nan, math.nan))
    interval = f"{_number(low)} to {_number(high)}" if math.isfinite(low) else ""
    companions = card.get("companions", {})
    beside = ", ".join(f"{name} {_number(x)}" for name, x in companions.items())
    protocol_rows = _rows(card.get("protocol", {}).items())
    rows += (
      f'<tr><th scope="row">{escape(card["name"])}'
      f"<code>{escape(key.partition('_')[0])}</code></th>"
      f'<td class="number">{escape(_number(card["value"]))}</td>'
      f"<td>{escape(interval)}</td><td>{escape(beside)}</td>"
      f"<td><details><summary>protocol</summary>{protocol_rows}</details></td></tr>\n"
    )
  if not rows:
    return ""
  return (
    '<h3>Scores against real clips</h3><div class="scroll"><table class="figures">'
    '<thead><tr><th scope="col">Score</th><th scope="col">Value</th>'
    '<th scope="col">95 % interval</th><th scope="col">Beside it</th>'
    f'<th scope="col">How</th></tr></thead><tbody>\n{rows}</tbody></table></div>'
    '<p class="soft">The number behind the @ is of clips. Scores compare only where'
    " their protocols agree: <code>python -m lamd_jax.metrics compare</code> tells."
    " Beside it: the same measure of other real clips, which perfect samples would"
    " reach, and of stills, which is what a model scores that learned no motion.</p>"
  )


def videos(clips: Clips) -> str:
  """Rows of given frame, real, reconstructed and sampled clips."""
  num_clips, num_frames = clips.real.shape[:2]
  num_samples = clips.sampled.shape[1]
  rows = min(num_clips, MAX_CLIPS)
  shown = min(num_samples, MAX_SAMPLES)
  intro = "Each row has one held-out clip. "
  match clips.given_frames:
    case _ if not num_samples:
      intro += "No stage of this run generates."
    case 0:
      intro += "The model sees none of it, at most what is said of it, and samples."
    case 1:
      intro += (
        "The model sees the <em>given</em> frame alone and samples its motion,"
        " differently each time."
      )
    case k:
      intro += (
        f"The model sees the first {k} frames, the first of which is <em>given</em>,"
        " and samples the others, differently each time."
      )
  if clips.reconstructed is not None:
    intro += (
      " <em>Reconstructed</em> is the real clip through the first stage, the best that"
      " samples can look."
    )
  intro += f" Shown: {rows} of {_count(num_clips, 'clip')}"
  intro += f", {shown} of {_count(num_samples, 'sample')} each." if num_samples else "."
  slow = '<option value="0.5">half</option><option value="0.25">quarter</option>'
  controls = (
    f'<div class="controls" hidden data-fps="{clips.fps}" data-frames="{num_frames}">'
    '<button type="button">Pause</button>'
    '<label>Speed <select><option value="1" selected>full</option>'
    f"{slow}</select></label>"
    f'<label>Frame <input type="range" min="0" max="{num_frames - 1}" value="0">'
    "</label><output></output></div>"
  )
  parts = [f"<p>{intro}</p>", controls]
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "clip.mp4"

    def tile(video: np.ndarray, name: str, clip: str, kind: str) -> str:
      media.write_mp4(path, video, clips.fps, min_side=CLIP_PIXELS)
      source = _data_url(path.read_bytes(), "video/mp4")
      return (
        f'<figure><video class="{kind}" autoplay loop muted playsinline'
        f' aria-label="{escape(f"{name}, {clip}")}" src="{source}"></video>'
        f"<figcaption>{escape(name)}</figcaption></figure>"
      )

    for n in range(rows):
      caption = clips.captions[n] if n < len(clips.captions) else ""
      clip = f"clip {n + 1}: {caption}" if caption else f"clip {n + 1}"
      given = _png(clips.real[n, 0])  # Enlarged by the page.
      tiles = [
        f'<figure><img alt="{escape(f"given frame, {clip}")}" src="{given}">'
        "<figcaption>given</figcaption></figure>",
        tile(clips.real[n], "real", clip, "real"),
      ]
      if not clips.given_frames:
        del tiles[0]
      if clips.reconstructed is not None:
        tiles.append(
          tile(clips.reconstructed[n], "reconstructed", clip, "reconstructed")
        )
      for s in range(shown):
        tiles.append(tile(clips.sampled[n, s], f"sample {s + 1}", clip, "sampled"))
      parts.append(f"<h3>{escape('C' + clip[1:])}</h3>")
      parts.append(f'<div class="clip">{"".join(tiles)}</div>')
  return "\n".join(parts)


CURVES_NOTE = (
  '<p class="soft">Thin lines are values as logged, means since the step logged'
  " before; bold ones are running means. Axes across are steps; upright ones are"
  " logarithmic where values span more than a factor of ten.</p>"
)


def stage(
  name: str,
  curves: Curves,
  planned: Any,
  metrics: Mapping[str, Any],
  sheet: tuple[int, bytes] | None = None,
) -> str:
  """The curves of one stage, and the last sheet it drew while training.

  Args:
    name: Of the stage.
    curves: Its scalars.
    planned: How many steps the configuration asks for, if it says.
    metrics: All numbers of the run; those of this stage are picked.
    sheet: Step and PNG of the last contact sheet, if there is one.
  """
  last = max((steps[-1] for steps, _ in curves.values()), default=0)
  done = metrics.get(f"{name}_steps", last)
  of = f" of {_number(planned)}" if planned else ""
  facts = [f"{_number(done)}{of} steps"]
  if f"{name}_seconds" in metrics:
    facts.append(_duration(metrics[f"{name}_seconds"]))
  if f"num_parameters_{name}" in metrics:
    facts.append(f"{_number(metrics[f'num_parameters_{name}'])} parameters")
  if f"{name}_best_step" in metrics:
    facts.append(f"samples of step {_number(metrics[f'{name}_best_step'])}, the best")
  if "compile_seconds" in curves:
    facts.append(f"compiled in {_duration(curves['compile_seconds'][1][-1])}")
  title = f"<h3>Stage <code>{escape(name)}</code></h3>"
  parts = [f'{title}<p class="soft">{escape(", ".join(facts))}</p>']
  tiles = ""
  names = sorted(curves, key=lambda key: (key in LATER, key != "loss"))
  for key in names:
    if key in NO_CURVE:
      continue
    steps, values = curves[key]
    ends = f"{_number(values[0])} → {_number(values[-1])}"
    label = f"{name} {key} over {steps[-1]} steps, from {ends.replace('→', 'to')}"
    caption = f"<figcaption><b>{escape(key)}</b> {escape(ends)}</figcaption>"
    tiles += f"<figure>{caption}{curve_svg(steps, values, label)}</figure>\n"
  parts.append(
    f'<div class="curves">{tiles}</div>' if tiles else "<p>No curves yet.</p>"
  )
  if sheet:
    step, png = sheet
    alt = escape(f"Contact sheet of stage {name} at step {step}")
    parts.append(
      f"<details><summary>What it drew at step {step}</summary>"
      f'<div class="sheet"><img alt="{alt}" src="{_data_url(png, "image/png")}">'
      "</div></details>"
    )
  return "\n".join(parts)


def run(
  config: Mapping[str, Any],
  environment: Mapping[str, Any],
  metrics: Mapping[str, Any],
  skipped: Iterable[str] = (),
  scored: Iterable[str] = (),
) -> str:
  """Times, skipped files, other numbers, environment and configuration."""
  facts = {}
  for key, label, show in (
    ("wall_seconds", "Whole job", _duration),
    ("peak_memory_gb", "Peak memory", lambda x: f"{_number(x)} GB"),
  ):
    if key in metrics:
      facts[label] = show(metrics[key])
  used = {"wall_seconds", "peak_memory_gb", "skipped_files", *protocol.FIGURES}
  used |= set(scored)
  other = {}
  for key, value in metrics.items():
    if key in used or key.startswith("protocol_"):
      continue
    if key.endswith("_seconds"):
      facts[f"Of it, {key.removesuffix('_seconds')}"] = _duration(value)
    else:
      other[key] = _number(value)
  if "skipped_files" in metrics:
    facts["Files skipped"] = _number(metrics["skipped_files"])
  parts = [_rows(facts.items())] if facts else []
  if lines := list(skipped):
    items = "".join(f"<li><code>{escape(line)}</code></li>" for line in lines)
    parts.append(f"<details><summary>Skipped files</summary><ul>{items}</ul></details>")
  for title, pairs in (
    ("Other numbers", list(other.items())),
    ("Versions and machine", list(environment.items())),
    ("Configuration", _flat(config)),
  ):
    if pairs:
      parts.append(f"<details><summary>{title}</summary>{_rows(pairs)}</details>")
  return "\n".join(parts) or "<p>Nothing is recorded yet.</p>"
