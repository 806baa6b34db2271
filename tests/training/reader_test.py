"""The reader of batches, on a source whose batch n is n, and on the real pipeline."""

import functools

from absl.testing import absltest, parameterized
import numpy as np

from lamd_jax.data import pipeline
from lamd_jax.training.reader import Reader


class Numbers:
  """Batches that hold their own number."""

  def __init__(self, start_step, num_threads, prefetch):
    self.next, self.is_closed, self.read = start_step, False, 0
    self.options = (num_threads, prefetch)

  def __iter__(self):
    return self

  def __next__(self):
    if self.is_closed:
      raise AssertionError("read after closing")
    self.read += 1
    self.next += 1
    return {"n": np.array(self.next - 1)}

  def close(self):
    self.is_closed = True


class Source:
  """Opens batches, and keeps what it has opened."""

  def __init__(self):
    self.opened = []

  def __call__(self, *, start_step, num_threads=7, prefetch=9):
    self.opened.append(Numbers(start_step, num_threads, prefetch))
    return self.opened[-1]

  def open(self):
    return [x for x in self.opened if not x.is_closed]


def take(reader, count):
  return [int(next(reader)["n"]) for _ in range(count)]


class ReaderTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.source = Source()

  def reader(self, *args):
    return self.enterContext(Reader(self.source, *args))

  @parameterized.parameters(((), 0), ((5,), 5), ((5, 2), 7))
  def test_batches_come_in_order_from_the_position_on(self, args, first):
    reader = self.reader(*args)
    begin = reader.step
    self.assertEqual(self.source.opened[0].read, 0)
    for i in range(4):
      self.assertEqual(reader.step, begin + i)
      self.assertEqual(take(reader, 1), [first + i])
    self.assertLen(self.source.opened, 1)
    self.assertEqual(self.source.opened[0].options, (7, 9))

  def test_a_reader_that_starts_later_goes_on_as_the_first_would(self):
    whole = take(self.reader(), 9)
    self.assertEqual(take(self.reader(4), 5), whole[4:])

  def test_seeking_back_gives_the_same_batches(self):
    reader = self.reader()
    first = take(reader, 6)
    reader.seek(2)
    self.assertEqual((reader.step, reader.passed_over), (2, 0))
    self.assertEqual(take(reader, 4), first[2:])

  def test_after_a_rollback_the_batch_after_the_bad_one_comes(self):
    reader = self.reader()
    take(reader, 9)  # Update 6 was bad, which is seen when update 9 is logged.
    reader.seek(4, after=6)
    self.assertEqual((reader.step, reader.passed_over), (4, 2))
    # Update 5 gets batch 6: batches 0 to 5 were for updates 1 to 6.
    self.assertEqual(take(reader, 3), [6, 7, 8])
    # Update 7 used batch 8; going back once more leaves out batches 6, 7 and 8.
    reader.seek(4, after=7)
    self.assertEqual((reader.step, reader.passed_over), (4, 5))
    self.assertEqual(take(reader, 2), [9, 10])

  def test_a_resumed_run_goes_on_with_what_an_uninterrupted_one_would_see(self):
    reader = self.reader()
    take(reader, 6)
    reader.seek(4, after=6)
    take(reader, 3)
    resumed = self.reader(reader.step, reader.passed_over)
    self.assertEqual(take(resumed, 3), take(reader, 3))

  def test_reading_a_batch_again_leaves_the_position_alone(self):
    reader = self.reader(3, 2)
    given = dict(zip(range(4, 9), take(reader, 5), strict=True))
    for step in (6, 4, 8, 6):
      self.assertEqual(reader.again(step)["n"], given[step])
      self.assertEqual((reader.step, reader.passed_over), (8, 2))
    self.assertEqual(take(reader, 1), [10])
    # Each was read alone, by one thread, and closed.
    self.assertEqual([x.options for x in self.source.opened[1:]], [(1, 1)] * 4)
    self.assertEqual([x.read for x in self.source.opened[1:]], [1] * 4)
    self.assertLen(self.source.open(), 1)

  @parameterized.parameters(3, 6)
  def test_only_batches_that_were_given_can_be_read_again(self, step):
    reader = self.reader(1)
    take(reader, 6)
    reader.seek(3, after=6)  # Of updates 2 and 3 it no longer knows the batches.
    take(reader, 2)
    with self.assertRaisesRegex(ValueError, f"step {step} .* expected 4 to 5"):
      reader.again(step)
    self.assertEqual(reader.again(4)["n"], 6)

  def test_what_it_has_left_is_closed(self):
    reader = self.reader()
    for step in (3, 1, 2):
      reader.seek(step)
      self.assertLen(self.source.open(), 1)
    reader.close()
    reader.close()
    self.assertEmpty(self.source.open())

  def test_a_closed_reader_reads_nothing(self):
    with Reader(self.source) as reader:
      take(reader, 2)
    self.assertEmpty(self.source.open())
    for read in (
      lambda: next(reader),
      lambda: reader.seek(0),
      lambda: reader.again(1),
    ):
      with self.assertRaisesRegex(ValueError, "closed"):
        read()
    self.assertLen(self.source.opened, 1)

  def test_an_error_on_the_way_closes_it(self):
    with self.assertRaises(KeyError), Reader(self.source):
      raise KeyError("k")
    self.assertEmpty(self.source.open())


class Frames:
  """Videos of one pixel that holds the number of the frame."""

  fps, skipped, num_classes = 1.0, (), None

  def annotation(self, index):
    return {}

  def __len__(self):
    return 11

  def num_frames(self, index):
    return 9 + index

  def read(self, index, start, num_frames, stride):
    numbers = start + stride * np.arange(num_frames, dtype=np.uint8)
    return np.tile(numbers[:, None, None, None], (1, 1, 1, 3))


class PipelineTest(absltest.TestCase):
  def test_the_real_pipeline_gives_the_same_numbers_at_the_same_positions(self):
    open_batches = functools.partial(
      *(pipeline.batches, Frames()), num_frames=2, frame_stride=1, batch_size=4, seed=3
    )
    straight = open_batches()
    expected = [next(straight) for _ in range(12)]
    straight.close()

    def assert_is(batch, n):
      for name, value in expected[n].items():
        np.testing.assert_array_equal(batch[name], value)

    with Reader(open_batches) as reader:
      for n in range(6):
        assert_is(next(reader), n)
      assert_is(reader.again(2), 1)
      assert_is(next(reader), 6)
      reader.seek(3, after=5)
      for n in (5, 6, 7):
        assert_is(next(reader), n)
      assert_is(reader.again(4), 5)
    with Reader(open_batches, 6, passed_over=2) as reader:
      assert_is(next(reader), 8)


if __name__ == "__main__":
  absltest.main()
