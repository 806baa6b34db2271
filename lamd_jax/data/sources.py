"""The interface of all video sources, and the table of sources.

To add a source, write a class with the members of `VideoSource`, or a function that
returns one, and add it to `SOURCES`; its keyword arguments are the keys of
`config.data`.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Protocol, runtime_checkable

from jaxtyping import UInt8
import numpy as np

from lamd_jax.data import shapes
from lamd_jax.data.sets import (
  cater_gen,
  landscape,
  mug,
  natops,
  tfds,
  ucf101,
  video_csv,
  video_folder,
)
from lamd_jax.schema import (
  Block,
  Field,
  OneOf,
  block,
  check_block,
  check_clip,
  check_key,
)
from lamd_jax.types import Config


@runtime_checkable
class VideoSource(Protocol):
  """Videos with random access, safe to read from several threads.

  Attributes:
    fps: Frames per second of the stored videos, before any stride.
    skipped: A line "name: reason" for everything left out; it may grow while videos
      are read.
    num_classes: Number of classes; labels are whole numbers below it. None where
      videos have no labels.
  """

  fps: float
  skipped: list[str]
  num_classes: int | None

  def __len__(self) -> int:
    """Returns the number of videos."""
    ...

  def num_frames(self, index: int) -> int:
    """Returns the number of frames of video `index`."""
    ...

  def read(
    self, index: int, start: int, num_frames: int, stride: int
  ) -> UInt8[np.ndarray, "f h w 3"]:
    """Returns the frames start, start + stride, ... as squares of the resolution."""
    ...

  def annotation(self, index: int) -> dict[str, int | str]:
    """Returns what is known of video `index`: "label", "caption", and other keys.

    A label is present if `num_classes` is set, a caption if the source has captions.
    """
    ...


SOURCES: dict[str, Callable[..., VideoSource]] = {
  "cater_gen": cater_gen.open_cater_gen,
  "landscape": landscape.open_landscape,
  "mug": mug.open_mug,
  "natops": natops.open_natops,
  "shapes": shapes.ShapesSource,
  "tfds": tfds.TfdsSource,
  "ucf101": ucf101.open_ucf101,
  "video_csv": video_csv.open_video_csv,
  "video_folder": video_folder.open_video_folder,
}


SourceName = Annotated[str, OneOf(sorted(SOURCES))]


def data_block(
  data: Config, where: str = "data", without: tuple[str, ...] = ()
) -> Block:
  """Returns the keys that the source of a block knows.

  Args:
    data: The block, whose `name` is a key of SOURCES.
    where: Its path in the configuration, for messages.
    without: Keys of the source that the block does not set.

  Raises:
    UserError: The name is missing or not known.
  """
  name = check_key(data, "name", SourceName, where)
  return block(
    SOURCES[name],
    taker=f"{where}.name={name!r}",
    without=("split", *without),
    name=Field(SourceName),
  )


def make_source(data: Mapping[str, Any], split: str) -> VideoSource:
  """Opens the source that a configuration names.

  Args:
    data: `name`, a key of SOURCES, and the keyword arguments of that source.
    split: "train" or "eval".

  Returns:
    The source.

  Raises:
    UserError: A name is unknown, a value impossible, or there is no video.
  """
  if split not in ("train", "eval"):
    raise ValueError(f"unknown split: {split!r}")
  values = check_block(data, data_block(data), "data")
  check_clip(values.get("num_frames", 1), values.get("resolution", 1))
  name = values.pop("name")
  return SOURCES[name](split, **values)
