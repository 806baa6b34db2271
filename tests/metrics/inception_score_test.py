"""The Inception Score of predictions whose score is known."""

import math

from absl.testing import absltest, parameterized
import numpy as np

from lamd_jax.metrics.inception_score import inception_score
from lamd_jax.types import UserError


def slow_score(logits):
  """From its definition, in plain Python numbers, of one split."""
  p = [[math.exp(x) for x in row] for row in logits.tolist()]
  p = [[x / sum(row) for x in row] for row in p]
  mean = [sum(column) / len(p) for column in zip(*p, strict=True)]
  kl = [sum(x * math.log(x / m) for x, m in zip(row, mean, strict=True)) for row in p]
  return math.exp(sum(kl) / len(kl))


class InceptionScoreTest(parameterized.TestCase):
  def test_samples_that_all_look_alike_score_1(self):
    logits = np.tile(np.float32([3, -1, 0, 0.5, 2]), (40, 1))
    np.testing.assert_allclose(inception_score(logits), (1.0, 0.0), atol=1e-6)

  @parameterized.parameters(2, 7, 10)
  def test_sure_and_balanced_predictions_score_the_number_of_classes(self, classes):
    # So sure that the probability of all others is 0 in float64.
    logits = np.tile(1e4 * np.eye(classes, dtype=np.float32), (10, 1))
    got = inception_score(logits, num_splits=1)
    np.testing.assert_allclose(got, (classes, 0.0), atol=1e-6)

  def test_classes_that_never_occur_do_not_count(self):
    logits = np.tile(1e4 * np.eye(3, 8, dtype=np.float32), (10, 1))
    got = inception_score(logits, num_splits=1)
    np.testing.assert_allclose(got, (3.0, 0.0), atol=1e-6)

  @parameterized.parameters(1, 10)
  def test_101_classes_sorted_or_not_score_about_101(self, splits):
    # In splits of 1010 neighbours, sorted samples would score 10.
    logits = 1e4 * np.eye(101, dtype=np.float32).repeat(100, axis=0)
    shuffled = np.random.default_rng(1).permutation(logits)
    for x in (logits, shuffled):
      self.assertBetween(inception_score(x, num_splits=splits)[0], 95, 101.001)

  def test_it_is_the_same_each_time(self):
    logits = np.random.default_rng(0).normal(size=(30, 6))
    self.assertEqual(inception_score(logits), inception_score(logits))

  def test_it_agrees_with_the_definition(self):
    logits = np.random.default_rng(0).normal(size=(23, 6)).astype(np.float32)
    dealt = logits[np.random.default_rng(0).permutation(23)]
    expected = [slow_score(dealt[:11]), slow_score(dealt[11:])]
    mean, std = inception_score(logits, num_splits=2)
    self.assertAlmostEqual(mean, sum(expected) / 2, places=6)
    self.assertAlmostEqual(std, abs(expected[0] - expected[1]) / 2, places=6)

  def test_a_number_added_to_all_logits_changes_nothing(self):
    logits = np.random.default_rng(0).normal(size=(30, 6))
    np.testing.assert_allclose(
      inception_score(logits + 800.0), inception_score(logits), rtol=1e-9
    )

  @parameterized.parameters((3, 10), (0, 1), (5, 0))
  def test_more_splits_than_samples_are_refused(self, samples, splits):
    with self.assertRaisesRegex(UserError, f"of {samples} samples .* in {splits} spl"):
      inception_score(np.zeros((samples, 4)), num_splits=splits)

  def test_logits_that_are_not_finite_are_refused(self):
    logits = np.zeros((20, 4))
    logits[[7, 9], 2] = np.nan
    with self.assertRaisesRegex(UserError, "2 of 20 samples .* of number 7"):
      inception_score(logits)


if __name__ == "__main__":
  absltest.main()
