"""A trained model as one object: arrays in, arrays out, nothing written unless asked.

model = lamd_jax.load("runs/quickstart")
video = model.animate(image, seed=0)  # uint8 [n, frames, height, width, 3]
"""

from collections.abc import Mapping, Sequence
import contextlib
import functools
import json
import os
import pathlib
from typing import Any

from flax import traverse_util
import jax
from jaxtyping import UInt8
import ml_collections
import numpy as np
from safetensors.numpy import load_file, save_file

from lamd_jax import __version__
from lamd_jax.data import media, sources
from lamd_jax.experiment import conditions, trained
from lamd_jax.experiment.run import Run, make_run
from lamd_jax.experiment.workdir import CONFIG
from lamd_jax.files import reading, writing
from lamd_jax.systems.clip import Clip
from lamd_jax.systems.pipeline import (
  Pipeline,
  Request,
  Sampler,
  Stages,
  Trained,
  collect,
)
from lamd_jax.systems.table import bare_stage
from lamd_jax.training import sharding
from lamd_jax.types import Config, UserError

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
SAVE_AGAIN = "save the model again"

Picture = UInt8[np.ndarray, "h w 3"]
Video = UInt8[np.ndarray, "f h w 3"]
Videos = UInt8[np.ndarray, "n f h w 3"]
Made = UInt8[np.ndarray, "n f2 h2 w2 3"]  # Videos of the model's size.
Motion = UInt8[np.ndarray, "_ _ _ 3"]  # A video of another size than the others given.


class Model:
  """A trained system.

  Pictures and videos may have any size: the short side is resized and the centre
  square kept. `seed` chooses the noise; with equal arguments on the same devices the
  result is equal bit for bit.

  Attributes:
    config: The configuration that it was trained with.
    clip: Size of its clips.
    stages: Its trained stages by name.
    fps: Frames per second of its clips.
  """

  def __init__(self, run: Run, stages: Stages | None = None):
    """Computes nothing, and looks up no stage, before it is asked for a video.

    Args:
      run: The experiment that it was trained in.
      stages: The trained stages by name; by default those of the work folder.
    """
    self.config = run.config
    self.clip: Clip = run.clip(run.stages[-1])
    self._run = run
    self.stages: Stages = trained.TrainedStages(run) if stages is None else stages

  @functools.cached_property
  def pipeline(self) -> Pipeline:
    """The system's pipeline around the stages."""
    return trained.make_pipeline(self._run, self.stages)

  @functools.cached_property
  def fps(self) -> float:
    """Frames per second of its clips."""
    return float(self.stages[self.config.stages[0]].meta["fps"])

  def stage(self, name: str) -> Trained:
    """Returns a trained stage: its networks, parameters and meta."""
    if name not in self.config.stages:
      raise UserError(f"no stage {name!r}; known: {', '.join(self.config.stages)}")
    return self.stages[name]

  def animate(
    self,
    image: Picture,
    *,
    num: int = 1,
    seed: int = 0,
    caption: str | None = None,
    label: int | str | None = None,
  ) -> Made:
    """Returns videos that begin with a picture.

    Args:
      image: The picture.
      num: Number of videos, each from other noise.
      seed: Chooses the noise.
      caption: Description of the video, for a model trained with captions.
      label: The class, by number or by name, for a model trained with classes.

    Raises:
      UserError: The model does not begin with one frame, or knows no such condition.
    """
    said = {"caption": caption, "label": label}
    return self.run(self.request("animate", _one(image), num=num, said=said), seed)

  def generate(
    self,
    *,
    num: int = 1,
    seed: int = 0,
    caption: str | None = None,
    label: int | str | None = None,
  ) -> Made:
    """Returns videos made from noise, under a condition or under none.

    Args:
      num: Number of videos, each from other noise.
      seed: Chooses the noise.
      caption: Description of the video, for a model trained with captions.
      label: The class, by number or by name, for a model trained with classes.

    Raises:
      UserError: The model needs a first frame, or knows no such condition.
    """
    said = {"caption": caption, "label": label}
    return self.run(self.request("generate", num=num, said=said), seed)

  def extend(
    self,
    video: Video | Picture,
    num_frames: int,
    *,
    num: int = 1,
    seed: int = 0,
    caption: str | None = None,
    label: int | str | None = None,
  ) -> Made:
    """Returns videos that begin with the given one and go on.

    Args:
      video: The frames so far, at the model's rate, or one picture.
      num_frames: Length of the result.
      num: Number of videos, each from other noise.
      seed: Chooses the noise.
      caption: Description of the video, for a model trained with captions.
      label: The class, by number or by name, for a model trained with classes.

    Raises:
      UserError: The model makes whole clips only, or the video is as long already.
    """
    video = video if video.ndim == 4 else _one(video)
    said = {"caption": caption, "label": label}
    request = self.request("extend", video, num=num, num_frames=num_frames, said=said)
    return self.run(request, seed)

  def transfer(
    self,
    motion: Motion | Sequence[Motion],
    image: Picture,
    *,
    strength: float | Sequence[float] = 1.0,
    mix: int | None = None,
  ) -> Made:
    """Returns videos of a picture that move like clips; nothing in it is random.

    Args:
      motion: One clip or several, each as long as the model's clips.
      image: The picture.
      strength: Place between the latents of a still, 0, and of the motion, 1; given
        several, makes all of them for each motion in turn.
      mix: In place of two motions, so many from the first to the second.

    Raises:
      UserError: The system does not take motion apart from content, or a clip is of
        another length.
    """
    motions = [motion] if isinstance(motion, np.ndarray) else list(motion)
    strengths = (
      (float(strength),) if isinstance(strength, int | float) else tuple(strength)
    )
    options = {"strengths": strengths} | ({} if mix is None else {"mix": mix})
    clips = tuple(self._fitted(x) for x in motions)
    request = self.request("transfer", _one(image), motions=clips, options=options)
    return self.run(request)

  def reconstruct(self, video: Video | Videos) -> Made:
    """Returns what the model's autoencoder makes of clips.

    Args:
      video: One clip or several, each as long as the model's clips.

    Raises:
      UserError: The system has no autoencoder, or a clip is of another length.
    """
    name = self._run.with_output("reconstruction")
    if name is None:
      raise UserError(f"{self.config.system} works on pixels: it has no autoencoder")
    clips = video if video.ndim == 5 else video[None]
    batch = {"video": np.stack([self._fitted(x) for x in clips])}
    size = min(self.config.sample.batch_size, len(clips))
    devices = trained.devices_of(self._run)
    sampler = Sampler(self.stages[name], devices, size)
    return sampler(batch, jax.random.key(0))

  def run(self, request: Request, seed: int = 0) -> Made:
    """Returns the videos of a request; `seed` chooses the noise.

    Raises:
      UserError: The model cannot do this.
    """
    plan = self.pipeline.plan(request)
    return collect(plan, self.pipeline.run(request, jax.random.key(seed)))

  def request(
    self,
    task: str,
    video: Video | None = None,
    *,
    motions: tuple[Motion, ...] = (),
    num: int = 1,
    num_frames: int | None = None,
    said: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
  ) -> Request:
    """Returns a request for any task of the system's pipeline, its frames resized.

    Args:
      task: One of `pipeline.tasks`.
      video: Frames to begin with.
      motions: Clips whose motion is wanted.
      num: Number of videos, each from other noise.
      num_frames: Length of the result, where the task leaves a choice.
      said: `caption` and `label`; None where nothing is said.
      options: Further values of the task.

    Raises:
      UserError: The model cannot do this.
    """
    if num < 1:
      raise UserError(f"{num} videos were asked for; expected 1 or more")
    said, options = dict(said or {}), options or {}
    reading = self.pipeline.reading(task, options)
    if reading is not None:
      if video is None:
        raise UserError(f"{task} needs a picture or a video to begin with")
      if len(video) < reading.least:
        raise UserError(
          f"{task} needs {reading.least} frames to begin with; {len(video)} were given"
        )
      video = _checked(video, "video")[: reading.most]
      video = media.resize_crop(video, reading.resolution)
    known = {condition.key for condition in self._run.conditions}
    if "label" in known and said.get("label") is not None:
      data = self._run.data(self.config.stages[-1])
      open_videos = lambda: sources.make_source(data, "train")
      said["label"] = conditions.label_number(said["label"], open_videos)
    arrays = conditions.asked(self._run.conditions, num, **said)
    return Request(task, num, arrays, video, motions, num_frames, options)

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the model into a folder, for `lamd_jax.load` anywhere.

    `model.safetensors` has the averaged parameters of all stages, under
    `<stage>/<path>`; `model.json` the configuration and what checkpoints say.

    Args:
      path: A folder; made if it is not there.

    Raises:
      UserError: It cannot be written, or holds something else.
    """
    folder = pathlib.Path(path)
    if (folder / CONFIG).exists():
      raise UserError(f"{folder} is a work folder; choose another one to save into")
    trees, stages = {}, {}
    for name in self.config.stages:
      _, trees[name], measured, meta = self.stages[name]
      stages[name] = {"meta": dict(meta), "statistics": dict(measured)}
    arrays = {name: np.asarray(x) for name, x in _flat(trees).items()}
    description = {
      "lamd_jax": __version__,
      "config": json.loads(self.config.to_json_best_effort()),
      "stages": stages,
    }
    part = folder / f".{WEIGHTS}.{os.getpid()}.part"
    try:
      with writing.explain_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(arrays, part)
        part.chmod(0o644)  # Others may read it, as any file that jobs write.
        os.replace(part, folder / WEIGHTS)
    except OSError as e:
      raise UserError(f"cannot write {folder / WEIGHTS} ({e.strerror})") from e
    finally:
      with contextlib.suppress(OSError):  # As where the folder is a file.
        part.unlink()
    writing.write_json(folder / DESCRIPTION, description)

  def _fitted(self, clip: Motion) -> Video:
    """Returns a clip at the model's resolution."""
    _checked(clip, "clip")
    if len(clip) != self.clip.num_frames:
      raise UserError(
        f"a clip of {len(clip)} frames was given; this model's clips have"
        f" {self.clip.num_frames}"
      )
    return media.resize_crop(clip, self.clip.resolution)


def load(path: str | os.PathLike[str]) -> Model:
  """Loads a trained model from a work folder, or from what `Model.save` wrote.

  Stages of a work folder are restored when a method first needs them; that is also
  when one that is not trained yet is told.

  Args:
    path: The folder.

  Raises:
    UserError: The folder is neither, or damaged.
  """
  folder = pathlib.Path(path).expanduser()
  if (folder / DESCRIPTION).exists():
    with reading.explain_damage(folder / DESCRIPTION, SAVE_AGAIN):
      return _load_saved(folder)
  if not (folder / CONFIG).exists():
    raise UserError(
      f"{folder} is no model: expected a work folder ({CONFIG}), or one that"
      f" Model.save wrote ({DESCRIPTION})"
    )
  with reading.explain_damage(folder / CONFIG, "restore it from a copy"):
    run = make_run(_to_config(reading.read_json(folder / CONFIG)), folder)
    for name in run.stages:
      bare_stage(run.config, name)  # Raises what no network or sampler could use.
    return Model(run)


def _to_config(values: Mapping[str, Any]) -> Config:
  """Returns a configuration from JSON, for the devices of this machine."""
  config = ml_collections.ConfigDict(values)
  config.mesh = {"data": -1}
  return config


def _load_saved(folder: pathlib.Path) -> Model:
  description = reading.read_json(folder / DESCRIPTION)
  with reading.explain_damage(folder / WEIGHTS, SAVE_AGAIN):
    trees = traverse_util.unflatten_dict(load_file(folder / WEIGHTS), sep="/")
  config = _to_config(description["config"])
  said = {
    name: (dict(x["meta"]), dict(x["statistics"]))
    for name, x in description["stages"].items()
  }
  run = make_run(config, folder)
  stages: dict[str, Trained] = {}
  for name in run.stages:
    abstract, given = trained.abstract_params(run, name), trees.get(name, {})
    _check_alike(folder, {name: abstract}, {name: given})
    placed = sharding.put(given, sharding.state_sharding(run.mesh, abstract))
    stages[name] = trained.around(run, name, stages, placed, *said.get(name, ({},)))
  return Model(run, stages)


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Returns arrays under their paths, such as "dmg/conv_in/kernel"."""
  return traverse_util.flatten_dict(tree, sep="/")


def _check_alike(folder: pathlib.Path, expected: Any, given: Any) -> None:
  """Raises a `UserError` unless all parameters are there, of right shapes and types."""
  flat = [_flat(tree) for tree in (expected, given)]
  wanted, there = ({k: tuple(np.shape(x)) for k, x in tree.items()} for tree in flat)
  for name in sorted(wanted.keys() | there.keys()):
    if wanted.get(name) != there.get(name):
      raise UserError(
        f"{folder}: {name} has the shape {there.get(name, 'of nothing')},"
        f" expected {wanted.get(name, 'nothing of this name')}"
      )
    types = [tree[name].dtype for tree in flat]
    if types[0] != types[1]:
      raise UserError(f"{folder}: {name} is of {types[1]}, expected {types[0]}")


def _one(image: Picture) -> Video:
  """Returns a picture as a video of one frame."""
  return _checked(image, "picture")[None]


def _checked(x: np.ndarray, what: str) -> np.ndarray:
  """Returns pixels as they are; raises a `UserError` unless they are RGB in uint8."""
  axes = ("frames", "height", "width", "3")[what == "picture" :]
  if x.ndim != len(axes) or x.shape[-1] != 3 or x.dtype != np.uint8:
    raise UserError(
      f"a {what} of shape {list(x.shape)} and type {x.dtype} was given; expected"
      f" [{', '.join(axes)}] and uint8"
    )
  return x
