"""Windows over long videos: what is asked of the model, and what is kept."""

from absl.testing import absltest, parameterized
import jax
import numpy as np

from lamd_jax.systems import windows
from lamd_jax.types import UserError

B, H, W = 2, 4, 6


def video(num_frames, size=(H, W)):
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (B, num_frames, *size, 3)).astype(np.float32)


class Asked:
  """A model that fills a window with its number, and notes what it was told."""

  def __init__(self):
    self.windows, self.keys = [], []

  def __call__(self, key, window):
    self.windows.append(window)
    self.keys.append(jax.random.key_data(key).tolist())
    return np.full(window.video.shape, float(len(self.windows)), np.float32)


def filled(whole, **kwargs):
  model = Asked()
  steps = list(windows.fill(model, jax.random.key(0), whole, **kwargs))
  return steps[-1][1], model


class StartsTest(parameterized.TestCase):
  @parameterized.parameters(
    (16, 16, 8, [0]),
    (64, 16, 8, [0, 8, 16, 24, 32, 40, 48]),  # The paper's 64 frames of 16 by 8.
    (64, 16, 4, [0, 12, 24, 36, 48]),
    (18, 8, 2, [0, 6, 10]),  # The last window ends with the video.
    (9, 5, 1, [0, 4]),
  )
  def test_windows_cover_the_video(self, num_frames, window, overlap, expected):
    self.assertEqual(windows.starts(num_frames, window, overlap), expected)

  def test_windows_that_cannot_be(self):
    with self.assertRaisesRegex(UserError, "8 frames that share 8: expected 0 to 7"):
      windows.starts(20, 8, 8)
    with self.assertRaisesRegex(UserError, "7 frames is shorter .* window of 8"):
      windows.starts(7, 8, 2)


class FillTest(absltest.TestCase):
  def test_a_video_goes_on_after_its_end(self):
    given = video(5)
    found, model = filled(windows.extended(given, 12), window=6, overlap=2)
    np.testing.assert_array_equal(found[:, :5], given)
    # By which window each frame was filled; 0 to 5, 4 to 9, 6 to 11.
    np.testing.assert_array_equal(found[0, 5:, 0, 0, 0], [1, 2, 2, 2, 2, 3, 3])
    known = [window.is_known.tolist() for window in model.windows]
    self.assertEqual(
      known, [[True] * 5 + [False], [True] * 2 + [False] * 4, [True] * 4 + [False] * 2]
    )
    # What a window has filled is what the next one is told.
    np.testing.assert_array_equal(model.windows[1].video[:, :2], found[:, 4:6])
    self.assertLen({str(key) for key in model.keys}, 3)

  def test_a_window_of_known_frames_is_not_sampled(self):
    found, model = filled(windows.extended(video(12), 14), window=6, overlap=2)
    self.assertLen(model.windows, 1)
    np.testing.assert_array_equal(found[0, 12:, 0, 0, 0], [1, 1])

  def test_frames_between_two(self):
    given = video(4)
    whole = windows.spread(given, 3)
    self.assertEqual(whole.is_known.tolist(), [True, False, False] * 3 + [True])
    window = windows.interpolating_window(8, 3)
    self.assertEqual(window, 7)
    found, model = filled(whole, window=window, overlap=1)
    np.testing.assert_array_equal(found[:, ::3], given)
    for asked in model.windows:  # Both ends are anchored.
      self.assertTrue(asked.is_known[0] and asked.is_known[-1])

  def test_a_low_resolution_of_every_frame_and_of_every_fourth(self):
    low = video(5, size=(3, 3))
    whole = windows.enlarged(low, 6)
    found, model = filled(whole, window=3, overlap=1)
    self.assertEqual(found.shape, (B, 5, 6, 6, 3))
    first, second = model.windows
    np.testing.assert_array_equal(first.low, low[:, :3])
    np.testing.assert_array_equal(second.low, low[:, 2:])
    self.assertEqual(first.is_known.tolist(), [False] * 3)
    self.assertEqual(second.is_known.tolist(), [True, False, False])
    # The cascade: windows of 9 with key frames at 0, 4 and 8.
    whole = windows.enlarged(low, 6, factor=4)
    window = windows.interpolating_window(9, 4)
    _, model = filled(whole, window=window, overlap=1)
    self.assertEqual([len(x.is_known) for x in model.windows], [9, 9])
    for x in model.windows:
      self.assertEqual(np.flatnonzero(x.has_low).tolist(), [0, 4, 8])
    np.testing.assert_array_equal(model.windows[1].low[:, ::4], low[:, 2:])

  def test_what_cannot_be_done(self):
    with self.assertRaisesRegex(UserError, "5 frames cannot be extended to 5"):
      windows.extended(video(5), 5)
    with self.assertRaisesRegex(UserError, "between each two of 1"):
      windows.spread(video(1), 2)
    with self.assertRaisesRegex(UserError, "4x6 cannot be upsampled to 8x8"):
      windows.enlarged(video(2), 8)
    with self.assertRaisesRegex(UserError, "3x3 cannot be upsampled to 8x8"):
      windows.enlarged(video(2, size=(3, 3)), 8)


if __name__ == "__main__":
  absltest.main()
