"""Distances of features against SciPy, closed forms and identities."""

import itertools
import warnings

from absl.testing import absltest, parameterized
import numpy as np
import scipy.linalg

from lamd_jax.metrics import frechet
from lamd_jax.types import UserError


def by_scipy(a, b, ddof):
  """The formula of FID as it is usually computed: with a matrix square root."""
  a, b = a.astype(np.float64), b.astype(np.float64)
  covariances = [np.cov(x, rowvar=False, ddof=ddof) for x in (a, b)]
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Of singular matrices.
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
  mean = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
  return mean + np.trace(covariances[0] + covariances[1] - 2 * np.real(root))


def draw(n, d, seed=0, shift=0.0):
  """Features with correlations, and scales from 0.1 to 10."""
  rng = np.random.default_rng(seed)
  mix = np.random.default_rng(9).normal(size=(d, d)) / np.sqrt(d)
  return shift + (rng.normal(size=(n, d)) * np.geomspace(0.1, 10, d)) @ mix


class FrechetTest(parameterized.TestCase):
  @parameterized.product(ddof=(0, 1), counts=((300, 300), (300, 90), (40, 25)))
  def test_it_is_the_formula_with_a_matrix_square_root(self, ddof, counts):
    # The last case has fewer features than dimensions.
    a, b = draw(counts[0], 50), draw(counts[1], 50, seed=1, shift=0.7)
    got = frechet.frechet_distance(a, b, ddof)
    np.testing.assert_allclose(got, by_scipy(a, b, ddof), rtol=1e-3)

  def test_of_one_dimension_it_is_that_of_two_gaussians(self):
    # (mean_a - mean_b)^2 + (std_a - std_b)^2.
    a, b = draw(80, 1), 3 * draw(70, 1, seed=1) + 5
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    np.testing.assert_allclose(frechet.frechet_distance(a, b), expected)

  @parameterized.parameters(30, 500)
  def test_a_set_is_at_distance_zero_of_itself(self, n):
    a = 100 * draw(n, 60)
    self.assertLess(frechet.frechet_distance(a, a), 1e-6)

  def test_it_is_symmetric_and_sees_no_order(self):
    a, b = draw(80, 30), draw(60, 30, seed=1)
    got = frechet.frechet_distance(a, b)
    np.testing.assert_allclose(got, frechet.frechet_distance(b[::-1], a))

  def test_single_precision_features_are_enough(self):
    a, b = draw(80, 30), draw(60, 30, seed=1)
    got = frechet.frechet_distance(a.astype(np.float32), b.astype(np.float32))
    np.testing.assert_allclose(got, frechet.frechet_distance(a, b), rtol=1e-4)

  def test_it_falls_with_the_count_and_the_kernel_distance_does_not(self):
    pairs = lambda n: [
      (draw(n, 40, seed=i), draw(n, 40, seed=-i - 1 + 999)) for i in range(6)
    ]
    few, many = (
      np.mean([frechet.frechet_distance(a, b) for a, b in pairs(n)]) for n in (30, 300)
    )
    self.assertGreater(few, 5 * many)


class KernelDistanceTest(absltest.TestCase):
  def test_it_is_the_sum_over_pairs(self):
    a, b = draw(7, 5), draw(9, 5, seed=1)
    kernel = lambda x, y: (np.dot(x, y) / 5 + 1) ** 3
    pairs = lambda x: itertools.permutations(x, 2)
    within = [np.mean([kernel(*pair) for pair in pairs(x)]) for x in (a, b)]
    between = np.mean([kernel(x, y) for x in a for y in b])
    expected = sum(within) - 2 * between
    np.testing.assert_allclose(frechet.kernel_distance(a, b), expected, rtol=1e-10)

  def test_blocks_of_rows_change_nothing(self):
    a, b = draw(1500, 4), draw(1030, 4, seed=1)
    whole = lambda x, y: ((x @ y.T / 4 + 1) ** 3).sum()
    off = lambda x: whole(x, x) - ((np.square(x).sum(axis=1) / 4 + 1) ** 3).sum()
    expected = off(a) / (1500 * 1499) + off(b) / (1030 * 1029)
    expected -= 2 * whole(a, b) / (1500 * 1030)
    np.testing.assert_allclose(frechet.kernel_distance(a, b), expected, rtol=1e-8)

  def test_its_mean_is_zero_for_two_halves_of_one_distribution(self):
    values = []
    for i in range(300):
      x = np.random.default_rng(i).normal(size=(60, 8))
      values.append(frechet.kernel_distance(x[:30], x[30:]))
    error = np.std(values) / np.sqrt(len(values))
    self.assertLess(abs(np.mean(values)), 2 * error)
    self.assertLess(min(values), 0.0)  # Unbiased, so it must be negative at times.

  def test_it_grows_with_the_shift(self):
    a = draw(100, 8)
    shifted = [frechet.kernel_distance(a, draw(100, 8, 1, s)) for s in (0, 1, 2)]
    self.assertLess(shifted[0], shifted[1])
    self.assertLess(shifted[1], shifted[2])


class IntervalTest(parameterized.TestCase):
  @parameterized.parameters(frechet.frechet_distance, frechet.kernel_distance)
  def test_it_holds_the_distance_and_is_as_wide_as_new_sets_vary(self, distance):
    def draws(i):
      rng = np.random.default_rng(i)
      return rng.normal(size=(100, 3)), rng.normal(0.7, 1.0, (100, 3))

    interval = lambda i: frechet.subsampling_interval(
      distance, *draws(i), num_draws=200, seed=i
    )
    low, high = interval(0)
    value = distance(*draws(0))
    self.assertBetween(value, low, high)
    values = [distance(*draws(i)) for i in range(100)]
    self.assertBetween((high - low) / (4 * np.std(values)), 0.6, 1.6)
    self.assertEqual(interval(0), (low, high))

  def test_fewer_clips_in_the_draws_do_not_shift_it(self):
    # Of few clips in many dimensions each draw scores far more than the sets do.
    rng = np.random.default_rng(0)
    sets = rng.normal(size=(20, 15)), rng.normal(size=(20, 15))
    distance = frechet.frechet_distance
    low, high = frechet.subsampling_interval(distance, *sets, num_draws=100, seed=0)
    self.assertBetween(distance(*sets), low, high)

  def test_with_more_features_than_clips_it_is_as_wide_as_new_sets_vary(self):
    # A bootstrap's is 1.5 times as wide.
    def sets(i):
      rng = np.random.default_rng(i)
      return rng.normal(size=(64, 200)), rng.normal(0.5, 1.0, (64, 200))

    distance = frechet.frechet_distance
    values = np.array([distance(*sets(i)) for i in range(100)])
    intervals = np.array(
      [
        frechet.subsampling_interval(distance, *sets(i), num_draws=60, seed=i)
        for i in range(5)
      ]
    )
    width = (intervals[:, 1] - intervals[:, 0]).mean() / (2 * 1.96)
    self.assertBetween(width / values.std(), 0.9, 1.3)

  def test_it_holds_the_mean_of_new_sets_in_19_of_20_cases(self):
    sets = lambda i: [
      np.random.default_rng((i, j)).normal(0.5 * j, 1.0, (40, 10)) for j in range(2)
    ]
    distance = frechet.frechet_distance
    truth = np.mean([distance(*sets(i)) for i in range(1000, 1200)])
    found = [
      frechet.subsampling_interval(distance, *sets(i), num_draws=100, seed=i)
      for i in range(60)
    ]
    self.assertBetween(sum(low < truth < high for low, high in found), 54, 60)

  def test_an_odd_number_of_clips_makes_it_no_wider(self):
    # Of the mean of n numbers: 2 x 1.96 times the deviation over the root of n.
    def ratio(i):
      x = np.random.default_rng(i).normal(size=7)
      interval = frechet.subsampling_interval(
        lambda x: float(x.mean()), x, num_draws=1000, seed=0
      )
      return np.ptp(interval) / (2 * 1.96 * x.std(ddof=1) / np.sqrt(7))

    self.assertBetween(np.mean([ratio(i) for i in range(8)]), 0.88, 1.02)

  def test_pairs_are_drawn_together(self):
    # What the sets share is no chance: here all but a little noise, in two samples.
    rng = np.random.default_rng(0)
    real = rng.normal(size=(50, 1))
    samples = np.repeat(real, 2, axis=0) + rng.normal(scale=1e-3, size=(100, 1))
    number = lambda a, b: float(a.mean() - b.mean())
    low, high = frechet.subsampling_interval(
      number, real, samples, num_draws=100, seed=0, num_joint=50
    )
    self.assertLess(high - low, 1e-3)
    low, high = frechet.subsampling_interval(
      number, real, samples, num_draws=100, seed=0
    )
    self.assertGreater(high - low, 0.3)

  def test_samples_of_one_clip_are_no_more_clips(self):
    # Ten copies of each number say no more of their mean than one does.
    x = np.random.default_rng(0).normal(size=40)
    mean = lambda x: float(x.mean())
    width = lambda x, **kwargs: np.ptp(
      frechet.subsampling_interval(mean, x, num_draws=400, seed=0, **kwargs)
    )
    copies = x.repeat(10)
    np.testing.assert_allclose(width(copies, num_joint=40), width(x), rtol=0.15)
    self.assertLess(width(copies), 0.5 * width(x))

  @parameterized.parameters(frechet.frechet_distance, frechet.kernel_distance)
  def test_what_is_no_set_of_features_is_refused(self, distance):
    with self.assertRaisesRegex(UserError, "a size of 1; expected at least 2"):
      distance(draw(1, 3), draw(5, 3))
    bad = draw(5, 3)
    bad[3, 1] = np.nan
    with self.assertRaisesRegex(UserError, "1 of 5 features .* the first is number 3"):
      distance(draw(5, 3), bad)


if __name__ == "__main__":
  absltest.main()
