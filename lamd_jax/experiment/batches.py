"""Batches of an experiment: their shapes, for training, and held out."""

from collections.abc import Callable
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.data import pipeline, sources
from lamd_jax.experiment import conditions, latent_cache
from lamd_jax.experiment.run import Run
from lamd_jax.experiment.workdir import FEATURES
from lamd_jax.systems.stage import Stage
from lamd_jax.training import sharding


def abstract_batch(
  run: Run, stage: str, batch_size: int = 1
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a batch: videos, conditions, images for joint training."""
  frames, _, side = run.clip(stage)
  shapes = conditions.abstract(run.conditions, batch_size)
  video = (batch_size, frames, side, side, 3)
  found = {"video": jax.ShapeDtypeStruct(video, jnp.uint8)} | shapes
  if num := num_images(run):
    images = (batch_size, num, side, side, 3)
    found["images"] = jax.ShapeDtypeStruct(images, jnp.uint8)
    for name, x in shapes.items():
      shape = (batch_size, num, *x.shape[1:])
      found[f"image_{name}"] = jax.ShapeDtypeStruct(shape, x.dtype)
  return found


def num_images(run: Run) -> int:
  """Returns the number of images that go with each video in training."""
  return run.config.images.num if "images" in run.config else 0


def image_source(
  run: Run, stage: str, videos: sources.VideoSource, split: str
) -> sources.VideoSource:
  """Returns where images come from: the videos, unless `config.images.source` names it.

  Args:
    run: The experiment.
    stage: The stage that is trained.
    videos: The source of its videos.
    split: "train" or "eval".
  """
  config = run.config
  values = config.images.source.to_dict() if "images" in config else {}
  if not values:
    return videos
  size = {"num_frames": 1, "frame_stride": 1, "resolution": run.clip(stage).resolution}
  return sources.make_source(values | size, split)


def training_batches(
  run: Run, name: str, stage: Stage, source: sources.VideoSource, steps: int
) -> Callable[..., Any]:
  """Returns a function that opens the batches of a training, from any step on.

  Args:
    run: The experiment.
    name: Name of the stage.
    stage: The stage, around its frozen parts.
    source: The training videos.
    steps: Batches that are needed at most.

  Returns:
    `pipeline.batches` with everything bound but `start_step`, `num_threads` and
    `prefetch`.
  """
  config, clip = run.config, run.clip(name)
  batch_size = config[name].train.batch_size
  cache = run.folder / FEATURES
  describe = conditions.describer(run.conditions, source, cache=cache)
  images = image_source(run, name, source, "train")
  rows = sharding.local_rows(run.mesh, batch_size)
  shapes = abstract_batch(run, name, len(rows))
  return functools.partial(
    pipeline.batches,
    source,
    read=latent_cache.open_latents(
      run, name, stage, source, abstract_batch(run, name, batch_size)
    ),
    describe=describe,
    images=images,
    num_images=num_images(run),
    flip=config.augment.flip if "augment" in config else False,
    describe_image=(
      describe
      if images is source
      else conditions.describer(run.conditions, images, cache=cache)
    ),
    num_frames=clip.num_frames,
    frame_stride=clip.frame_stride,
    batch_size=batch_size,
    seed=config.seed,
    rows=rows,
    prefetch=pipeline.read_ahead(shapes, steps),
  )


def eval_batch(
  run: Run,
  stage: str,
  source: sources.VideoSource,
  num_clips: int,
  cache: pathlib.Path | None = None,
) -> tuple[dict[str, np.ndarray], list[int]]:
  """Returns held-out clips with their conditions, always the same ones.

  Returns:
    A batch of them, and the number of the video that each comes from.
  """
  frames = run.clip(stage)[:2]
  windows = pipeline.eval_windows(source, num_clips, *frames)
  numbers = [i for i, _ in windows]
  batch = {"video": pipeline.read_windows(source, windows, *frames)}
  describe = conditions.describer(run.conditions, source, numbers, cache)
  said = [describe(i) for i in numbers] if describe else [{}]
  return batch | {name: np.stack([x[name] for x in said]) for name in said[0]}, numbers
