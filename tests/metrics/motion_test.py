"""Motion measures on patterns whose motion is known."""

import math

from absl.testing import absltest
import numpy as np

from lamd_jax.metrics import motion


def moving_bar(num_frames=6, height=4, width=12, step=1, brightness=120):
  """One bright column that moves `step` columns to the right in each frame."""
  video = np.zeros((num_frames, height, width, 3), np.uint8)
  for frame in range(num_frames):
    video[frame, :, frame * step] = brightness
  return video


class MotionTest(absltest.TestCase):
  def test_a_moving_bar_changes_two_columns_of_twelve(self):
    self.assertAlmostEqual(motion.motion_amplitude(moving_bar()), 120 * 2 / 12)

  def test_amplitude_agrees_with_differences_of_wide_integers(self):
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (2, 3, 5, 4, 7, 3), np.uint8)
    expected = np.mean(np.abs(np.diff(video.astype(np.int64), axis=2)))
    self.assertAlmostEqual(motion.motion_amplitude(video), expected, places=10)

  def test_the_ends_of_two_clips_are_not_neighbours(self):
    clips = np.stack([np.zeros((3, 4, 5, 1)), np.full((3, 4, 5, 1), 250)])
    self.assertEqual(motion.motion_amplitude(clips.astype(np.uint8)), 0.0)

  def test_statistics_of_noise(self):
    rng = np.random.default_rng(0)
    clips = np.clip(rng.normal(128, 20, (1, 9, 40, 50, 3)), 0, 255).astype(np.uint8)
    amplitude, roughness, _ = motion.motion_statistics(clips)[0]
    # |d| of two independent frames, |e - d| of three: 2 / sqrt(pi) times sigma, and
    # sqrt(3) times that; whole numbers move them a little.
    self.assertAlmostEqual(amplitude, 20 * 2 / math.sqrt(math.pi), delta=0.2)
    self.assertAlmostEqual(roughness / amplitude, math.sqrt(3), delta=0.01)

  def test_statistics_are_what_their_sentences_say(self):
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (2, 5, 3, 4, 3), np.uint8)
    x = clips.astype(int)
    d, e = x[:, 1:-1] - x[:, :-2], x[:, 2:] - x[:, 1:-1]
    mean = lambda y: y.mean(axis=(1, 2, 3, 4))
    undone = [
      [min(abs(a), abs(b)) * (a * b < 0)] for a, b in zip(d.flat, e.flat, strict=True)
    ]
    got = motion.motion_statistics(clips).T
    np.testing.assert_allclose(got[motion.AMPLITUDE], mean(abs(np.diff(x, axis=1))))
    np.testing.assert_allclose(got[motion.ROUGHNESS], mean(abs(e - d)))
    expected = mean(np.reshape(undone, d.shape))
    np.testing.assert_allclose(got[motion.FLICKER], expected)

  def test_a_steady_change_is_smooth_and_an_alternating_one_flickers(self):
    ramp = np.arange(0, 60, 10, np.uint8)[None, :, None, None, None]
    alternating = np.array([0, 30] * 3, np.uint8)[None, :, None, None, None]
    size = lambda x: np.broadcast_to(x, (1, 6, 4, 5, 3))
    np.testing.assert_allclose(motion.motion_statistics(size(ramp)), [[10, 0, 0]])
    got = motion.motion_statistics(size(alternating))
    np.testing.assert_allclose(got, [[30, 60, 30]])

  def test_compared_with_real_clips(self):
    rng = np.random.default_rng(0)
    real = rng.integers(0, 200, (4, 5, 6, 7, 3), np.uint8) // 10 * 10
    same = motion.compared(real, real)
    self.assertEqual(
      same,
      dict(motion_ratio=1.0, roughness_ratio=1.0, flicker_ratio=1.0, still_share=0.0),
    )
    half_of_them_faint = np.concatenate([real[:2], real[2:] // 20])
    found = motion.compared(half_of_them_faint, real)
    self.assertEqual(found["still_share"], 0.5)
    self.assertAlmostEqual(
      found["motion_ratio"], motion.motion_ratio(half_of_them_faint, real)
    )
    self.assertEmpty(motion.compared(real[:, :2], real))
    stills = np.repeat(real[:, :1], 5, axis=1)
    self.assertEmpty(motion.compared(real, stills))  # No ratio to what is not there.

  def test_half_as_bright_moves_half_as_much(self):
    real = moving_bar(brightness=200)
    self.assertAlmostEqual(motion.motion_ratio(real // 2, real), 0.5)
    self.assertAlmostEqual(motion.motion_ratio(real, real), 1.0)
    self.assertEqual(motion.motion_ratio(motion.still(real), real), 0.0)

  def test_the_ratio_is_of_means_over_clips(self):
    real = np.stack([moving_bar(brightness=200), moving_bar(brightness=100)])
    video = np.stack([moving_bar(brightness=200), moving_bar(brightness=50)])
    self.assertAlmostEqual(motion.motion_ratio(video, real), 250 / 300)

  def test_still_real_clips_have_no_ratio(self):
    real = np.full((3, 4, 5, 3), 7, np.uint8)
    self.assertTrue(math.isnan(motion.motion_ratio(real, real)))

  def test_pairwise_psnr_is_the_mean_over_pairs(self):
    # Samples constant at 0, 51 and 102: pairs differ by 51, 51 and 102.
    levels = np.array([0, 51, 102], np.uint8)[None, :, None, None, None, None]
    samples = np.broadcast_to(levels, (2, 3, 4, 5, 6, 1))
    expected = (2 * 20 * math.log10(5) + 20 * math.log10(2.5)) / 3
    self.assertAlmostEqual(motion.pairwise_psnr(samples), expected)

  def test_samples_of_different_clips_are_not_compared(self):
    rng = np.random.default_rng(1)
    clips = rng.integers(0, 256, (3, 1, 2, 4, 5, 3), np.uint8)
    copies = np.repeat(clips, 2, axis=1)  # Different clips, each sampled twice.
    self.assertEqual(motion.pairwise_psnr(copies), 100.0)

  def test_one_sample_has_no_pairs(self):
    self.assertTrue(
      math.isnan(motion.pairwise_psnr(np.zeros((2, 1, 3, 4, 5, 1), np.uint8)))
    )

  def test_still_repeats_the_first_frame_of_each_clip(self):
    clips = np.stack([moving_bar(), moving_bar(step=2)])
    repeated = motion.still(clips)
    self.assertEqual(repeated.shape, clips.shape)
    for clip in range(2):
      for frame in range(6):
        np.testing.assert_array_equal(repeated[clip, frame], clips[clip, 0])


if __name__ == "__main__":
  absltest.main()
