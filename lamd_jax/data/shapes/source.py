"""Moving shapes as a `VideoSource`."""

import threading
from typing import Annotated

from jaxtyping import UInt8
import numpy as np

from lamd_jax.data.shapes.scenes import FPS, MOTIONS, Scene, make_scene
from lamd_jax.schema import Bytes, Frames, Range, Seed, Side


class ShapesSource:
  """A fixed number of clips of moving shapes, drawn on first use.

  Attributes:
    fps: Frames per second at which a clip is shown.
    skipped: Always empty, as there are no files.
    num_classes: Number of motions.
  """

  def __init__(
    self,
    split: str,
    *,
    num_frames: Frames,
    frame_stride: Frames = 1,
    resolution: Side = 32,
    num_train: Annotated[int, Range(1, 2**20)] = 4096,
    num_eval: Annotated[int, Range(1, 2**20)] = 256,
    seed: Seed = 0,
    cache_bytes: Bytes = 2**29,
  ):
    """Prepares the source; clips are drawn on first use.

    Args:
      split: "train" or "eval".
      num_frames: Frames of a window.
      frame_stride: Distance in the clip between neighbouring frames of a window; a
        clip is as long as one window.
      resolution: Height and width in pixels.
      num_train: Number of clips in the training split.
      num_eval: Number of clips in the held-out split.
      seed: Seed of the scenes, not of the order in which training visits them.
      cache_bytes: Memory for drawn clips, which makes later epochs free; clips that
        do not fit are drawn again.
    """
    self.fps = FPS
    self.skipped: list[str] = []
    self.num_classes: int | None = len(MOTIONS)
    self._split, self._seed, self._resolution = split, seed, resolution
    self._length = (num_frames - 1) * frame_stride + 1
    self._count = {"train": num_train, "eval": num_eval}[split]
    self._cache: dict[int, UInt8[np.ndarray, "f h w 3"]] = {}
    self._room = cache_bytes
    self._lock = threading.Lock()

  def __len__(self) -> int:
    """Returns the number of clips."""
    return self._count

  def num_frames(self, index: int) -> int:
    """Returns the number of frames of clip `index`."""
    del index
    return self._length

  def scene(self, index: int) -> Scene:
    """Returns the scene of clip `index`."""
    return make_scene(self._seed, self._split, index)

  def read(
    self, index: int, start: int, num_frames: int, stride: int
  ) -> UInt8[np.ndarray, "f h w 3"]:
    """Returns the frames start, start + stride, ... of clip `index`."""
    clip = self._cache.get(index)
    if clip is None:
      clip = self.scene(index).render(self._length, self._resolution)
      with self._lock:
        if self._room >= clip.nbytes and index not in self._cache:
          self._cache[index] = clip
          self._room -= clip.nbytes
    window = clip[start : start + (num_frames - 1) * stride + 1 : stride]
    if len(window) != num_frames or start < 0:
      raise ValueError(
        f"frames {start} to {start + (num_frames - 1) * stride} of a clip of "
        f"{self._length}"
      )
    return window

  def annotation(self, index: int) -> dict[str, int | str]:
    """Returns motion class, which is also the label, and caption of clip `index`."""
    scene = self.scene(index)
    motion = scene.motion_class
    return {"label": motion, "motion_class": motion, "caption": scene.caption}
