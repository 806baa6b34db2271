"""PSNR and SSIM of 8-bit frames.

Both are taken frame by frame on [0, 255] and averaged over frames, as video papers
report them. For PSNR this mean, in dB, is not the PSNR of the pooled squared error: by
Jensen's inequality it is never lower. Definitions of SSIM differ more: see
`frame_ssim`.
"""

from jaxtyping import Float64, UInt8
import numpy as np

from lamd_jax.types import UserError

# The PSNR of identical frames. Pixels are whole numbers, so the smallest error of a
# frame of n values, one level in one value, is 48.1 + 10 log10(n) dB: 83 dB for
# 32 x 32 x 3, 101 dB for 256 x 256 x 3.
MAX_PSNR = 100.0

# SSIM: weights along one axis of a window, the same weights for several consecutive
# windows, and the constants of section III-B.
SSIM_SIZE = 11  # Side of a window in pixels.
_SSIM_TAPS = np.exp(-0.5 * np.square(np.arange(-5, 6) / 1.5))
_SSIM_TAPS /= _SSIM_TAPS.sum()
_SSIM_ROWS = 32
_SSIM_BANDS = np.stack(
  [np.pad(_SSIM_TAPS, (i, _SSIM_ROWS - 1 - i)) for i in range(_SSIM_ROWS)]
)
_SSIM_C1, _SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def mean_squared_error(
  a: UInt8[np.ndarray, "*#lead h w c"], b: UInt8[np.ndarray, "*#lead h w c"]
) -> Float64[np.ndarray, "*lead"]:
  """Returns the mean squared difference of each frame, in squared grey levels.

  Args:
    a: Frames, with any leading axes.
    b: Frames of the same size; leading axes of length one are broadcast.

  Returns:
    One value per frame, exact: sums are taken in integers.
  """
  lead = np.broadcast_shapes(a.shape[:-3], b.shape[:-3])
  result = np.empty(lead, np.float64)
  a, b = (np.broadcast_to(x, lead + x.shape[-3:]) for x in (a, b))
  # One frame at a time: widening all samples of an evaluation at once would need
  # several times their memory.
  for index in np.ndindex(lead):
    difference = a[index].astype(np.int64) - b[index]
    result[index] = np.mean(difference * difference)
  return result


def frame_psnr(
  a: UInt8[np.ndarray, "*#lead h w c"], b: UInt8[np.ndarray, "*#lead h w c"]
) -> Float64[np.ndarray, "*lead"]:
  """Returns the PSNR of each frame in dB: 10 log10(255^2 / MSE).

  Args:
    a: Frames, with any leading axes.
    b: Frames of the same size; leading axes of length one are broadcast.

  Returns:
    One value per frame, at most `MAX_PSNR`, which identical frames score.
  """
  error = mean_squared_error(a, b)
  floor = 255.0**2 * 10.0 ** (-MAX_PSNR / 10)
  return 10.0 * np.log10(255.0**2 / np.maximum(error, floor))


def psnr(
  a: UInt8[np.ndarray, "*#lead h w c"], b: UInt8[np.ndarray, "*#lead h w c"]
) -> float:
  """Returns the mean PSNR over all frames, in dB; see `frame_psnr`."""
  return float(np.mean(frame_psnr(a, b)))


def frame_ssim(
  a: UInt8[np.ndarray, "*#lead h w c"], b: UInt8[np.ndarray, "*#lead h w c"]
) -> Float64[np.ndarray, "*lead"]:
  """Returns the structural similarity of each frame (Wang et al. 2004, section III-B).

  Means, variances and the covariance are weighted by a normalized Gaussian of 1.5
  pixels in windows of 11 x 11 that lie wholly inside the frame. The index is averaged
  over windows and then over channels, which are treated separately. Equal to
  `structural_similarity` of scikit-image with `gaussian_weights=True, sigma=1.5,
  use_sample_covariance=False, data_range=255`. The authors' own program differs: it
  takes grey frames and downscales them first.

  Args:
    a: Frames of at least 11 x 11 pixels, with any leading axes.
    b: Frames of the same size; leading axes of length one are broadcast.

  Returns:
    One value per frame, in [-1, 1]; identical frames score 1.

  Raises:
    UserError: A frame is smaller than a window.
  """
  size = a.shape[-3:-1]
  if min(size) < SSIM_SIZE:
    raise UserError(
      f"SSIM of frames of {size[0]}x{size[1]} pixels was asked for; its window needs at"
      f" least {SSIM_SIZE}x{SSIM_SIZE}: compare frames before they are downscaled"
    )
  lead = np.broadcast_shapes(a.shape[:-3], b.shape[:-3])
  result = np.empty(lead, np.float64)
  a, b = (np.broadcast_to(x, lead + x.shape[-3:]) for x in (a, b))
  for index in np.ndindex(lead):  # One at a time, as above.
    result[index] = _ssim(a[index].astype(np.float64), b[index].astype(np.float64))
  return result


def _ssim(a, b):
  """Returns the mean over windows and channels of one frame."""
  mean_a, mean_b = _window_mean(a), _window_mean(b)
  product = mean_a * mean_b
  squares = mean_a * mean_a + mean_b * mean_b
  # Only the sum of the two variances is needed.
  variances = _window_mean(a * a + b * b) - squares
  covariance = _window_mean(a * b) - product
  luminance = (2 * product + _SSIM_C1) / (squares + _SSIM_C1)
  return np.mean(luminance * (2 * covariance + _SSIM_C2) / (variances + _SSIM_C2))


def _window_mean(x):
  """Returns weighted means over the windows inside a frame `h w c`, axis by axis."""
  h, w, c = x.shape
  x = _means_along(x.reshape(1, h, w * c))
  return _means_along(x.reshape(-1, w, c))


def _means_along(x):
  """Returns weighted means along the middle axis, shorter by a window minus one."""
  extra = SSIM_SIZE - 1
  n, size, c = x.shape
  size -= extra
  means = np.empty((n, size, c))
  # Multiplying by a few rows of a banded matrix is faster than summing over taps; with
  # all rows, time would grow with the square of the size.
  for start in range(0, size, _SSIM_ROWS):
    rows = min(_SSIM_ROWS, size - start)
    seen = x[:, start : start + rows + extra]
    np.matmul(_SSIM_BANDS[:rows, : rows + extra], seen, means[:, start : start + rows])
  return means


def ssim(
  a: UInt8[np.ndarray, "*#lead h w c"], b: UInt8[np.ndarray, "*#lead h w c"]
) -> float:
  """Returns the mean structural similarity over all frames; see `frame_ssim`."""
  return float(np.mean(frame_ssim(a, b)))
