"""Curves of a report, drawn as SVG elements that take their colours from the page."""

import io
import re
from typing import Any

from markupsafe import Markup, escape
import matplotlib
from matplotlib import figure, ticker
import numpy as np

from lamd_jax.types import printable

# Placeholders for colours that the page decides: matplotlib has no "currentColor".
COLOURS = {
  "#010203": "currentColor",
  "#010204": "var(--accent)",
  "#010205": "var(--raw)",
}
INK, LINE, RAW = COLOURS


def curve_svg(steps: list[int], values: list[float], label: str) -> Markup:
  """Draws one curve as an SVG element that takes its colours from the page.

  Args:
    steps: Two or more steps, ascending.
    values: The finite value at each step.
    label: The description for screen readers.

  Returns:
    Safe markup: of the arguments only `label` is text, and it is escaped.
  """
  x, y, label = np.asarray(steps), np.asarray(values), printable(label)
  keep = np.unique(np.linspace(0, len(x) - 1, 800).astype(int))
  is_log = bool(y.min() > 0 and y.max() > 10 * y.min())
  style: Any = {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": label}
  style |= {name: INK for name in ("text.color", "xtick.color", "ytick.color")}
  with matplotlib.rc_context(style):
    drawing = figure.Figure(figsize=(3.5, 2.1), layout="constrained")
    axes = drawing.subplots()
    smoothed = _smooth(y)
    raw = RAW if smoothed is not None else LINE
    axes.plot(x[keep], y[keep], color=raw, lw=1.0)
    if smoothed is not None:
      axes.plot(x[keep], smoothed[keep], color=LINE, lw=1.8)
    plain = ticker.FuncFormatter(lambda value, _: f"{value:g}")
    if is_log:
      axes.set_yscale("log")
      axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.yaxis.set_major_formatter(plain)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(plain)
    axes.grid(axis="y", color=INK, alpha=0.2, lw=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.tick_params(which="both", length=0)
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    drawing.savefig(out, format="svg", transparent=True, metadata=nothing)
  svg = out.getvalue()
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # Else the ids of all curves collide.
  svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg)
  svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg)
  for placeholder, colour in COLOURS.items():
    svg = svg.replace(placeholder, colour)
  return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


def _smooth(y: np.ndarray) -> np.ndarray | None:
  """Returns the running mean over a fiftieth of the curve; None for a short one."""
  width = len(y) // 50
  if width < 2:
    return None
  total = np.concatenate([[0.0], np.cumsum(y)])
  index = np.arange(len(y))
  low, high = np.maximum(index - width, 0), np.minimum(index + width + 1, len(y))
  return (total[high] - total[low]) / (high - low)
