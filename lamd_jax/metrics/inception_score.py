"""The Inception Score (Salimans et al. 2016, arXiv:1606.03498, section 4)."""

import itertools

from jaxtyping import Float
import numpy as np

from lamd_jax.types import UserError


def inception_score(
  logits: Float[np.ndarray, "n k"], *, num_splits: int = 10, seed: int = 0
) -> tuple[float, float]:
  """Returns the Inception Score of samples and its standard deviation over splits.

  exp(E KL(p(y | x) || p(y))): 1 if all samples look alike to the classifier, k if it is
  sure of each and classes are equally frequent. Published scores use 50 000 images and
  the logits of `frame_features.inception_outputs`, which leave out the bias of the last
  layer as in the original code; for videos they use a C3D. The score depends on the
  number of samples: with few, p(y) is rough and the score too low.

  Args:
    logits: Logits of the samples, in any order. float32 is enough; sums are float64.
    num_splits: Number of splits, scored separately. With several, each needs many more
      samples than there are classes.
    seed: Seed of the order in which samples are dealt to splits: as they come, they are
      often sorted by class, and a split of one class scores 1.

  Returns:
    Mean and standard deviation over the splits (divided by their number, as in the
    original code). The deviation describes one set of samples, not a model.

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
      f"the logits of {len(bad)} of {len(logits)} samples are not finite, the first"
      f" are of number {bad[0]}: its pixels or the weights are NaN or infinite"
    )
  order = np.random.default_rng(seed).permutation(len(logits))
  log_p = _log_softmax(np.asarray(logits, np.float64)[order])
  bounds = np.arange(num_splits + 1) * len(log_p) // num_splits
  scores = [_score(log_p[a:b]) for a, b in itertools.pairwise(bounds)]
  return float(np.mean(scores)), float(np.std(scores))


def _score(log_p):
  p = np.exp(log_p)
  mean = p.mean(axis=0)
  # A class that never occurs has no weight.
  log_mean = np.log(mean, out=np.zeros_like(mean), where=mean > 0)
  return np.exp(np.mean(np.sum(p * (log_p - log_mean), axis=1)))


def _log_softmax(x):
  x = x - x.max(axis=1, keepdims=True)
  return x - np.log(np.exp(x).sum(axis=1, keepdims=True))
