"""The Inception Score (Salimans et al. 2016, arXiv:1606.03498, section 4)."""

import itertools

from jaxtyping import Float
import numpy as np

from lamd_jax.types import UserError


def inception_score(
  logits: Float[np.ndarray, "n k"], *, num_splits: int = 10
) -> tuple[float, float]:
  """How sure a classifier is of each sample, and how varied all are together.

  exp(E KL(p(y | x) || p(y))): 1 where all samples look alike to the classifier, k where
  each is surely of one class and classes are equally frequent. Published scores are of
  50 000 images with the logits of `frame_features.inception_outputs`, which are without
  the last layer's bias as in the original code; those of videos are of a C3D. They
  depend on the number of samples: with few, p(y) is rough and the score too low.

  Args:
    logits: Of samples, in an order that says nothing of their class: a split is a run
      of neighbours. float32 is enough; sums are float64.
    num_splits: Parts that are scored each by itself.

  Returns:
    Mean and standard deviation over the parts (divided by their number, as in the
    original code). The latter tells of one set of samples, not of other models.

  Raises:
    UserError: There are fewer samples than splits, or some are not finite.
  """
  if not 1 <= num_splits <= len(logits):
    raise UserError(
      f"an Inception Score of {len(logits)} samples was asked for in {num_splits}"
      " splits; expected at least one split, and one sample in each"
    )
  if not np.isfinite(logits).all():
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    raise UserError(
      f"the logits of {len(bad)} of {len(logits)} samples are not finite, the first are"
      f" of number {bad[0]}: its pixels or the weights are NaN or infinite"
    )
  log_p = _log_softmax(np.asarray(logits, np.float64))
  bounds = np.arange(num_splits + 1) * len(log_p) // num_splits
  scores = [_score(log_p[a:b]) for a, b in itertools.pairwise(bounds)]
  return float(np.mean(scores)), float(np.std(scores))


def _score(log_p):
  p = np.exp(log_p)
  mean = p.mean(axis=0)
  # Of a class that never occurs the logarithm is of no weight.
  log_mean = np.log(mean, out=np.zeros_like(mean), where=mean > 0)
  return np.exp(np.mean(np.sum(p * (log_p - log_mean), axis=1)))


def _log_softmax(x):
  x = x - x.max(axis=1, keepdims=True)
  return x - np.log(np.exp(x).sum(axis=1, keepdims=True))
