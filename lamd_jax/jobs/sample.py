"""Job: videos from a trained work folder, of held-out clips or of one's own picture."""

from collections.abc import Mapping
import json
import os
import pathlib
import time
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
from jaxtyping import UInt8
import numpy as np
import tqdm

from lamd_jax.data import media, sources
from lamd_jax.experiment import conditions
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.files import writing
from lamd_jax.systems import pixels
from lamd_jax.systems import stage as stage_lib
from lamd_jax.training import processes, sharding
from lamd_jax.types import Config, UserError

ANIMATED = "animated"  # Folder for pictures of one's own.
MAX_FILES = 4  # Clips that are also written as mp4, gif and png.


def sample_clips(config: Config, workdir: pathlib.Path) -> None:
  """Samples from what each held-out clip gives a model; autoencoders reconstruct them.

  Writes `samples/clips.npz` and the first few clips as mp4, gif and png, unless
  they are there already, from the same checkpoints and the same settings.
  """
  started = time.monotonic()
  mesh = sharding.make_mesh(config.mesh.to_dict())
  autoencoder, generator = _stage_names(config)
  made_from = _made_from(config, workdir)
  path = workdir / workdir_lib.CLIPS
  is_there = path.exists() and _read_made_from(path) == made_from
  if processes.as_first_sees(is_there):
    logging.info("samples are already there: %s", path)
    return

  source = sources.make_source(config.data.to_dict(), "eval")
  values = config.evaluate
  batch, numbers = workdir_lib.eval_batch(
    config, source, values.num_clips, workdir / workdir_lib.FEATURES
  )
  real = batch["video"]
  notes = [source.annotation(i) for i in numbers]
  captions = [str(note.get("caption", "")) for note in notes]

  reconstructed: dict[str, Any] = {}
  if autoencoder:
    reconstruct = Sampler(config, workdir, autoencoder, mesh)
    reconstructed = {"reconstructed": reconstruct({"video": real}, "reconstructing")}
  sampled, given_frames = np.zeros((len(real), 0, *real.shape[1:]), np.uint8), 1
  if generator:
    # Sample i of every clip, before sample i + 1 of any: n s f h w 3.
    sampler, count = Sampler(config, workdir, generator, mesh), values.samples_per_clip
    repeated = {name: np.concatenate([x] * count) for name, x in batch.items()}
    sampled = sampler(repeated, "sampling").reshape(count, *real.shape).swapaxes(0, 1)
    given_frames = sampler.given_frames

  if jax.process_index() != 0:
    return
  folder = path.parent
  fps = source.fps / config.data.frame_stride
  with writing.explain_full_disk(workdir):
    for i in range(min(len(real), MAX_FILES)):
      workdir_lib.write_video(folder / f"real_{i}", real[i], fps)
      rows = [real[i], *(x[i] for x in reconstructed.values()), *sampled[i]]
      for videos in reconstructed.values():
        workdir_lib.write_video(folder / f"reconstructed_{i}", videos[i], fps)
      for j, video in enumerate(sampled[i]):
        workdir_lib.write_video(folder / f"sample_{i}_{j}", video, fps)
      media.contact_sheet(rows, folder / f"clip_{i}.png")
    part = folder / ".clips.part.npz"
    np.savez_compressed(
      part,
      real=real,
      **reconstructed,
      sampled=sampled,
      given_frames=given_frames,
      fps=fps,
      caption=np.array(captions),
      notes=np.array([json.dumps(note) for note in notes]),
      made_from=made_from,
      seconds=time.monotonic() - started,
    )
    os.replace(part, path)
  logging.info("wrote %d clips and their samples to %s", len(real), folder)


def animate(
  config: Config,
  workdir: pathlib.Path,
  image: UInt8[np.ndarray, "h w 3"],
  name: str,
  *,
  caption: str | None = None,
  label: int | None = None,
) -> list[pathlib.Path]:
  """Generates videos that begin with a picture.

  Args:
    config: Of the trained work folder.
    workdir: That folder.
    image: Of any size; its short side is resized, then its centre cropped.
    name: Beginning of the names of the files.
    caption: What happens, for a model that knows captions; anything by default.
    label: What happens, for a model that knows classes; anything by default.

  Returns:
    The mp4 files. A gif lies beside each, and a png with the frames of all.

  Raises:
    UserError: The model begins with other than one frame, or does not know such a
      condition.
  """
  mesh = sharding.make_mesh(config.mesh.to_dict())
  _, generator = _stage_names(config)
  if generator is None:
    raise UserError(
      f"the model of {workdir} only reconstructs: config.stages={tuple(config.stages)}"
      " has no stage that generates"
    )
  stage = stage_lib.make_stage(config, generator, dict.fromkeys(config.stages[:-1]))
  if stage.given_frames != 1:
    raise UserError(
      f"the model of {workdir} begins with {stage.given_frames} given frames, a picture"
      " is one; a system that takes any number takes --config.sample.given_frames=1"
    )
  frame = media.resize_crop(image[None], config.data.resolution)
  video = np.repeat(frame, config.data.num_frames, axis=0)
  count = config.evaluate.samples_per_clip
  said = conditions.asked(config, count, caption=caption, label=label)
  sampler = Sampler(config, workdir, generator, mesh)
  videos = sampler({"video": np.stack([video] * count)} | said, "animating")
  fps = sampler.meta["fps"]
  return workdir_lib.write_videos(workdir / ANIMATED, name, videos, fps)


class Sampler:
  """A trained stage as a function from clips to clips, any number at a time.

  Attributes:
    meta: Of the stage's checkpoint.
    given_frames: First frames of a clip that the stage looks at.
  """

  def __init__(
    self,
    config: Config,
    workdir: pathlib.Path,
    name: str,
    mesh: Mesh,
  ):
    """Restores a stage, and those before it, from a work folder."""
    stage = workdir_lib.load_stage(config, workdir, name, mesh)
    best = workdir_lib.best_of(config, name)
    params, self.meta = workdir_lib.load_params(
      config, workdir, name, stage, mesh, best=best
    )
    if best is not None:
      logging.info("stage %s: step %d, best by %s", name, self.meta["step"], best)
    self.given_frames = stage.given_frames
    self._arguments = stage, params  # They lie where the rules say.
    self._key = jax.random.key(config.seed)
    self._mesh = mesh
    parts = sharding.batch_parts(mesh)
    # Whole batches only, so that there is one compilation.
    self._batch_size = -(-config.sample.batch_size // parts) * parts

    def sample(arguments: tuple[stage_lib.Stage, Any], batch, key):
      stage, params = arguments
      return pixels.to_uint8(stage.sample(params, batch, key))

    self._sample = jax.jit(sample, out_shardings=sharding.replicated(mesh))

  def __call__(
    self, batch: Mapping[str, np.ndarray], description: str
  ) -> UInt8[np.ndarray, "n f h w 3"]:
    """Samples for a batch of any size: `video` [n f h w 3], and conditions."""
    size, count = self._batch_size, len(batch["video"])
    outputs = []
    for start in tqdm.trange(0, count, size, desc=description, disable=None):
      part = {name: x[start : start + size] for name, x in batch.items()}
      lacking = size - len(part["video"])
      filled = {
        name: np.concatenate([x, x[:1].repeat(lacking, axis=0)])
        for name, x in part.items()
      }
      key = jax.random.fold_in(self._key, start)
      output = self._sample(
        self._arguments, sharding.put_batch(filled, self._mesh), key
      )
      outputs.append(np.asarray(output)[: size - lacking])
    return np.concatenate(outputs)


def _stage_names(config: Config) -> tuple[str | None, str | None]:
  """Returns the stage that reconstructs, and the one that generates, if there are."""
  autoencoders = [n for n in config.stages if n in stage_lib.AUTOENCODERS]
  last = config.stages[-1]
  return (autoencoders or [None])[0], None if last in autoencoders else last


def _made_from(config: Config, workdir: pathlib.Path) -> str:
  """Returns everything that samples depend on, as text."""
  steps = {
    name: workdir_lib.read_meta(config, workdir, name)[0] for name in config.stages
  }
  sample, evaluate = config.sample.to_dict(), config.evaluate.to_dict()
  return json.dumps({"steps": steps, "sample": sample, "evaluate": evaluate})


def _read_made_from(path: pathlib.Path) -> str:
  try:
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
      return str(file["made_from"])
  except Exception:  # Damaged or of another version: it is made again.
    return ""
