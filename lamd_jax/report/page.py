"""Job: one self-contained page from what training, sampling and scoring left.

The page opens from disk and fetches nothing: clips are H.264 inside the page,
curves are drawn into it. It reads the work folder and computes nothing anew, so
it can be written at any time; what is not there yet is said, not left out.
"""

from collections.abc import Mapping
import datetime
import importlib.resources
import json
import math
import os
import pathlib
import re
import string
from typing import Any
import zipfile
import zlib

import numpy as np

import lamd_jax
from lamd_jax.files import writing
from lamd_jax.report import content
from lamd_jax.report.content import Clips, Curves
from lamd_jax.training import logging
from lamd_jax.types import UserError

MAX_SHEET_BYTES = 4_000_000
# What a file of arrays that is cut off, or is something else, may raise.
BROKEN = (
  *(OSError, EOFError, KeyError, TypeError, ValueError),
  *(zipfile.BadZipFile, zlib.error),
)


def write_report(workdir: str | os.PathLike) -> pathlib.Path:
  """Writes `report.html` into a work folder, whole or not at all.

  Args:
    workdir: A work folder, however far its job came.

  Returns:
    The path of the page.

  Raises:
    UserError: There is no such folder.
  """
  workdir = pathlib.Path(workdir)
  if not workdir.is_dir():
    raise UserError(
      f"no work folder {str(workdir)!r} to report on: expected a folder that"
      " training wrote; see --workdir"
    )
  missing: list[str] = []
  config = read_json(workdir / "config.json", missing)
  environment = read_json(workdir / "environment.json", missing)
  metrics = read_json(workdir / "metrics.json", missing)
  clips = read_clips(workdir / "samples" / "clips.npz", missing)
  found = {
    path.stem: card
    for path in sorted((workdir / "cards").glob("*.json"))
    if {"name", "value"} <= (card := read_json(path, missing)).keys()
  }
  stages = config.get("stages") or []
  stages = list(stages) if isinstance(stages, list | tuple) else [str(stages)]
  stages += sorted({p.parent.name for p in workdir.glob("*/scalars.jsonl")} - {*stages})
  training = []
  for name in stages:
    curves = read_curves(workdir / name / "scalars.jsonl", missing)
    planned = config
    for key in (name, "train", "steps"):
      planned = planned.get(key) if isinstance(planned, Mapping) else None
    sheet = read_sheet(workdir / name)
    training.append(content.stage(name, curves, planned, metrics, sheet))

  template = importlib.resources.files(lamd_jax).joinpath("report/template.html")
  data = config.get("data")
  data = data if isinstance(data, Mapping) else {}
  title = f"{config.get('system', 'Run')} on {data.get('name', workdir.name)}"
  date = datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z")
  text = string.Template(template.read_text(encoding="utf-8")).substitute(
    title=content.escape(title),
    subtitle=content.escape(content.subtitle(data, metrics)),
    missing=content.notice(missing),
    cards=content.cards(metrics),
    video=content.videos(clips) if clips else "<p>No clips to show yet.</p>",
    figures=content.figures(metrics) + content.scores(found),
    training="\n".join([content.CURVES_NOTE, *training])
    if training
    else "<p>No stage has been trained yet.</p>",
    run=content.run(config, environment, metrics, read_skipped(workdir), found),
    date=content.escape(date),
    version=content.escape(lamd_jax.__version__),
  )
  path = workdir / "report.html"
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    with writing.explain_full_disk(workdir):
      temporary.write_text(text, encoding="utf-8")
      os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
  return path


# Reading: each reader adds a line to `missing` and returns something empty when
# a file is not there or cannot be read.


def read_json(path: pathlib.Path, missing: list[str]) -> dict[str, Any]:
  """Reads a JSON object; {} and a line in `missing` if that cannot be done."""
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
      raise ValueError("not a JSON object")
  except FileNotFoundError:
    missing.append(f"{path.name} is not there yet.")
  except (OSError, ValueError) as error:
    missing.append(f"{path.name} could not be read: {error}.")
  else:
    return content
  return {}


def read_clips(path: pathlib.Path, missing: list[str]) -> Clips | None:
  """Reads samples/clips.npz; None and a line in `missing` if it is no good."""
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
      and fps > 0
    ):
      raise ValueError(
        f"shapes {', '.join(str(x.shape) for x in arrays)} of {real.dtype} are not"
        " clips, samples and reconstructions in uint8"
      )
  except FileNotFoundError:
    missing.append("samples/clips.npz is not there yet: no video to show.")
  except BROKEN as error:
    missing.append(f"samples/clips.npz could not be read: {error}.")
  else:
    return Clips(real, reconstructed, sampled, fps, captions, given_frames)
  return None


def read_curves(path: pathlib.Path, missing: list[str]) -> Curves:
  """Reads scalars.jsonl into one curve per name, in order of appearance.

  Values that are not finite, which no curve can show, are counted in `missing`.
  """
  curves: Curves = {}
  not_finite = 0
  rows = logging.read_scalars(path)
  for row in rows:
    for name, value in row.items():
      if name == "step" or type(value) not in (int, float):
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
    missing.append(f"{where}: {not_finite} values are not finite and left out.")
  return {name: curve for name, curve in curves.items() if curve[0]}


def read_sheet(folder: pathlib.Path) -> tuple[int, bytes] | None:
  """Step and PNG of the last contact sheet of a stage, if not too large."""
  sheets = {
    int(match[1]): path
    for path in folder.glob("grid_*.png")
    if (match := re.fullmatch(r"grid_(\d+)\.png", path.name))
  }
  if not sheets or sheets[max(sheets)].stat().st_size > MAX_SHEET_BYTES:
    return None
  return max(sheets), sheets[max(sheets)].read_bytes()


def read_skipped(workdir: pathlib.Path) -> list[str]:
  """The lines "name: reason" of skipped_files.txt, where the job wrote it."""
  path = workdir / "skipped_files.txt"
  if not path.is_file():
    return []
  lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
  return [line for line in lines if line]
