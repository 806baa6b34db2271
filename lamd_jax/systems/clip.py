"""The clips that a stage sees: how long, how fast, how large."""

from typing import NamedTuple

from lamd_jax.types import Config

# Keys of `config.data` that describe a clip; `config.<stage>.clip` may replace them.
KEYS = ("num_frames", "frame_stride", "resolution")


class Clip(NamedTuple):
  """The size of a clip.

  Attributes:
    num_frames: Frames of a clip.
    frame_stride: Frames of the stored video from one frame of the clip to the next.
    resolution: Height and width in pixels.
  """

  num_frames: int
  frame_stride: int
  resolution: int

  @property
  def span(self) -> int:
    """Frames of the stored video from the first to the last of a clip."""
    return (self.num_frames - 1) * self.frame_stride + 1


def data_of(config: Config, stage: str) -> Config:
  """Returns `config.data` as a stage sees it, with `config.<stage>.clip` over it."""
  data = config.data.copy_and_resolve_references()
  data.update(config[stage].get("clip", {}) if stage in config else {})
  return data


def clip_of(config: Config, stage: str) -> Clip:
  """Returns the size of the clips that a stage is trained on."""
  data = data_of(config, stage)
  return Clip(data.num_frames, data.get("frame_stride", 1), data.resolution)
