"""Batches: what is in them, and that they depend on (seed, n) alone."""

import collections
import contextlib
import itertools
import threading
import time

from absl.testing import absltest, parameterized
import numpy as np

from lamd_jax.data import pipeline, sources
from lamd_jax.types import UserError


class CountingSource:
  """Pixels that tell their place: red is the video, green the frame."""

  fps = 10.0
  num_classes = None

  def __init__(self, lengths):
    self.lengths = lengths
    self.skipped = []

  def __len__(self):
    return len(self.lengths)

  def num_frames(self, index):
    return self.lengths[index]

  def read(self, index, start, num_frames, stride):
    numbers = start + stride * np.arange(num_frames)
    assert start >= 0
    assert numbers[-1] < self.lengths[index]
    video = np.zeros((num_frames, 4, 5, 3), np.uint8)
    video[..., 0] = index
    video[..., 1] = numbers[:, None, None]
    return video

  def annotation(self, index):
    del index
    return {}


def take(source, count, *, num_frames=3, frame_stride=2, batch_size=4, **values):
  iterator = pipeline.batches(
    source,
    num_frames=num_frames,
    frame_stride=frame_stride,
    batch_size=batch_size,
    **{"seed": 0, **values},
  )
  return list(itertools.islice(iterator, count))


def visits(batches):
  return np.concatenate([batch["index"] for batch in batches]).tolist()


class BatchesTest(parameterized.TestCase):
  def test_the_test_source_is_a_source(self):
    self.assertIsInstance(CountingSource([5]), sources.VideoSource)

  def test_a_batch_is_windows_of_the_videos_it_names(self):
    source = CountingSource([5, 6, 9, 40, 12, 7])
    for batch in take(source, 5):
      video, index = batch["video"], batch["index"]
      self.assertEqual(sorted(batch), ["index", "video"])
      self.assertEqual((video.shape, video.dtype), ((4, 3, 4, 5, 3), np.uint8))
      self.assertEqual((index.shape, index.dtype), ((4,), np.int32))
      np.testing.assert_array_equal(video[:, 0, 0, 0, 0], index)
      steps = np.diff(video[:, :, 0, 0, 1].astype(int), axis=1)
      np.testing.assert_array_equal(steps, np.full((4, 2), 2))

  def test_windows_begin_everywhere(self):
    batches = take(CountingSource([9]), 60, batch_size=1)
    starts = collections.Counter(int(b["video"][0, 0, 0, 0, 1]) for b in batches)
    self.assertEqual(sorted(starts), [0, 1, 2, 3, 4])
    self.assertGreater(min(starts.values()), 3)

  def test_every_epoch_visits_every_video_once_in_an_order_of_its_own(self):
    order = visits(take(CountingSource([6] * 12), 9))
    epochs = [order[i : i + 12] for i in range(0, 36, 12)]
    for epoch in epochs:
      self.assertEqual(sorted(epoch), list(range(12)))
    self.assertLen({tuple(epoch) for epoch in epochs}, 3)

  @parameterized.parameters(1, 3)
  def test_fewer_videos_than_a_batch_fill_it_all_the_same(self, num_videos):
    batches = take(CountingSource([30] * num_videos), 6, batch_size=8)
    counts = collections.Counter(visits(batches))
    self.assertEqual(sorted(counts), list(range(num_videos)))
    self.assertLessEqual(max(counts.values()) - min(counts.values()), 1)
    starts = {int(v[0, 0, 0, 1]) for batch in batches for v in batch["video"]}
    self.assertGreater(len(starts), 8)  # Not the same window each time.

  def test_a_batch_depends_on_the_seed_and_its_number_alone(self):
    source = CountingSource([20, 30, 12, 11, 9, 50, 31])
    first = take(source, 8, seed=5)
    for values in (dict(), dict(num_threads=1, prefetch=1), dict(num_threads=4)):
      for a, b in zip(first, take(source, 8, seed=5, **values), strict=True):
        np.testing.assert_equal(a, b)
    other = take(source, 8, seed=6)
    self.assertNotEqual(visits(first), visits(other))

  @parameterized.parameters(1, 5, 7, 60)
  def test_starting_at_a_step_is_going_on_there(self, start_step):
    source = CountingSource([20, 30, 12, 11, 9, 50, 31])
    whole = take(source, start_step + 3)[start_step:]
    for a, b in zip(whole, take(source, 3, start_step=start_step), strict=True):
      np.testing.assert_equal(a, b)

  @parameterized.parameters(
    ([[0, 1], [2, 3], [4, 5]],),
    ([[0, 1, 4, 5], [2, 3]],),  # Not one after the other.
    ([[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]],),  # Two hold the same.
  )
  def test_the_rows_of_processes_are_those_of_one(self, parts):
    source = CountingSource([20, 30, 12, 11])
    values = dict(batch_size=6, seed=5, num_images=2, start_step=3)
    whole = take(source, 4, **values)
    for rows in parts:
      local = take(source, 4, rows=rows, **values)
      for a, b in zip(whole, local, strict=True):
        np.testing.assert_equal({k: x[rows] for k, x in a.items()}, b)

  def test_what_is_kept_ready_is_bounded_in_bytes_and_steps(self):
    shape = lambda *sizes: {"video": np.empty(sizes, np.uint8), "index": np.empty(4)}
    small = shape(4, 16, 32, 32, 3)  # 196,608 bytes, and 32 of numbers.
    self.assertEqual(pipeline.read_ahead(small, 10_000), 2**28 // 196_640)
    self.assertEqual(pipeline.read_ahead(small, 300), 300)
    self.assertEqual(pipeline.read_ahead(small, 2), 4)
    self.assertEqual(pipeline.read_ahead(shape(4, 64, 1024, 1024, 3), 300), 4)

  def test_a_closed_one_reads_no_further(self):
    source, read = CountingSource([9] * 60), []
    go_on = threading.Event()

    def slow_read(index, *unused):
      read.append(index)
      go_on.wait(0.02)
      return np.zeros((3, 4, 5, 3), np.uint8)

    source.read = slow_read
    values = dict(num_frames=3, frame_stride=1, batch_size=1, seed=0)
    with contextlib.closing(
      pipeline.batches(source, prefetch=500, **values)
    ) as batches:
      next(batches)
    go_on.set()  # Those that are being read are soon done.
    count = len(read)
    time.sleep(0.1)
    self.assertLessEqual(len(read), count + 2)

  def test_rows_of_others_are_never_read(self):
    source = CountingSource([9] * 60)  # Ten batches are an epoch: each video once.
    order = visits(take(source, 10, batch_size=6))
    read, rows = set(), [1, 4, 5]
    source = CountingSource([9] * 60)  # The other is read ahead from still.
    source.read = lambda i, *args: read.add(i) or np.zeros((3, 4, 5, 3), np.uint8)
    take(source, 1, batch_size=6, rows=rows, num_threads=1, prefetch=1)
    # Some of the next batches are read too.
    self.assertLessEqual({order[row] for row in rows}, read)
    self.assertLessEqual(read, {order[i] for i in range(60) if i % 6 in rows})

  def test_images_are_frames_of_any_videos_none_twice(self):
    source = CountingSource([5, 8, 40])
    counts = collections.Counter()
    for batch in take(source, 40, num_images=4):
      self.assertEqual(batch["images"].shape, (4, 4, 4, 5, 3))
      for images in batch["images"]:
        places = {(int(x[0, 0, 0]), int(x[0, 0, 1])) for x in images}
        self.assertLen(places, 4)
        counts.update(places)
    self.assertEqual({video for video, _ in counts}, {0, 1, 2})
    for video, length in enumerate(source.lengths):
      self.assertLen([1 for v, _ in counts if v == video], length)
    # Frames are as likely as each other, so long videos give more.
    share = sum(n for (v, _), n in counts.items() if v == 2) / sum(counts.values())
    self.assertBetween(share, 0.68, 0.82)

  def test_what_is_said_of_a_video_goes_with_it_and_with_its_images(self):
    videos, images = CountingSource([9, 9, 9]), CountingSource([2, 2, 2, 2])
    batches = take(
      videos,
      5,
      describe=lambda i: {"label": np.int32(10 + i)},
      images=images,
      num_images=3,
      describe_image=lambda i: {"label": np.array([20 + i], np.int32)},
    )
    for batch in batches:
      np.testing.assert_array_equal(batch["label"], batch["video"][:, 0, 0, 0, 0] + 10)
      np.testing.assert_array_equal(
        batch["image_label"], batch["images"][:, :, 0, 0, :1] + 20
      )
    self.assertIn(3, np.concatenate([b["images"][..., 0].ravel() for b in batches]))

  def test_images_do_not_change_which_windows_are_trained(self):
    source = CountingSource([20, 30, 12])
    for a, b in zip(take(source, 4), take(source, 4, num_images=2), strict=True):
      np.testing.assert_array_equal(a["video"], b["video"])

  def test_fewer_frames_than_images_are_a_users_mistake(self):
    with self.assertRaisesRegex(UserError, "8 images .* source has 6 frames"):
      take(CountingSource([9]), 1, images=CountingSource([2, 4]), num_images=8)

  def test_half_of_videos_and_images_are_mirrored(self):
    class Arrows(CountingSource):
      def read(self, *args):
        video = super().read(*args)
        video[..., 2] = np.arange(video.shape[2])
        return video

    batches = take(Arrows([30] * 4), 30, flip=True, num_images=2)
    for name in ("video", "images"):
      rows = np.concatenate([b[name] for b in batches])[..., 0, :, 2]
      is_mirrored = rows[..., 0] == 4
      np.testing.assert_array_equal(
        rows[is_mirrored], np.arange(4, -1, -1)[None].repeat(is_mirrored.sum(), 0)
      )
      self.assertBetween(is_mirrored.mean(), 0.35, 0.65)
    videos = np.concatenate([b["video"] for b in batches])[..., 0, 0, 2]
    self.assertTrue(np.all(videos == videos[:, :1]))  # All frames of a video alike.

  def test_starting_late_costs_nothing(self):
    source = CountingSource([20] * 3)
    reads = []
    read = source.read
    source.read = lambda *args: reads.append(args) or read(*args)
    take(source, 1, start_step=10**7, num_threads=1, prefetch=1)
    self.assertLess(len(reads), 40)

  def test_a_users_mistake_comes_through_the_threads(self):
    source = CountingSource([20] * 3)

    def read(*args):
      raise UserError("all files are gone")

    source.read = read
    with self.assertRaisesRegex(UserError, "all files are gone"):
      take(source, 1)

  def test_no_videos_are_a_users_mistake(self):
    with self.assertRaisesRegex(UserError, "no video"):
      take(CountingSource([]), 1)

  def test_shapes_come_through(self):
    data = dict(name="shapes", num_frames=3, frame_stride=2, resolution=9, num_train=5)
    source = sources.make_source(data, "train")
    for batch in take(source, 3):
      for video, index in zip(batch["video"], batch["index"], strict=True):
        np.testing.assert_array_equal(video, source.read(int(index), 0, 3, 2))


class EvalClipsTest(absltest.TestCase):
  def places(self, source, num_clips):
    clips = pipeline.eval_clips(source, num_clips, 3, 2)
    self.assertEqual(clips.dtype, np.uint8)
    places = [(int(c[0, 0, 0, 0]), int(c[0, 0, 0, 1])) for c in clips]
    self.assertEqual(places, pipeline.eval_windows(source, num_clips, 3, 2))
    return places

  def test_clips_are_the_first_windows_of_all_videos(self):
    self.assertEqual(
      self.places(CountingSource([20, 5, 9]), 3), [(0, 0), (1, 0), (2, 0)]
    )

  def test_of_many_videos_a_part_of_every_class_is_taken(self):
    source = CountingSource([5] * 1000)  # Ten classes, one after the other.
    windows = pipeline.eval_windows(source, 200, 3, 2)
    self.assertEqual(windows, pipeline.eval_windows(source, 200, 3, 2))
    videos = [index for index, start in windows if start == 0]
    self.assertEqual(videos, sorted(set(videos)))
    self.assertLen(videos, 200)
    # Hypergeometric: 20 of each class, with a standard deviation of 3.8.
    for count in np.bincount(np.array(videos) // 100, minlength=10):
      self.assertBetween(count, 5, 35)

  def test_few_videos_give_further_windows_that_do_not_overlap(self):
    self.assertEqual(
      self.places(CountingSource([20, 5, 11]), 6),
      [(0, 0), (1, 0), (2, 0), (0, 5), (2, 5), (0, 10)],
    )

  def test_no_clip_is_given_twice(self):
    with self.assertLogs("absl", "WARNING") as logs:
      places = self.places(CountingSource([12, 5]), 16)
    self.assertEqual(places, [(0, 0), (1, 0), (0, 5)])
    self.assertIn("16 clips of 3 frames were asked for", logs.output[0])

  def test_no_videos_are_a_users_mistake(self):
    with (
      self.assertLogs("absl", "WARNING"),
      self.assertRaisesRegex(UserError, "no held-out video"),
    ):
      pipeline.eval_clips(CountingSource([]), 4, 3, 2)


if __name__ == "__main__":
  absltest.main()
