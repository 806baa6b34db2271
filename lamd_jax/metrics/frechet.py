"""Distances between two sets of features: Frechet's, and the kernel distance.

Of images' features the first is FID (Heusel et al. 2017, arXiv:1706.08500) and of
videos' FVD (Unterthiner et al. 2018, arXiv:1812.01717); the second is KID
(Binkowski et al. 2018, arXiv:1801.01401) and KVD. All is float64.

Both estimates depend on how many features there are. Frechet's is biased: it falls
as sets grow, by more than most differences between models, so only numbers at equal
counts can be compared. The kernel distance is not.
"""

from collections.abc import Callable

from jaxtyping import Float
import numpy as np
import tqdm

from lamd_jax.types import UserError

_ROWS = 1024  # Of a kernel matrix held at once.

# The count has no letter: two sets in one signature may differ in it.
Features = Float[np.ndarray, "_ d"]
Distance = Callable[[Features, Features], float]


def frechet_distance(a: Features, b: Features, ddof: int = 1) -> float:
  """Squared Frechet distance between two Gaussians with the moments of the sets.

  |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)). The square root is not
  formed: with C = A^T A of the centred features, its trace is the sum of the singular
  values of A_a A_b^T. That needs no small constant on the diagonals, is exact where
  there are fewer features than dimensions, and never complex.

  Args:
    a: Features, at least 2.
    b: Features, at least 2.
    ddof: What is taken from the count in a covariance's denominator: 1, as the
      original code of FVD does, or 0, as StyleGAN-V's does.

  Raises:
    UserError: There are too few features, or some are not finite.
  """
  (mean_a, root_a), (mean_b, root_b) = (_moments(x, ddof) for x in (a, b))
  cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
  distance = np.square(mean_a - mean_b).sum() - 2 * cross
  return float(max(distance + np.square(root_a).sum() + np.square(root_b).sum(), 0.0))


def _moments(features, ddof):
  """The mean, and an R with C = R^T R, of at most d rows."""
  features = _checked(features)
  mean = features.mean(axis=0)
  centred = (features - mean) / np.sqrt(len(features) - ddof)
  return mean, np.asarray(np.linalg.qr(centred, mode="r"))


def _checked(features):
  if len(features) < 2:
    raise UserError(
      f"a distance between sets of features was asked for of {len(features)};"
      " expected at least 2 in each set"
    )
  features = np.asarray(features, np.float64)
  if not np.isfinite(features).all():
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    raise UserError(
      f"{len(bad)} of {len(features)} features are not finite, the first is number"
      f" {bad[0]}: its video has NaN or infinite pixels, or the weights have"
    )
  return features


def kernel_distance(a: Features, b: Features) -> float:
  """Squared maximum mean discrepancy with the kernel (x . y / d + 1)^3, unbiased.

  May be negative: its mean is 0 for two sets of one distribution. Over all pairs, not
  over subsets as some implementations of KID have it.

  Args:
    a: Features, at least 2.
    b: Features, at least 2.

  Raises:
    UserError: There are too few features, or some are not finite.
  """
  a, b = _checked(a), _checked(b)
  within = sum(
    (_kernel_sum(x, x) - _kernel(x, x).sum()) / (len(x) * (len(x) - 1)) for x in (a, b)
  )
  return float(within - 2 * _kernel_sum(a, b) / (len(a) * len(b)))


def _kernel(x, y):
  """Of each x with the y of the same row."""
  return (np.einsum("nd,nd->n", x, y) / x.shape[1] + 1) ** 3


def _kernel_sum(x, y):
  """Over all pairs; no more than some rows of the matrix exist at a time."""
  parts = (x[i : i + _ROWS] for i in range(0, len(x), _ROWS))
  return sum(((part @ y.T / x.shape[1] + 1) ** 3).sum() for part in parts)


def bootstrap_interval(
  number: Callable[..., float], *sets: np.ndarray, num_draws: int, seed: int
) -> tuple[float, float]:
  """The 95 % interval of a number of sets, from sets drawn anew with replacement.

  A set drawn with replacement holds copies, which shifts every draw's distance
  alike. So the quantiles are taken about the draws' mean, and put about the number of
  the sets themselves: the interval tells of chance, not of the bias at this count.

  Args:
    number: From the sets to the number, such as a distance of two.
    *sets: Of clips, along the first axis; each is drawn by itself.
    num_draws: How often all sets are drawn.
    seed: Of the draws.
  """
  rng, value = np.random.default_rng(seed), number(*sets)
  drawn = lambda x: x[rng.integers(len(x), size=len(x))]
  shown = tqdm.trange(num_draws, desc="interval", disable=None, leave=False)
  draws = np.array([number(*map(drawn, sets)) for _ in shown])
  low, high = np.nanquantile(draws - np.nanmean(draws), (0.025, 0.975))
  return value + float(low), value + float(high)
