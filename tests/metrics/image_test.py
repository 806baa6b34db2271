"""PSNR against hand-computed values and an implementation in plain loops."""

import math

from absl.testing import absltest, parameterized
import numpy as np

from lamd_jax.metrics import image


def slow_psnr(a, b):
  """PSNR of one frame, from its definition, in plain Python numbers."""
  pairs = list(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
  error = sum((x - y) ** 2 for x, y in pairs) / len(pairs)
  return 20 * math.log10(255) - 10 * math.log10(error)


def random_frames(seed, *shape):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


class PsnrTest(parameterized.TestCase):
  @parameterized.parameters(
    (1, 48.1308036), (16, 24.0484036), (51, 13.9794001), (255, 0.0)
  )
  def test_constant_offset_gives_the_value_computed_by_hand(self, offset, expected):
    a = np.zeros((3, 4, 5, 2), np.uint8)
    # 20 log10(255 / offset): 255 / 51 is 5, and 20 log10(5) = 13.979.
    self.assertAlmostEqual(image.psnr(a, a + np.uint8(offset)), expected, places=6)

  def test_uniform_noise_has_the_variance_of_its_distribution(self):
    noise = np.random.default_rng(0).integers(-10, 11, (20, 64, 64, 3))
    a = np.full(noise.shape, 128, np.uint8)
    # Whole numbers uniform in [-10, 10] have the mean square (21^2 - 1) / 12.
    expected = 10 * math.log10(255**2 / ((21**2 - 1) / 12))
    self.assertAlmostEqual(
      image.psnr(a, (a + noise).astype(np.uint8)), expected, delta=0.02
    )

  def test_differences_do_not_wrap_around_a_byte(self):
    a, b = np.zeros((1, 2, 3, 1), np.uint8), np.full((1, 2, 3, 1), 200, np.uint8)
    self.assertAlmostEqual(image.psnr(a, b), 20 * math.log10(255 / 200))
    self.assertEqual(image.psnr(a, b), image.psnr(b, a))

  def test_it_agrees_with_plain_loops_on_every_frame(self):
    a, b = random_frames(1, 2, 5, 4, 3, 1), random_frames(2, 2, 5, 4, 3, 1)
    expected = [[slow_psnr(a[n, f], b[n, f]) for f in range(5)] for n in range(2)]
    np.testing.assert_allclose(image.frame_psnr(a, b), expected, rtol=1e-12)
    self.assertAlmostEqual(image.psnr(a, b), float(np.mean(expected)))

  def test_identical_frames_score_the_cap_and_only_they_reach_it(self):
    a = random_frames(3, 2, 32, 32, 3)
    self.assertEqual(image.psnr(a, a), image.MAX_PSNR)
    b = a.copy()
    b[0, 0, 0, 0] ^= 1  # One level in one value of the first frame.
    first, second = image.frame_psnr(a, b)
    self.assertAlmostEqual(first, 48.1308036 + 10 * math.log10(32 * 32 * 3), places=6)
    self.assertEqual(second, image.MAX_PSNR)

  def test_the_mean_is_over_frames_not_over_their_errors(self):
    a = np.zeros((2, 4, 4, 3), np.uint8)
    b = np.stack([a[0] + np.uint8(1), a[1] + np.uint8(51)])
    self.assertAlmostEqual(image.psnr(a, b), (48.1308036 + 13.9794001) / 2, places=6)

  def test_one_frame_is_compared_with_each_of_many(self):
    a, b = random_frames(4, 3, 1, 6, 5, 2), random_frames(5, 3, 4, 6, 5, 2)
    wide = np.repeat(a, 4, axis=1)
    np.testing.assert_array_equal(image.frame_psnr(a, b), image.frame_psnr(wide, b))


if __name__ == "__main__":
  absltest.main()
