"""Distances between two sets of features: the Frechet and the kernel distance.

The Frechet distance is FID for features of images (Heusel et al. 2017,
arXiv:1706.08500) and FVD for those of videos (Unterthiner et al. 2018,
arXiv:1812.01717); the kernel distance is KID (Binkowski et al. 2018, arXiv:1801.01401)
and KVD. Everything is computed in float64.

The Frechet distance is biased: it falls as the sets grow, by more than most differences
between models, so only scores at equal counts are comparable. The kernel distance is
unbiased.
"""

from collections.abc import Callable

from jaxtyping import Float
import numpy as np
import tqdm

from lamd_jax.types import UserError

_ROWS = 1024  # Rows of a kernel matrix held at once.
# Clips that an interval needs: half of them are the least that has a distance.
MIN_INTERVAL = 4

# The count has no name: two sets in one signature may differ in size.
Features = Float[np.ndarray, "_ d"]
Distance = Callable[[Features, Features], float]


def frechet_distance(a: Features, b: Features, ddof: int = 1) -> float:
  """Returns the squared Frechet distance between Gaussians fitted to two sets.

  |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)). The matrix square root is
  never formed: with C = A^T A for centred features A, its trace is the sum of the
  singular values of A_a A_b^T. This needs no small constant on the diagonals, is exact
  for fewer features than dimensions, and is never complex.

  Args:
    a: Features, at least 2.
    b: Features, at least 2.
    ddof: Covariances are divided by the count minus `ddof`: 1 as in the original code
      of FVD, 0 as in StyleGAN-V's.

  Raises:
    UserError: There are too few features, or some are not finite.
  """
  (mean_a, root_a), (mean_b, root_b) = (_moments(x, ddof) for x in (a, b))
  cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
  distance = np.square(mean_a - mean_b).sum() - 2 * cross
  return float(max(distance + np.square(root_a).sum() + np.square(root_b).sum(), 0.0))


def _moments(features, ddof):
  """Returns the mean, and R with C = R^T R and at most d rows."""
  features = _checked(features)
  mean = features.mean(axis=0)
  centred = (features - mean) / np.sqrt(len(features) - ddof)
  return mean, np.asarray(np.linalg.qr(centred, mode="r"))


def _checked(features):
  if len(features) < 2:
    raise UserError(
      f"a distance needs two sets of features, one has a size of {len(features)};"
      " expected at least 2 in each set"
    )
  features = np.asarray(features, np.float64)
  if not np.isfinite(features).all():
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    raise UserError(
      f"{len(bad)} of {len(features)} features are not finite, the first is number"
      f" {bad[0]}: its video or the weights have NaN or infinite values"
    )
  return features


def kernel_distance(a: Features, b: Features) -> float:
  """Returns the unbiased squared maximum mean discrepancy, kernel (x . y / d + 1)^3.

  It may be negative: its mean is 0 for two sets of one distribution. It is taken over
  all pairs, not over subsets as in some implementations of KID.

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
  """Returns the kernel of each row of x with the same row of y."""
  return (np.einsum("nd,nd->n", x, y) / x.shape[1] + 1) ** 3


def _kernel_sum(x, y):
  """Sums the kernel over all pairs, a few rows of the matrix at a time."""
  parts = (x[i : i + _ROWS] for i in range(0, len(x), _ROWS))
  return sum(((part @ y.T / x.shape[1] + 1) ** 3).sum() for part in parts)


def subsampling_interval(
  number: Callable[..., float],
  *sets: np.ndarray,
  num_draws: int,
  seed: int,
  num_joint: int | None = None,
) -> tuple[float, float]:
  """Returns a 95 % interval of a score of one or several sets, by subsampling.

  Each draw is half of every set, without replacement, so that the mean of a draw varies
  around that of the set as much as the latter does around the truth (Politis & Romano
  1994; an odd count is corrected for). A bootstrap, which draws with replacement, is
  far too wide for distances of many features: its copies make covariances that no set
  of different clips has. Halves score more than whole sets do, all alike. Quantiles are
  therefore taken around the mean of the draws and moved to the score of the sets
  themselves: the interval shows chance, not the bias at this count.

  Args:
    number: Function from the sets to the score, such as a distance.
    *sets: Sets of at least `MIN_INTERVAL` clips along the first axis.
    num_draws: Number of draws.
    seed: Seed of the draws.
    num_joint: Number of real clips that each set shows, one or several times in a row
      (real clips and the samples that begin like them): drawn or left out in all sets
      together. None draws every set by itself.
  """
  rng, value = np.random.default_rng(seed), number(*sets)
  counts = [num_joint or len(x) for x in sets]
  parts = [
    x.reshape(count, -1, *x.shape[1:]) for x, count in zip(sets, counts, strict=True)
  ]

  def draw() -> float:
    joint = rng.permutation(num_joint) if num_joint else None
    halves = []
    for part, count in zip(parts, counts, strict=True):
      order = rng.permutation(count) if joint is None else joint
      half = part[order[: count // 2]]
      halves.append(half.reshape(-1, *half.shape[2:]))
    return number(*halves)

  shown = tqdm.trange(num_draws, desc="interval", disable=None, leave=False)
  draws = np.array([draw() for _ in shown])
  least = min(counts)
  scale = np.sqrt((least // 2) / (least - least // 2))
  low, high = np.nanquantile(draws - np.nanmean(draws), (0.025, 0.975))
  return value + scale * float(low), value + scale * float(high)
