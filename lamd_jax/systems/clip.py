"""The clips that a stage sees: how long, how fast, how large."""

from typing import NamedTuple

from lamd_jax.schema import Block, Field, Frames, Side, check_clip
from lamd_jax.types import Config, UserError

# Keys of `config.data` that describe a clip; `config.<stage>.clip` may replace them.
BLOCK = Block(
  "the clips of a stage",
  {
    "num_frames": Field(Frames, None),
    "frame_stride": Field(Frames, None),
    "resolution": Field(Side, None),
  },
)


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
  """Returns the size of the clips that a stage is trained on.

  Raises:
    UserError: It is missing, or no memory holds a clip.
  """
  data = data_of(config, stage)
  for key in ("num_frames", "resolution"):
    if key not in data:
      raise UserError(f"data.{key} is missing; a model has clips of one size")
  clip = Clip(data.num_frames, data.get("frame_stride", 1), data.resolution)
  check_clip(clip.num_frames, clip.resolution)
  return clip
