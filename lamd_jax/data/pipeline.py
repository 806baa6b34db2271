"""From a source to batches: shuffles, draws windows and stacks them, ahead of time.

Batch n is a pure function of (seed, n): it does not depend on the number of devices,
processes or threads, nor on where a run was interrupted. A process reads only the rows
that it asks for. Pixels are uint8; the device converts them to float32 in [-1, 1].
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any

from absl import logging
import grain
from jaxtyping import UInt8
import numpy as np

from lamd_jax.data.sources import VideoSource
from lamd_jax.types import UserError

EVAL_SEED = 0  # Of the videos to evaluate on, where not all are taken.
# Bytes of batches that are kept ready: enough for reading to get far ahead while the
# first update compiles, so that a slow file goes unnoticed.
READ_AHEAD = 2**28
MIN_READ_AHEAD = 4  # Number of batches, however large.

# Maps the number of a video to arrays that belong to it.
Describe = Callable[[int], Mapping[str, np.ndarray]]


def batches(
  source: VideoSource,
  *,
  num_frames: int,
  frame_stride: int,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  rows: Sequence[int] | None = None,
  read: Callable[[int, int], Mapping[str, np.ndarray]] | None = None,
  describe: Describe | None = None,
  images: VideoSource | None = None,
  num_images: int = 0,
  describe_image: Describe | None = None,
  flip: bool = False,
  num_threads: int = 2,
  prefetch: int = MIN_READ_AHEAD,
) -> grain.DatasetIterator[dict[str, np.ndarray]]:
  """Yields endless batches of random windows for training.

  Every epoch visits every video once, each epoch in another order; batches continue
  across the end of an epoch, so a source may have fewer videos than a batch.

  Args:
    source: The videos.
    num_frames: Number of frames of a window.
    frame_stride: Distance in the video between neighbouring frames of a window.
    batch_size: Number of videos in a batch; global, over all devices.
    seed: Seed of the order and the windows.
    start_step: Number of the first batch; earlier ones cost nothing.
    rows: Positions in each batch of the examples to read, in this order; the others
      cost nothing. None for all.
    read: Maps the number of a video and the first frame of a window to the arrays that
      replace its frames, which are then neither read nor mirrored.
    describe: Maps the number of a video to further arrays, such as its label.
    images: Source of single images: frames of these videos, all equally likely, none
      twice for one video of a batch.
    num_images: Number of images for each video.
    describe_image: Like `describe`, for the video that an image comes from.
    flip: Whether to mirror half of the videos, and of the images, left to right.
    num_threads: Number of batches that are read at the same time.
    prefetch: Number of batches kept ready; see `read_ahead`.

  Returns:
    An iterator of {"video": uint8 [b f h w 3], "index": int32 [b]}, b being the rows,
    or with the arrays of `read` in place of the video; with the arrays of `describe`;
    and with {"images": uint8 [b n h w 3]} and those of `describe_image`, whose names
    get the prefix `image_`. Close it to stop reading ahead.
  """
  if not len(source):
    raise UserError("the data set has no video; training needs at least one")
  span = (num_frames - 1) * frame_stride + 1
  draw_images = None
  if num_images:
    draw_images = _image_drawer(images or source, num_images, describe_image, flip)

  def read_window(index: int, rng: np.random.Generator) -> dict[str, Any]:
    last = max(source.num_frames(index) - span, 0)
    start = int(rng.integers(last + 1))
    if read:
      example = {**read(index, start), "index": np.int32(index)}
    else:
      video = source.read(index, start, num_frames, frame_stride)
      if flip and rng.random() < 0.5:
        video = video[:, :, ::-1]
      example = {"video": video, "index": np.int32(index)}
    if describe:
      example |= describe(index)
    if draw_images:
      example |= draw_images(rng)
    return example

  examples = (
    grain.MapDataset.range(len(source))
    .seed(seed)
    .shuffle()
    # Each epoch gets its own seed. Without a count, grain repeats until the number of
    # batches no longer fits an index, and then fails for batches of one.
    .repeat(2**62 // len(source))
    .random_map(read_window)
  )
  rows = range(batch_size) if rows is None else rows

  def example_at(i: int) -> dict[str, Any]:
    # An example's random numbers are keyed by its position among all examples.
    batch, row = divmod(i, len(rows))
    example = examples[batch * batch_size + rows[row]]
    assert example is not None  # Grain drops None.
    return example

  dataset = (
    grain.MapDataset.range(len(examples) // batch_size * len(rows))
    .map(example_at)
    .batch(len(rows))
    .to_iter_dataset(grain.ReadOptions(num_threads, prefetch))
  )
  iterator = iter(dataset)
  if start_step:
    iterator.set_state({"next_index": start_step})
  return iterator


def read_ahead(batch: Mapping[str, Any], steps: int) -> int:
  """Returns the number of batches to keep ready: 256 MiB of them, at least four.

  Args:
    batch: Arrays or shapes of a batch, as a process holds it.
    steps: Number of batches that are needed at most.
  """
  size = sum(math.prod(x.shape) * x.dtype.itemsize for x in batch.values())
  return max(min(READ_AHEAD // size, steps), MIN_READ_AHEAD)


def _image_drawer(
  source: VideoSource, num_images: int, describe: Describe | None, flip: bool
) -> Callable[[np.random.Generator], dict[str, np.ndarray]]:
  """Returns a function that draws images and their descriptions."""
  lengths = np.array([source.num_frames(i) for i in range(len(source))], np.int64)
  ends = np.cumsum(lengths)
  if not len(ends) or ends[-1] < num_images:
    raise UserError(
      f"{num_images} images for each video were asked for; their source has"
      f" {ends[-1] if len(ends) else 0} frames: lower images.num"
    )

  def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
    frames = rng.choice(int(ends[-1]), num_images, replace=False)
    videos = np.searchsorted(ends, frames, side="right")
    places = frames - ends[videos] + lengths[videos]
    pixels = [
      source.read(int(i), int(place), 1, 1)[0]
      for i, place in zip(videos, places, strict=True)
    ]
    if flip:
      pixels = [x[:, ::-1] if rng.random() < 0.5 else x for x in pixels]
    found = {"images": np.stack(pixels)}
    if describe:
      said = [describe(int(i)) for i in videos]
      found |= {f"image_{k}": np.stack([x[k] for x in said]) for k in said[0]}
    return found

  return draw


def eval_windows(
  source: VideoSource, num_clips: int, num_frames: int, frame_stride: int
) -> list[tuple[int, int]]:
  """Returns the windows of `eval_clips`: (index of the video, first frame).

  The first window of every video comes first, then the second windows, which do not
  overlap the first, and so on until there are enough or nothing is left. Of more videos
  than clips, a random part is taken, always the same: videos are in the order of their
  names, so that the first ones may all be of one class.
  """
  span = (num_frames - 1) * frame_stride + 1
  windows: list[tuple[int, int]] = []
  videos = list(range(min(len(source), num_clips)))
  if len(source) > num_clips:
    rng = np.random.default_rng(EVAL_SEED)
    videos = sorted(rng.choice(len(source), num_clips, replace=False).tolist())
  start = 0
  while videos and len(windows) < num_clips:
    if start:  # A source guarantees the first window of each video.
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
  """Reads the clips to evaluate on, which are always the same.

  A source with as many videos gives the first window of each. One with fewer gives
  further windows, none twice, and in the end fewer clips than requested, with a
  warning: repeated clips would make a small set look like a large one.
  """
  windows = eval_windows(source, num_clips, num_frames, frame_stride)
  return read_windows(source, windows, num_frames, frame_stride)


def read_windows(
  source: VideoSource,
  windows: Sequence[tuple[int, int]],
  num_frames: int,
  frame_stride: int,
) -> UInt8[np.ndarray, "n f h w 3"]:
  """Reads the clips of `eval_windows`."""
  if not windows:
    raise UserError("the data set has no held-out video; evaluation needs one")
  clips = [source.read(i, start, num_frames, frame_stride) for i, start in windows]
  return np.stack(clips)
