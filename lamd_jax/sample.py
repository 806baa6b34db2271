"""Job: videos from a trained work folder, of held-out clips or of one's own picture."""

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

from lamd_jax import workdir as workdir_lib
from lamd_jax.data import pipeline, sources, video_io
from lamd_jax.systems import pixels
from lamd_jax.systems import stage as stage_lib
from lamd_jax.training import checkpoint, disk, sharding
from lamd_jax.types import Config

ANIMATED = "animated"  # Folder for pictures of one's own.
MAX_FILES = 4  # Clips that are also written as mp4, gif and png.


def sample_clips(config: Config, workdir: pathlib.Path) -> None:
  """Reconstructs held-out clips, and samples from the first frame of each.

  Writes `samples/clips.npz` and the first few clips as mp4, gif and png, unless
  they are there already, from the same checkpoints and the same settings.
  """
  started = time.monotonic()
  mesh = sharding.make_mesh(config.mesh.to_dict())
  autoencoder, generator = _stage_names(config)
  made_from = _made_from(config, workdir)
  path = workdir / workdir_lib.CLIPS
  if path.exists() and _read_made_from(path) == made_from:
    logging.info("samples are already there: %s", path)
    return

  source = sources.make_source(config.data.to_dict(), "eval")
  values = config.evaluate
  frames = (config.data.num_frames, config.data.frame_stride)
  windows = pipeline.eval_windows(source, values.num_clips, *frames)
  real = pipeline.eval_clips(source, values.num_clips, *frames)
  captions = [str(source.annotation(i).get("caption", "")) for i, _ in windows]

  reconstruct = Sampler(config, workdir, autoencoder, mesh)
  reconstructed = reconstruct(real, "reconstructing")
  # Sample i of every clip, before sample i + 1 of any: n s f h w 3.
  sampler = Sampler(config, workdir, generator, mesh)
  repeated = np.concatenate([real] * values.samples_per_clip)
  sampled = sampler(repeated, "sampling").reshape(values.samples_per_clip, *real.shape)
  sampled = sampled.swapaxes(0, 1)

  if jax.process_index() != 0:
    return
  folder = path.parent
  fps = source.fps / config.data.frame_stride
  with disk.explain_full_disk(workdir):
    for i in range(min(len(real), MAX_FILES)):
      _write_video(folder / f"real_{i}", real[i], fps)
      _write_video(folder / f"reconstructed_{i}", reconstructed[i], fps)
      for j, video in enumerate(sampled[i]):
        _write_video(folder / f"sample_{i}_{j}", video, fps)
      rows = [real[i], reconstructed[i], *sampled[i]]
      video_io.contact_sheet(rows, folder / f"clip_{i}.png")
    part = folder / ".clips.part.npz"
    np.savez_compressed(
      part,
      real=real,
      reconstructed=reconstructed,
      sampled=sampled,
      fps=fps,
      caption=np.array(captions),
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
) -> list[pathlib.Path]:
  """Generates videos that begin with a picture.

  Args:
    config: Of the trained work folder.
    workdir: That folder.
    image: Of any size; its short side is resized, then its centre cropped.
    name: Beginning of the names of the files.

  Returns:
    The mp4 files. A gif lies beside each, and a png with the frames of all.
  """
  mesh = sharding.make_mesh(config.mesh.to_dict())
  _, generator = _stage_names(config)
  frame = video_io.resize_crop(image[None], config.data.resolution)
  video = np.repeat(frame, config.data.num_frames, axis=0)
  count = config.evaluate.samples_per_clip
  sampler = Sampler(config, workdir, generator, mesh)
  videos = sampler(np.stack([video] * count), "animating")
  paths = []
  with disk.explain_full_disk(workdir):
    for i, generated in enumerate(videos):
      stem = workdir / ANIMATED / f"{name}_{i}"
      _write_video(stem, generated, sampler.meta["fps"])
      paths.append(stem.with_suffix(".mp4"))
    video_io.contact_sheet(videos, workdir / ANIMATED / f"{name}.png")
  return paths


class Sampler:
  """A trained stage as a function from clips to clips, any number at a time.

  Attributes:
    meta: Of the stage's checkpoint.
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
    params, self.meta = workdir_lib.load_params(config, workdir, name, stage, mesh)
    everywhere = sharding.replicated(mesh)
    self._arguments = jax.device_put((stage, params), everywhere)
    self._key = jax.random.key(config.seed)
    self._mesh = mesh
    # Whole batches only, so that there is one compilation.
    self._batch_size = -(-config.sample.batch_size // mesh.size) * mesh.size

    def sample(arguments: tuple[stage_lib.Stage, Any], batch, key):
      stage, params = arguments
      return pixels.to_uint8(stage.sample(params, batch, key))

    shardings = (everywhere, sharding.batch_sharding(mesh), everywhere)
    self._sample = jax.jit(sample, in_shardings=shardings, out_shardings=everywhere)

  def __call__(
    self, clips: UInt8[np.ndarray, "n f h w 3"], description: str
  ) -> UInt8[np.ndarray, "n f h w 3"]:
    """Reconstructs the clips, or animates their first frames."""
    size = self._batch_size
    outputs = []
    for start in tqdm.trange(0, len(clips), size, desc=description, disable=None):
      part = clips[start : start + size]
      filled = np.concatenate([part, part[:1].repeat(size - len(part), axis=0)])
      key = jax.random.fold_in(self._key, start)
      batch = {"video": jax.device_put(filled, sharding.batch_sharding(self._mesh))}
      output = self._sample(self._arguments, batch, key)
      outputs.append(np.asarray(output)[: len(part)])
    return np.concatenate(outputs)


def _stage_names(config: Config) -> tuple[str, str]:
  """Returns the stage that reconstructs and the one that generates."""
  autoencoders = [n for n in config.stages if n in stage_lib.AUTOENCODERS]
  return autoencoders[0], config.stages[-1]


def _made_from(config: Config, workdir: pathlib.Path) -> str:
  """Returns everything that samples depend on, as text."""
  steps = {
    name: checkpoint.read_meta(workdir / name / workdir_lib.CHECKPOINTS)[0]
    for name in config.stages
  }
  sample, evaluate = config.sample.to_dict(), config.evaluate.to_dict()
  return json.dumps({"steps": steps, "sample": sample, "evaluate": evaluate})


def _read_made_from(path: pathlib.Path) -> str:
  try:
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
      return str(file["made_from"])
  except Exception:  # Damaged or of another version: it is made again.
    return ""


def _write_video(stem: pathlib.Path, video: UInt8[np.ndarray, "f h w 3"], fps: float):
  video_io.write_mp4(stem.with_suffix(".mp4"), video, fps)
  video_io.write_gif(stem.with_suffix(".gif"), video, fps)
