"""Jobs: videos from a trained work folder, of held-out clips or of one's own files."""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import re
import time
import types
from typing import Any, NamedTuple

from absl import logging
import jax
from jaxtyping import UInt8
import numpy as np

from lamd_jax.data import media, sources
from lamd_jax.experiment import batches, statistics, trained
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.experiment.model import Model
from lamd_jax.experiment.run import Run
from lamd_jax.files import reading, writing
from lamd_jax.jobs import unfinished
from lamd_jax.jobs.progress import Progress
from lamd_jax.systems.pipeline import (
  Reading,
  Sampler,
  Stages,
  collect,
)
from lamd_jax.training import processes
from lamd_jax.types import UserError

MAX_FILES = 4  # Clips that are also written as mp4, gif and png,
MAX_SAMPLES = 8  # and samples of each.
CLIPS = "clips"  # Key of what tells held-out clips from others, in `made_from`.
GAP = 2  # Pixels between the clips of a grid.
# Where the videos of a task go; those of all others to `edited`.
FOLDERS = {"animate": "animated", "generate": "generated", "transfer": "transferred"}


class Wish(NamedTuple):
  """Videos that a user asks for on the command line.

  Attributes:
    task: A task of the system's pipeline.
    path: A picture or a video to begin with; None for nothing.
    is_picture: Whether that is a picture.
    motions: Videos whose motion is wanted.
    num_frames: Length of the result, where the task leaves a choice.
    said: `caption` and `label`, None where nothing is said.
    options: Further values of the task.
  """

  task: str
  path: pathlib.Path | None = None
  is_picture: bool = False
  motions: tuple[pathlib.Path, ...] = ()
  num_frames: int | None = None
  said: Mapping[str, Any] = types.MappingProxyType({})
  options: Mapping[str, Any] = types.MappingProxyType({})


def sample_clips(run: Run) -> None:
  """Samples from held-out clips, and reconstructs them where there is an autoencoder.

  Writes `samples/clips.npz` and the first few clips as mp4, gif and png, unless
  they are there already, from the same parameters, settings and held-out clips. The
  figures of other samples go with them.
  """
  started = time.monotonic()
  config, values = run.config, run.config.evaluate
  stages, devices = trained.TrainedStages(run), trained.devices_of(run)
  path, made_from = run.folder / workdir_lib.CLIPS, _made_from(run, stages)
  there = _read_made_from(path)
  is_alike = processes.as_first_sees(there == made_from | {CLIPS: there.get(CLIPS)})
  shown = run.stages[-1]
  cache = run.folder / workdir_lib.FEATURES
  try:
    source = sources.make_source(run.data(shown), "eval")
    batch, numbers = batches.eval_batch(run, shown, source, values.num_clips, cache)
  except UserError as e:
    if not is_alike:
      raise
    logging.warning(
      "samples are already there: %s; their clips cannot be read: %s", path, e
    )
    return
  real = batch["video"]
  notes = [source.annotation(i) for i in numbers]
  made_from[CLIPS] = [statistics.digest(batch), source.fps, json.dumps(notes)]
  if processes.as_first_sees(there == made_from):
    logging.info("samples are already there: %s", path)
    return
  key = jax.random.key(config.seed)

  def sample(name: str, batch: dict[str, np.ndarray], doing: str):
    size = config.sample.batch_size
    with Progress(doing, -(-len(batch["video"]) // size)) as progress:
      sampler = Sampler(stages[name], devices, size, progress.on_step)
      return sampler(batch, key, progress.through)

  reconstructed: dict[str, Any] = {}
  if name := run.with_output("reconstruction"):
    reconstructed = {"reconstructed": sample(name, {"video": real}, "reconstructing")}
  sampled, given_frames = np.zeros((len(real), 0, *real.shape[1:]), np.uint8), 1
  if name := run.with_output("sample"):
    # Sample i of every clip, before sample i + 1 of any: n s f h w 3.
    count = values.samples_per_clip
    repeated = {name: np.concatenate([x] * count) for name, x in batch.items()}
    sampled = sample(name, repeated, "sampling")
    sampled = sampled.reshape(count, *real.shape).swapaxes(0, 1)
    given_frames = stages[name].stage.given_frames

  if jax.process_index() != 0:
    return
  folder, fps = path.parent, source.fps / run.clip(shown).frame_stride
  with writing.explain_full_disk(run.folder):
    folder.mkdir(exist_ok=True)
    part = folder / ".clips.part.npz"
    np.savez_compressed(
      part,
      real=real,
      **reconstructed,
      sampled=sampled,
      given_frames=given_frames,
      fps=fps,
      caption=np.array([str(note.get("caption", "")) for note in notes]),
      notes=np.array([json.dumps(note) for note in notes]),
      made_from=json.dumps(made_from),
      seconds=time.monotonic() - started,
    )
    _remove_samples(run)
    for i in range(min(len(real), MAX_FILES)):
      workdir_lib.write_video(folder / f"real_{i}", real[i], fps)
      few = sampled[i, :MAX_SAMPLES]
      rows = [real[i], *(x[i] for x in reconstructed.values()), *few]
      for videos in reconstructed.values():
        workdir_lib.write_video(folder / f"reconstructed_{i}", videos[i], fps)
      for j, video in enumerate(few):
        workdir_lib.write_video(folder / f"sample_{i}_{j}", video, fps)
      media.contact_sheet(rows, folder / f"clip_{i}.png")
    os.replace(part, path)
  logging.info("wrote %d clips and their samples to %s", len(real), folder)


def check_samples(run: Run) -> None:
  """Raises a `UserError` if there are samples, but of other parameters or settings."""
  there = _read_made_from(run.folder / workdir_lib.CLIPS)
  made_from = _made_from(run, trained.TrainedStages(run))
  if there and there != made_from | {CLIPS: there.get(CLIPS)}:
    raise UserError(
      f"the samples in {run.folder} were made with other parameters or settings than"
      " those there now; run --mode=sample first"
    )


def generate(run: Run, wish: Wish) -> list[pathlib.Path]:
  """Makes the videos of a wish, `evaluate.samples_per_clip` of them for most tasks.

  Returns:
    The mp4 files. A gif lies next to each, and a png with the frames of all. A
    transfer gives for each motion in turn the videos of all strengths, and a grid
    last: a column for each motion, with the picture, the clip that moves so, and the
    video of each strength.

  Raises:
    UserError: The model cannot do this, or a file is too short.
  """
  model = Model(run)
  reading = model.pipeline.reading(wish.task, wish.options)
  video = None
  if wish.path is not None and reading is not None:
    video = _read(wish.path, wish.is_picture, reading)
  motions = tuple(_read_motion(model, path) for path in wish.motions)
  request = model.request(
    wish.task,
    video,
    motions=motions,
    num=run.config.evaluate.samples_per_clip,
    num_frames=wish.num_frames,
    said=wish.said,
    options=wish.options,
  )
  plan = model.pipeline.plan(request)
  key = jax.random.key(run.config.seed)
  with (
    unfinished.keeping(run, request, model.stages) as keep,
    Progress(request.task, plan.num_segments) as progress,
  ):
    segments = model.pipeline.run(request, key, keep, progress.on_step)
    videos = collect(plan, progress.through(segments))
  folder = run.folder / FOLDERS.get(wish.task, "edited")
  name = _name(wish)
  if wish.task != "transfer":
    return workdir_lib.write_videos(folder, name, videos, plan.fps)
  assert video is not None
  rows, grid = _transfer_sheets(video[:1], motions, videos, wish.options)
  paths = workdir_lib.write_videos(folder, name, videos, plan.fps, rows)
  return [*paths, workdir_lib.write_video(folder / f"{name}_grid", grid, plan.fps)]


def _read(
  path: pathlib.Path, is_picture: bool, reading: Reading
) -> UInt8[np.ndarray, "f h w 3"]:
  """Reads the frames that a task begins with."""
  if is_picture:
    length = 1
  elif reading.most == 1:
    return media.read_window(path, 0, 1, 1, reading.resolution)
  else:
    length = (media.probe(path).num_frames - 1) // reading.stride + 1
  if length < reading.least:
    raise UserError(
      f"{path} has {length} frames at a stride of {reading.stride}; the task needs"
      f" {reading.least}"
    )
  length = min(length, reading.most or length)
  if is_picture:
    return media.resize_crop(media.read_image(path)[None], reading.resolution)
  return media.read_window(path, 0, length, reading.stride, reading.resolution)


def _read_motion(model: Model, path: pathlib.Path) -> UInt8[np.ndarray, "f h w 3"]:
  """Reads the first window of a file, as the model was trained on."""
  length, stride, size = model.clip
  there = media.probe(path).num_frames
  if there < model.clip.span:
    raise UserError(
      f"--motion={path} has {there} frames; the model's clips need {model.clip.span},"
      f" {length} of them at a stride of {stride}"
    )
  return media.read_window(path, 0, length, stride, size)


def _name(wish: Wish) -> str:
  """Returns the beginning of the names of a wish's files."""
  # File systems limit the length of a name, in bytes.
  short = lambda text: text.encode()[:100].decode(errors="ignore")
  clean = lambda path: short(re.sub(r"[^\w.-]+", "_", path.stem)) or "picture"
  name = clean(wish.path) if wish.path else "video"
  if wish.task == "transfer":
    name = short(f"{name}_by_{'_'.join(map(clean, wish.motions))}")
    return name + ("_mix" if wish.options.get("mix") is not None else "")
  return name if wish.task in FOLDERS else f"{name}_{wish.task}"


def _transfer_sheets(picture, motions, videos, options):
  """Returns the rows of the contact sheet, and the grid as one video."""
  per_motion = len(options.get("strengths", (1.0,)))
  columns = [list(x) for x in videos.reshape(-1, per_motion, *videos.shape[1:])]
  moving: list[UInt8[np.ndarray, "f h w 3"] | None] = [*motions]
  if (mix := options.get("mix")) is not None:
    moving[1:1] = [None] * (mix - 2)
  both = [[x, *column] for x, column in zip(moving, columns, strict=True)]
  rows = [x for column in both for x in column if x is not None]
  appearance = picture.repeat(videos.shape[1], axis=0)
  return rows, _grid([[appearance, *column] for column in both])


def _grid(
  columns: Sequence[Sequence[UInt8[np.ndarray, "f h w 3"] | None]],
) -> UInt8[np.ndarray, "f h2 w2 3"]:
  """Returns one video of columns of clips; a place without a clip stays white."""
  blank = np.full_like(columns[0][0], 255)
  edges = ((0, 0), (0, GAP), (0, GAP), (0, 0))
  pad = lambda x: np.pad(blank if x is None else x, edges, constant_values=255)
  stacked = [np.concatenate([pad(x) for x in column], axis=1) for column in columns]
  return np.concatenate(stacked, axis=2)


def _made_from(run: Run, stages: Stages) -> dict[str, Any]:
  """Returns what samples depend on besides the held-out clips, as JSON values."""
  values = run.config.evaluate
  made_from = {
    "parameters": trained.digests(run, stages),
    "sample": run.config.sample.to_dict(),
    "evaluate": {name: values[name] for name in ("num_clips", "samples_per_clip")},
  }
  return json.loads(json.dumps(made_from))


def _read_made_from(path: pathlib.Path) -> dict[str, Any]:
  try:
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
      if file.zip.testzip() is None:
        return dict(reading.parse_json(str(file["made_from"])))
  except Exception:  # Missing, damaged or of another version: it is made again.
    logging.debug("", exc_info=True)
  return {}


def _remove_samples(run: Run) -> None:
  """Removes earlier samples, and the figures that were measured of them."""
  made = re.compile(r"(real|reconstructed|sample|clip)_\d+(_\d+)?\.(mp4|gif|png)")
  paths = [
    *(x for x in (run.folder / "samples").glob("*") if made.fullmatch(x.name)),
    *(run.folder / workdir_lib.CARDS).glob("*.json"),
    *(run.folder / name for name in (workdir_lib.METRICS, workdir_lib.CLIPS)),
  ]
  for path in paths:
    path.unlink(missing_ok=True)
