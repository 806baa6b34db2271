"""From a source to batches: shuffle, choose a window, stack, ahead of time.

Batch n is a pure function of (seed, n): it does not depend on the number of
devices, processes or threads, nor on where a run was interrupted. Its pixels are
uint8; the conversion to float32 in [-1, 1] happens on the device.
"""

from collections.abc import Iterator
from typing import Any

from absl import logging
import grain
from jaxtyping import UInt8
import numpy as np

from lamd_jax.data.sources import VideoSource
from lamd_jax.types import UserError


def batches(
  source: VideoSource,
  *,
  num_frames: int,
  frame_stride: int,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  num_threads: int = 2,
  prefetch: int = 4,
) -> Iterator[dict[str, np.ndarray]]:
  """Endless batches of random windows for training.

  Every epoch visits every video once, in an order of its own; batches run on
  across the end of an epoch, so a source may have fewer videos than a batch.

  Args:
    source: Videos.
    num_frames: Frames of a window.
    frame_stride: Frames of the video from one frame of a window to the next.
    batch_size: Videos in a batch; global, over all devices.
    seed: Chooses order and windows.
    start_step: Number of the first batch; the earlier ones cost nothing.
    num_threads: Batches that are read at the same time.
    prefetch: Batches kept ready.

  Returns:
    An iterator of {"video": uint8 [b f h w 3], "index": int32 [b]}.
  """
  if not len(source):
    raise UserError("the data set has no video; training needs at least one")
  span = (num_frames - 1) * frame_stride + 1

  def read_window(index: int, rng: np.random.Generator) -> dict[str, Any]:
    last = max(source.num_frames(index) - span, 0)
    start = int(rng.integers(last + 1))
    video = source.read(index, start, num_frames, frame_stride)
    return {"video": video, "index": np.int32(index)}

  dataset = (
    grain.MapDataset.range(len(source))
    .seed(seed)
    .shuffle()
    # Each epoch gets a seed of its own. Left to itself, grain repeats until the
    # number of batches no longer fits an index, and then fails for batches of one.
    .repeat(2**62 // len(source))
    .random_map(read_window)
    .batch(batch_size)
    .to_iter_dataset(grain.ReadOptions(num_threads, prefetch))
  )
  iterator = iter(dataset)
  if start_step:
    iterator.set_state({"next_index": start_step})
  return iterator


def eval_windows(
  source: VideoSource, num_clips: int, num_frames: int, frame_stride: int
) -> list[tuple[int, int]]:
  """Where the clips of `eval_clips` are: (index of the video, first frame).

  First the first window of every video, then the second windows, which do not
  overlap the first, and so on, until there are enough or nothing is left.
  """
  span = (num_frames - 1) * frame_stride + 1
  windows: list[tuple[int, int]] = []
  videos = range(min(len(source), num_clips))
  start = 0
  while videos and len(windows) < num_clips:
    if start:  # Of the first windows a source knows that they are there.
      videos = [i for i in videos if source.num_frames(i) >= start + span]
    windows += [(index, start) for index in videos][: num_clips - len(windows)]
    start += span
  if len(windows) < num_clips:
    logging.warning(
      "%d clips of %d frames were asked for, the held-out videos hold %d: using those",
      num_clips,
      num_frames,
      len(windows),
    )
  return windows


def eval_clips(
  source: VideoSource, num_clips: int, num_frames: int, frame_stride: int
) -> UInt8[np.ndarray, "n f h w 3"]:
  """The clips to evaluate on, always the same ones.

  Clip i is the first window of video i. A source with fewer videos gives further
  windows, none twice, and at last fewer clips than asked for, with a warning:
  repeated clips would make a small set look like a large one.
  """
  windows = eval_windows(source, num_clips, num_frames, frame_stride)
  if not windows:
    raise UserError("the data set has no held-out video; evaluation needs one")
  clips = [source.read(i, start, num_frames, frame_stride) for i, start in windows]
  return np.stack(clips)
