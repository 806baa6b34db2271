"""The contents of a work folder, read for its report.

Nothing is computed anew. Each reader returns something empty and adds a line to
`missing` when a file does not exist or cannot be read, so that the report can say
so and show the rest.
"""

from collections.abc import Mapping
import io
import math
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lamd_jax.files import reading
from lamd_jax.report import words
from lamd_jax.training import logging
from lamd_jax.types import UserError, reason

MAX_SHEET_BYTES = 4_000_000
# Files and folders worth a link from the report.
LINKED = ("samples/", "cards/", "metrics.json", "config.json", "environment.json")

Curves = dict[str, tuple[list[int], list[float]]]  # Name -> steps, values.


class Clips(NamedTuple):
  """The arrays of samples/clips.npz."""

  real: np.ndarray  # uint8 [n f h w c]
  reconstructed: np.ndarray | None  # uint8 [n f h w c]
  sampled: np.ndarray  # uint8 [n s f h w c]
  fps: float
  captions: list[str]
  given_frames: int = 1


class Sheet(NamedTuple):
  """A contact sheet that a stage drew while it trained."""

  step: int
  png: bytes
  width: int  # In pixels.
  height: int


class Stage(NamedTuple):
  """A stage of the run, trained or not."""

  name: str
  curves: Curves
  sheet: Sheet | None
  planned: Any  # The number of steps in the configuration; None if it has none.


class Folder(NamedTuple):
  """Everything in a work folder that its report shows."""

  name: str
  config: dict[str, Any]
  environment: dict[str, Any]
  metrics: dict[str, Any]
  clips: Clips | None
  cards: dict[str, dict[str, Any]]  # By file name, such as "sample_fvd".
  stages: list[Stage]
  skipped: list[str]  # Lines "name: reason".
  links: list[str]  # Those of `LINKED` that exist.
  missing: list[str]  # What could not be read, a sentence each.


def read_folder(workdir: pathlib.Path) -> Folder:
  """Reads a work folder, however far its job has come."""
  missing: list[str] = []
  config = read_json(workdir / "config.json", missing)
  environment = read_json(workdir / "environment.json", missing)
  metrics = read_json(workdir / "metrics.json", missing)
  clips = read_clips(workdir / "samples" / "clips.npz", missing)
  cards = {}
  for path in sorted((workdir / "cards").glob("*.json")):
    if card := read_card(path, missing):
      cards[path.stem] = card
  return Folder(
    name=workdir.absolute().name,
    config=config,
    environment=environment,
    metrics=metrics,
    clips=clips,
    cards=cards,
    stages=read_stages(workdir, config, missing),
    skipped=read_skipped(workdir),
    links=[name for name in LINKED if (workdir / name).exists()],
    missing=missing,
  )


def read_json(path: pathlib.Path, missing: list[str]) -> dict[str, Any]:
  """Reads a JSON object; returns {} if that fails."""
  if not path.exists():
    missing.append(f"{path.name} is not there yet.")
    return {}
  try:
    return reading.read_json(path)
  except UserError as error:
    why = reason(error.__cause__ or error)
    missing.append(f"{path.name} could not be read: {why}.")
  return {}


def read_card(path: pathlib.Path, missing: list[str]) -> dict[str, Any]:
  """Reads a score with its protocol; returns {} if the file is not a card."""
  card = read_json(path, missing)
  if not card:
    return {}
  interval = card.get("interval_95", [0, 0])
  blocks = [card.get("companions", {}), card.get("protocol", {})]
  if not (
    {"name", "value"} <= card.keys()
    and isinstance(interval, list)
    and len(interval) == 2
    and all(map(words.is_number, interval))
    and all(isinstance(block, Mapping) for block in blocks)
  ):
    missing.append(f"{path.name} could not be read: it is not a card of a score.")
    return {}
  return card


def read_clips(path: pathlib.Path, missing: list[str]) -> Clips | None:
  """Reads samples/clips.npz; returns None unless its arrays fit together."""
  try:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
      real, sampled = file["real"], file["sampled"]
      reconstructed = file.get("reconstructed")
      given_frames = int(file["given_frames"]) if "given_frames" in file else 1
      fps = float(file["fps"])
      captions = [str(x) for x in file["caption"]] if "caption" in file else []
    arrays = [x for x in (real, sampled, reconstructed) if x is not None]
    if not (
      {x.dtype for x in arrays} == {np.dtype(np.uint8)}
      and (real.ndim, sampled.ndim) == (5, 6)
      and (reconstructed is None or real.shape == reconstructed.shape)
      and (sampled.shape[:1] + sampled.shape[2:]) == real.shape
      and real.shape[-1] == 3
      and real.size
      and 0 < fps < math.inf
    ):
      raise ValueError(
        f"shapes {', '.join(str(x.shape) for x in arrays)} of {real.dtype} are not"
        " clips, samples and reconstructions in uint8"
      )
  except FileNotFoundError:
    missing.append("samples/clips.npz is not there yet: no video to show.")
  except Exception as error:  # Damage shows as any error at all.
    missing.append(f"samples/clips.npz could not be read: {reason(error)}.")
  else:
    return Clips(real, reconstructed, sampled, fps, captions, given_frames)
  return None


def read_stages(
  workdir: pathlib.Path, config: Mapping[str, Any], missing: list[str]
) -> list[Stage]:
  """Reads the stages of the configuration, then others that left scalars."""
  named = config.get("stages") or []
  named = [*map(str, named)] if isinstance(named, list | tuple) else [str(named)]
  found = {path.parent.name for path in workdir.glob("*/scalars.jsonl")}
  stages = []
  for name in [*named, *sorted(found - {*named})]:
    curves = read_curves(workdir / name / "scalars.jsonl", missing)
    sheet = read_sheet(workdir / name, missing)
    planned: Any = config
    for key in (name, "train", "steps"):
      planned = planned.get(key) if isinstance(planned, Mapping) else None
    stages.append(Stage(name, curves, sheet, planned))
  return stages


def read_curves(path: pathlib.Path, missing: list[str]) -> Curves:
  """Reads scalars.jsonl into one curve for each name, in order of appearance.

  Non-finite values, which no curve can show, are left out and counted in `missing`.
  """
  curves: Curves = {}
  not_finite = 0
  rows = logging.read_scalars(path)
  for row in rows:
    for name, value in row.items():
      if name == "step" or not words.is_number(value):
        continue
      steps, values = curves.setdefault(name, ([], []))
      if math.isfinite(value):
        steps.append(int(row["step"]))
        values.append(float(value))
      else:
        not_finite += 1
  where = f"{path.parent.name}/{path.name}"
  if not rows:
    missing.append(f"{where} has nothing to show: the stage is not trained yet.")
  if not_finite:
    count = words.count(not_finite, "non-finite value")
    missing.append(f"{where}: {count} left out of the curves.")
  return {name: curve for name, curve in curves.items() if curve[0]}


def read_sheet(folder: pathlib.Path, missing: list[str]) -> Sheet | None:
  """Reads the last contact sheet of a stage, unless it is too large for a page."""
  sheets = {
    int(match[1]): path
    for path in folder.glob("grid_*.png")
    if (match := re.fullmatch(r"grid_(\d+)\.png", path.name))
  }
  try:
    if not sheets or sheets[max(sheets)].stat().st_size > MAX_SHEET_BYTES:
      return None
    png = sheets[max(sheets)].read_bytes()
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
      return Sheet(max(sheets), png, *image.size)
  except Exception:  # Damage shows as any error at all.
    name = f"{folder.name}/{sheets[max(sheets)].name}"
    missing.append(f"{name} could not be read: it is not a PNG.")
  return None


def read_skipped(workdir: pathlib.Path) -> list[str]:
  """Reads the lines "name: reason" of skipped_files.txt; returns [] without it."""
  path = workdir / "skipped_files.txt"
  if not path.is_file():
    return []
  lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
  return [line for line in lines if line]
