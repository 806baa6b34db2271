"""Job: gives the motion of clips to a picture, as it is, mixed, weaker or stronger."""

from collections.abc import Sequence
import functools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import UInt8
import numpy as np

from lamd_jax.data import media
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.systems import pixels
from lamd_jax.systems.lamd import mcd_vae as lamd_autoencoder
from lamd_jax.systems.lamd import motion as lamd_motion
from lamd_jax.training import sharding
from lamd_jax.types import Config, Params, UserError

FOLDER = "transferred"
STAGE = "mcd_vae"  # The only one that is needed.
GAP = 2  # Pixels between the clips of a grid.


def transfer(
  config: Config,
  workdir: pathlib.Path,
  clips: Sequence[pathlib.Path],
  image: UInt8[np.ndarray, "h w 3"],
  name: str,
  *,
  strengths: Sequence[float] = (1.0,),
  mix: int | None = None,
) -> list[pathlib.Path]:
  """Makes a video of a picture for each motion and each strength.

  Args:
    config: Of the trained work folder; its stage `mcd_vae` is enough.
    workdir: That folder.
    clips: Files whose first window of frames has the motion.
    image: The picture, of any size; its short side is resized, its centre cropped.
    name: Beginning of the names of the files.
    strengths: 0 is a still, 1 the motion as it is, more exaggerates it.
    mix: In place of the motions of two clips, so many from the first to the second.

  Returns:
    The mp4 files: for each motion those of all strengths, and a grid last. A gif lies
    beside each, and a png with the frames of all. The grid has a column for each
    motion: the picture, the clip that moves so, the video of each strength.

  Raises:
    UserError: There is no such stage, or a clip is too short.
  """
  if not clips or not strengths or not all(map(math.isfinite, strengths)):
    raise UserError(
      f"--mode=transfer: {len(clips)} motions at the strengths {list(strengths)};"
      " expected one or more, and finite numbers"
    )
  if mix is not None and (mix < 2 or len(clips) != 2):
    raise UserError(
      f"--mix={mix} with {len(clips)} motions: expected 2 or more videos, from the"
      " first of two motions to the second"
    )
  vae, params, meta = load(config, workdir)
  sources = [_read(config, path) for path in clips]
  picture = media.resize_crop(image[None], config.data.resolution)
  # Parameters lie where the rules say; what is made of them, on every device.
  everywhere = sharding.replicated(sharding.make_mesh(config.mesh.to_dict()))
  jit = functools.partial(jax.jit, static_argnums=0, out_shardings=everywhere)
  bound = lambda fn: functools.partial(jit(fn), vae, params)
  encode, decode = bound(lamd_motion.encode_motion), bound(lamd_motion.decode_motion)
  content = pixels.from_uint8(jnp.asarray(picture))
  # One at a time: they are few.
  motions = [encode(pixels.from_uint8(jnp.asarray(clip[None]))) for clip in sources]
  still = bound(lamd_motion.encode_still)(content)
  moving: list[UInt8[np.ndarray, "f h w 3"] | None] = [*sources]
  if mix is not None:
    first, second = motions
    weights = np.linspace(0.0, 1.0, mix).tolist()
    motions = [lamd_motion.interpolate(first, second, weight) for weight in weights]
    moving[1:1] = [None] * (mix - 2)
  columns = []
  for z in motions:
    edited = [lamd_motion.scale(z, still, strength) for strength in strengths]
    decoded = [decode(x, content)[0] for x in edited]
    columns.append([np.asarray(pixels.to_uint8(video)) for video in decoded])

  folder, fps = workdir / FOLDER, meta["fps"]
  videos = [video for column in columns for video in column]
  both = [[x, *column] for x, column in zip(moving, columns, strict=True)]
  rows = [x for column in both for x in column if x is not None]
  paths = workdir_lib.write_videos(folder, name, np.stack(videos), fps, rows)
  appearance = picture.repeat(config.data.num_frames, axis=0)
  grid = _grid([[appearance, *column] for column in both])
  return [*paths, workdir_lib.write_video(folder / f"{name}_grid", grid, fps)]


def load(
  config: Config, workdir: pathlib.Path
) -> tuple[lamd_autoencoder.MCDVAE, Params, dict[str, Any]]:
  """Returns what the functions of `lamd_motion` need, from a trained work folder.

  Args:
    config: Of the folder.
    workdir: Where the stage `mcd_vae` was trained.

  Returns:
    The network, its averaged parameters, and the meta of its checkpoint.

  Raises:
    UserError: The system has no such stage, or it is not trained yet.
  """
  if STAGE not in config.stages:
    raise UserError(
      f"--mode=transfer: {config.system} with the stages {', '.join(config.stages)}"
      f" does not take motion from content; lamd does, in its stage {STAGE}"
    )
  mesh = sharding.make_mesh(config.mesh.to_dict())
  stage = workdir_lib.load_stage(config, workdir, STAGE, mesh)
  best = workdir_lib.best_of(config, STAGE)
  params, meta = workdir_lib.load_params(config, workdir, STAGE, stage, mesh, best=best)
  return lamd_autoencoder.make_vae(config), params, meta


def _read(config: Config, path: pathlib.Path) -> UInt8[np.ndarray, "f h w 3"]:
  """The first window of a file, as the model was trained on."""
  length, stride = config.data.num_frames, config.data.frame_stride
  needed, there = (length - 1) * stride + 1, media.probe(path).num_frames
  if there < needed:
    raise UserError(
      f"--motion={path} has {there} frames; the model's clips need {needed}, {length}"
      f" of them at a stride of {stride}"
    )
  return media.read_window(path, 0, length, stride, config.data.resolution)


def _grid(
  columns: Sequence[Sequence[UInt8[np.ndarray, "f h w 3"] | None]],
) -> UInt8[np.ndarray, "f h2 w2 3"]:
  """One video of columns of clips; where there is none, it stays white."""
  blank = np.full_like(columns[0][0], 255)
  edges = ((0, 0), (0, GAP), (0, GAP), (0, 0))
  pad = lambda x: np.pad(blank if x is None else x, edges, constant_values=255)
  stacked = [np.concatenate([pad(x) for x in column], axis=1) for column in columns]
  return np.concatenate(stacked, axis=2)
