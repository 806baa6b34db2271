"""Squares and samplings: exact where they can be, and as the papers' code does them."""

from absl.testing import absltest, parameterized
import numpy as np
from PIL import Image

from lamd_jax.data.preprocessing import Sampling, Square
from lamd_jax.types import UserError


def places(height, width):
  """A frame that says at each pixel where it is: row in green, column in red."""
  frame = np.zeros((1, height, width, 3), np.uint8)
  frame[..., 0], frame[..., 1] = np.arange(width), np.arange(height)[:, None]
  return frame


class SquareTest(parameterized.TestCase):
  def test_the_box_is_cut_where_it_is(self):
    square = Square(20, box=(3, 23, 11, 31))(places(30, 40))
    self.assertEqual(square.shape, (1, 20, 20, 3))
    np.testing.assert_array_equal(square, places(30, 40)[:, 3:23, 11:31])

  @parameterized.parameters(((31, 20), "crop"), ((20, 33), "pad"), ((9, 40), "stretch"))
  def test_a_box_outside_the_frame_is_refused_with_both_sizes(self, size, fit):
    with self.assertRaisesRegex(
      UserError, f"^frames of {size[1]}x{size[0]}; expected 34x32 or more, .* 30 to 33 "
      "and rows 2 to 31"
    ):  # fmt: skip
      Square(8, fit, box=(2, 32, 30, 34))(places(*size))

  @parameterized.parameters((40, 64, 20), (64, 40, 32))
  def test_stretched_frames_keep_all_that_is_at_their_edges(self, height, width, side):
    video = np.zeros((2, height, width, 3), np.uint8)
    video[:, : height // 2, : width // 2] = 200  # The quarter at the top left.
    square = Square(side, "stretch")(video)
    self.assertEqual(square.shape, (2, side, side, 3))
    half = side // 2
    # Two pixels from the edges nothing of the other quarters is left.
    self.assertTrue((square[:, : half - 2, : half - 2] == 200).all())
    self.assertTrue((square[:, half + 2 :] == 0).all())
    self.assertTrue((square[:, :, half + 2 :] == 0).all())

  @parameterized.parameters(
    # The box of NATOPS, by LFDM's code: 229 x 128 // 260 is 112.
    (229, 260, 128, (8, 120, 0, 128)),
    (260, 229, 128, (0, 128, 8, 120)),
    (10, 30, 15, (5, 10, 0, 15)),
    (1, 900, 8, (3, 4, 0, 8)),
  )
  def test_padded_frames_lie_whole_between_black_bars(self, height, width, side, inner):
    frame = np.full((1, height, width, 3), 180, np.uint8)
    expected = np.zeros((1, side, side, 3), np.uint8)
    expected[:, inner[0] : inner[1], inner[2] : inner[3]] = 180
    np.testing.assert_array_equal(Square(side, "pad")(frame), expected)

  def test_padding_alone_changes_no_pixel(self):
    square = Square(40, "pad")(places(29, 40))
    np.testing.assert_array_equal(square[:, 5:34], places(29, 40))
    self.assertEqual(square[:, :5].max() + square[:, 34:].max(), 0)

  def test_padded_frames_are_those_of_resizing(self):
    noise = np.random.default_rng(0).integers(0, 256, (1, 30, 60, 3), np.uint8)
    small = Image.fromarray(noise[0]).resize((20, 10), Image.Resampling.BICUBIC)
    square = Square(20, "pad")(noise)
    np.testing.assert_array_equal(square[0, 5:15], np.asarray(small))

  def test_squares_look_the_same_whatever_the_fit(self):
    noise = np.random.default_rng(0).integers(0, 256, (2, 36, 36, 3), np.uint8)
    crop = Square(12)(noise)
    for fit in ("pad", "stretch"):
      np.testing.assert_array_equal(Square(12, fit)(noise), crop)

  def test_a_fit_that_there_is_not_is_refused_with_what_there_is(self):
    with self.assertRaisesRegex(
      UserError, "data.fit is 'squash'; expected one of 'crop': .*'stretch': .*'pad': "
    ):
      Square(8, "squash")


class SamplingTest(parameterized.TestCase):
  @parameterized.parameters(
    (13, 7, (0, 2, 4, 6, 8, 10, 12)),
    (7, 7, (0, 1, 2, 3, 4, 5, 6)),
    (10, 4, (0, 3, 6, 9)),
    (8, 4, (0, 2, 4, 7)),  # 7 / 3 and 14 / 3, rounded down.
    (3, 6, (0, 1, 2, 2, 2, 2)),
    (1, 3, (0, 0, 0)),
    (5, 1, (0,)),
  )
  def test_frames_are_evenly_spaced_and_the_last_one_fills_up(
    self, length, count, expected
  ):
    sampling = Sampling("uniform", count, 1)
    self.assertEqual(sampling.picks(length), expected)
    self.assertEqual(sampling.min_frames, 1)

  def test_both_ends_are_taken_and_no_step_is_two_longer_than_another(self):
    for length in range(16, 200):
      picks = Sampling("uniform", 16, 1).picks(length)
      self.assertEqual((picks[0], picks[-1]), (0, length - 1))
      steps = np.diff(picks)
      self.assertLessEqual(steps.max() - steps.min(), 1)

  def test_windows_are_left_to_whoever_reads(self):
    sampling = Sampling("window", 5, 3)
    self.assertEqual(sampling.picks(40), ())
    self.assertEqual(sampling.min_frames, 13)

  def test_what_there_is_not_is_refused(self):
    with self.assertRaisesRegex(
      UserError, "data.sampling is 'even'; expected one of 'uniform': .*'window': "
    ):
      Sampling("even", 4, 1)
    with self.assertRaisesRegex(
      UserError, "data.frame_stride=2 means nothing to data.sampling='uniform', .*leave"
    ):
      Sampling("uniform", 4, 2)


if __name__ == "__main__":
  absltest.main()
