"""PSNR and SSIM against hand calculation, plain loops and scikit-image.

Its values were written by tests/benchmarks/skimage_reference.py; scikit-image 0.26.0.
"""

import math
import pathlib

from absl.testing import absltest, parameterized
import numpy as np
import seeded

from lamd_jax.metrics import image
from lamd_jax.types import UserError

REFERENCE = pathlib.Path(__file__).with_name("skimage_reference.npz")
SIZES = ((11, 11), (11, 40), (33, 24), (64, 64), (90, 121))
C1, C2 = 6.5025, 58.5225  # (0.01 * 255)^2 and (0.03 * 255)^2.


def slow_psnr(a, b):
  """PSNR of one frame, from its definition, in plain Python numbers."""
  pairs = list(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
  error = sum((x - y) ** 2 for x, y in pairs) / len(pairs)
  return 20 * math.log10(255) - 10 * math.log10(error)


def slow_ssim(a, b):
  """SSIM of one frame, window by window, from its definition."""
  taps = [
    [math.exp(-(i * i + j * j) / 4.5) for j in range(-5, 6)] for i in range(-5, 6)
  ]
  weights = np.array(taps) / np.sum(taps)
  values = []
  for y, x, c in np.ndindex(a.shape[0] - 10, a.shape[1] - 10, a.shape[2]):
    p, q = (v[y : y + 11, x : x + 11, c].astype(float) for v in (a, b))
    mean_p, mean_q = np.sum(weights * p), np.sum(weights * q)
    p, q = p - mean_p, q - mean_q
    above = (2 * mean_p * mean_q + C1) * (2 * np.sum(weights * p * q) + C2)
    spread = np.sum(weights * p * p) + np.sum(weights * q * q)
    values.append(above / (mean_p**2 + mean_q**2 + C1) / (spread + C2))
  return float(np.mean(values))


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

  def test_values_are_those_of_scikit_image(self):
    reference = np.load(REFERENCE)
    for height, width in SIZES:
      a, b = seeded.frame_pairs(4, 3, height, width)
      expected = reference[f"psnr {height} {width}"]
      np.testing.assert_allclose(image.frame_psnr(a, b), expected, rtol=1e-12)


class SsimTest(parameterized.TestCase):
  @parameterized.parameters(*SIZES)
  def test_values_are_those_of_scikit_image(self, height, width):
    a, b = seeded.frame_pairs(4, 3, height, width)
    expected = np.load(REFERENCE)[f"ssim {height} {width}"]
    np.testing.assert_allclose(image.frame_ssim(a, b), expected, rtol=1e-10)
    self.assertAlmostEqual(image.ssim(a, b), float(np.mean(expected)), places=10)

  def test_it_agrees_with_plain_loops_on_every_frame(self):
    a, b = (x.reshape(2, 1, 13, 12, 3) for x in seeded.frame_pairs(5, 2, 13, 12))
    expected = [[slow_ssim(a[n, 0], b[n, 0])] for n in range(2)]
    np.testing.assert_allclose(image.frame_ssim(a, b), expected, rtol=1e-10)

  def test_identical_frames_score_one_even_without_any_content(self):
    for a in (seeded.frame_pairs(6, 2, 14, 15)[0], np.zeros((2, 14, 15, 3), np.uint8)):
      np.testing.assert_allclose(image.frame_ssim(a, a), 1.0, rtol=1e-12)

  def test_of_even_frames_only_the_brightness_counts(self):
    a, b = np.full((12, 13, 2), 100, np.uint8), np.full((12, 13, 2), 120, np.uint8)
    expected = (2 * 100 * 120 + C1) / (100**2 + 120**2 + C1)
    self.assertAlmostEqual(float(image.frame_ssim(a, b)), expected, places=9)

  def test_a_negative_is_the_opposite(self):
    checks = (np.indices((16, 16)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None]
    self.assertAlmostEqual(image.ssim(checks, 255 - checks), -1.0, delta=0.01)

  def test_one_frame_is_compared_with_each_of_many(self):
    a, b = random_frames(4, 3, 1, 12, 13, 2), random_frames(5, 3, 4, 12, 13, 2)
    wide = np.repeat(a, 4, axis=1)
    np.testing.assert_array_equal(image.frame_ssim(a, b), image.frame_ssim(wide, b))

  @parameterized.parameters((10, 20), (20, 10))
  def test_frames_smaller_than_a_window_are_the_users_mistake(self, *size):
    a = np.zeros((2, *size, 3), np.uint8)
    message = rf"{size[0]}x{size[1]} pixels .* at least 11x11"
    with self.assertRaisesRegex(UserError, message):
      image.ssim(a, a)


if __name__ == "__main__":
  absltest.main()
