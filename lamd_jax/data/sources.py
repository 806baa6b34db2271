"""The interface of all video sources, and the table of sources.

To add a source, write a class with the members of `VideoSource`, or a function that
returns one, and add it to `SOURCES`; its keyword arguments are the keys of
`config.data`.
"""

from collections.abc import Callable, Mapping
import difflib
import inspect
from typing import Any, Protocol, runtime_checkable

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
from lamd_jax.types import UserError


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


# Whole numbers of all sources, from 1 to these. Videos are numbered in 32 bits.
LIMITS = {
  "num_frames": 2**20,
  "frame_stride": 2**20,
  "resolution": 2**14,
  "num_train": 2**31 - 1,
  "num_eval": 2**31 - 1,
}
MAX_CLIP_BYTES = 2**32  # One clip in memory, in uint8.


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
  values = dict(data)
  name = values.pop("name", None)
  if name not in SOURCES:
    raise UserError(f"data.name is {name!r}; known: {', '.join(sorted(SOURCES))}")
  parameters = dict(inspect.signature(SOURCES[name]).parameters)
  del parameters["split"]
  known = list(parameters)
  for key in values:
    if key not in known:
      close = difflib.get_close_matches(key, known, n=1)
      hint = f"did you mean data.{close[0]}?" if close else f"known: {', '.join(known)}"
      raise UserError(f"data.{key} means nothing to data.name={name!r}; {hint}")
  for key, parameter in parameters.items():
    if parameter.default is parameter.empty and key not in values:
      raise UserError(f"data.{key} is not set; data.name={name!r} needs it")
  for key, most in LIMITS.items():
    value = values.get(key, 1)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not 1 <= value <= most:
      raise UserError(f"data.{key} is {value!r}; expected a whole number, 1 to {most}")
  num_frames, resolution = values.get("num_frames", 1), values.get("resolution", 1)
  if (size := 3 * num_frames * resolution**2) > MAX_CLIP_BYTES:
    raise UserError(
      f"a clip of data.num_frames={num_frames} and data.resolution={resolution} takes "
      f"{size / 2**30:.0f} GiB; at most {MAX_CLIP_BYTES / 2**30:.0f} are possible"
    )
  return SOURCES[name](split, **values)
