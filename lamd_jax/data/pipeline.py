"""From a source to batches: shuffle, choose a window, stack, ahead of time.

Batch n is a pure function of (seed, n): it does not depend on the number of
devices, processes or threads, nor on where a run was interrupted. A process reads
only those of its rows that are asked for. Pixels are uint8; the conversion to float32
in [-1, 1] happens on the device.
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

# Bytes of batches that are kept ready. So much that reading gets far ahead while the
# first update compiles, and a slow file is not noticed.
READ_AHEAD = 2**28
MIN_READ_AHEAD = 4  # Batches, however large.

# From the number of a video to arrays that belong to it.
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
    rows: Which examples of each batch are read, by their places in it, in this order;
      the others cost nothing. None for all.
    read: What a batch has of a window, by the number of its video and its first frame,
      in place of its frames; these are then not read, nor mirrored.
    describe: Further arrays of a video, by its number, such as its label.
    images: Where single images come from: frames of these videos, each as likely as
      any, none twice for one video of a batch.
    num_images: For each video.
    describe_image: As `describe`, of the video that an image is from.
    flip: Whether half of the videos, and of the images, are mirrored left to right.
    num_threads: Batches that are read at the same time.
    prefetch: Batches kept ready; see `read_ahead`.

  Returns:
    An iterator of {"video": uint8 [b f h w 3], "index": int32 [b]}, b being the rows,
    or with what `read` gives in place of the video; with what `describe` gives, and
    with {"images": uint8 [b n h w 3]} and what `describe_image` gives, after `image_`.
    Close it: batches that are still to be read are then left alone.
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
    # Each epoch gets a seed of its own. Left to itself, grain repeats until the
    # number of batches no longer fits an index, and then fails for batches of one.
    .repeat(2**62 // len(source))
    .random_map(read_window)
  )
  rows = range(batch_size) if rows is None else rows

  def example_at(i: int) -> dict[str, Any]:
    # Asked for by its place among all examples: that is what its random numbers are by.
    batch, row = divmod(i, len(rows))
    example = examples[batch * batch_size + rows[row]]
    assert example is not None  # None is left out.
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
  """Returns how many batches to keep ready: 256 MiB of them, and four at least.

  Args:
    batch: Arrays or shapes of one, as a process has it.
    steps: So many are needed at most.
  """
  size = sum(math.prod(x.shape) * x.dtype.itemsize for x in batch.values())
  return max(min(READ_AHEAD // size, steps), MIN_READ_AHEAD)


def _image_drawer(
  source: VideoSource, num_images: int, describe: Describe | None, flip: bool
) -> Callable[[np.random.Generator], dict[str, np.ndarray]]:
  """From random numbers to images and what is said of them."""
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
  return read_windows(source, windows, num_frames, frame_stride)


def read_windows(
  source: VideoSource,
  windows: Sequence[tuple[int, int]],
  num_frames: int,
  frame_stride: int,
) -> UInt8[np.ndarray, "n f h w 3"]:
  """The clips of `eval_windows`."""
  if not windows:
    raise UserError("the data set has no held-out video; evaluation needs one")
  clips = [source.read(i, start, num_frames, frame_stride) for i, start in windows]
  return np.stack(clips)
