"""Moving shapes with captions, drawn on demand: a data set without a download."""

from lamd_jax.data.shapes.scenes import (
  FPS,
  MOTIONS,
  SPLITS,
  Scene,
  Shape,
  caption_samples,
  make_scene,
)
from lamd_jax.data.shapes.source import ShapesSource

__all__ = [
  "FPS",
  "MOTIONS",
  "SPLITS",
  "Scene",
  "Shape",
  "ShapesSource",
  "caption_samples",
  "make_scene",
]
