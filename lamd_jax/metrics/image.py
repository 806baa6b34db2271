"""How near one image is to another, on 8-bit pixels.

PSNR is taken frame by frame on [0, 255], and means are means over frames of
that number in dB, as video papers report it. That is not the PSNR of the
pooled squared error: by Jensen's inequality the mean of the frames is never
lower. So is SSIM, whose definitions differ more: see `frame_ssim`.
"""

from jaxtyping import Float64, UInt8
import numpy as np

from lamd_jax.types import UserError

# What an identical frame scores. Pixels are whole numbers, so the smallest error
# a frame of n values can have, one level in one value, is 48.1 + 10 log10(n) dB:
# 83 dB for 32 x 32 x 3, 101 dB for 256 x 256 x 3.
MAX_PSNR = 100.0

# Of the structural similarity: weights along one axis of the window, the same for some
# windows that follow each other, and the constants of section III-B.
SSIM_SIZE = 11  # Pixels a side of its window.
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
  """Mean squared difference of each frame, in squared grey levels.

  Args:
    a: Frames, with any leading axes.
    b: Frames of the same size; leading axes of length one are broadcast.

  Returns:
    One number per frame, exact: the sum is taken in whole numbers.
  """
  lead = np.broadcast_shapes(a.shape[:-3], b.shape[:-3])
  result = np.empty(lead, np.float64)
  a, b = (np.broadcast_to(x, lead + x.shape[-3:]) for x in (a, b))
  # One frame at a time: the samples of an evaluation, widened whole, would need
  # several times the memory of the samples themselves.
  for index in np.ndindex(lead):
    difference = a[index].astype(np.int64) - b[index]
    result[index] = np.mean(difference * difference)
  return result


def frame_psnr(
  a: UInt8[np.ndarray, "*#lead h w c"], b: UInt8[np.ndarray, "*#lead h w c"]
) -> Float64[np.ndarray, "*lead"]:
  """Peak signal-to-noise ratio of each frame in dB: 10 log10(255^2 / MSE).

  Args:
    a: Frames, with any leading axes.
    b: Frames of the same size; leading axes of length one are broadcast.

  Returns:
    One number per frame, at most `MAX_PSNR`, which identical frames score.
  """
  error = mean_squared_error(a, b)
  floor = 255.0**2 * 10.0 ** (-MAX_PSNR / 10)
  return 10.0 * np.log10(255.0**2 / np.maximum(error, floor))


def psnr(
  a: UInt8[np.ndarray, "*#lead h w c"], b: UInt8[np.ndarray, "*#lead h w c"]
) -> float:
  """Mean over all frames of the PSNR of each frame, in dB; see `frame_psnr`."""
  return float(np.mean(frame_psnr(a, b)))


def frame_ssim(
  a: UInt8[np.ndarray, "*#lead h w c"], b: UInt8[np.ndarray, "*#lead h w c"]
) -> Float64[np.ndarray, "*lead"]:
  """Structural similarity of each frame (Wang et al. 2004, section III-B).

  Means, variances and the covariance are weighted by a Gaussian of 1.5 pixels in
  windows of 11 x 11, divided by the sum of weights. Windows lie wholly inside the
  frame; the index is averaged over windows and then over channels, each of which is
  taken by itself. Equal to `structural_similarity` of scikit-image with
  `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255`.
  The authors' own program differs: grey frames, first made smaller.

  Args:
    a: Frames of at least 11 x 11 pixels, with any leading axes.
    b: Frames of the same size; leading axes of length one are broadcast.

  Returns:
    One number per frame, in [-1, 1]; identical frames score 1.

  Raises:
    UserError: A frame is smaller than a window.
  """
  size = a.shape[-3:-1]
  if min(size) < SSIM_SIZE:
    raise UserError(
      f"SSIM of frames of {size[0]}x{size[1]} pixels was asked for; its window needs at"
      f" least {SSIM_SIZE}x{SSIM_SIZE}: compare frames before they are made smaller"
    )
  lead = np.broadcast_shapes(a.shape[:-3], b.shape[:-3])
  result = np.empty(lead, np.float64)
  a, b = (np.broadcast_to(x, lead + x.shape[-3:]) for x in (a, b))
  for index in np.ndindex(lead):  # One at a time, as above.
    result[index] = _ssim(a[index].astype(np.float64), b[index].astype(np.float64))
  return result


def _ssim(a, b):
  """Mean over the windows and channels of one frame."""
  mean_a, mean_b = _window_mean(a), _window_mean(b)
  product = mean_a * mean_b
  squares = mean_a * mean_a + mean_b * mean_b
  # The two variances are only ever needed as their sum.
  variances = _window_mean(a * a + b * b) - squares
  covariance = _window_mean(a * b) - product
  luminance = (2 * product + _SSIM_C1) / (squares + _SSIM_C1)
  return np.mean(luminance * (2 * covariance + _SSIM_C2) / (variances + _SSIM_C2))


def _window_mean(x):
  """Weighted means over the windows inside a frame `h w c`, axis by axis."""
  h, w, c = x.shape
  x = _means_along(x.reshape(1, h, w * c))
  return _means_along(x.reshape(-1, w, c))


def _means_along(x):
  """Weighted means along the middle axis, which gets shorter by a window less one."""
  extra = SSIM_SIZE - 1
  n, size, c = x.shape
  size -= extra
  means = np.empty((n, size, c))
  # A product with some rows of a matrix of bands is faster than a sum over taps, and
  # with all rows it would take time in proportion to the square of the size.
  for start in range(0, size, _SSIM_ROWS):
    rows = min(_SSIM_ROWS, size - start)
    seen = x[:, start : start + rows + extra]
    np.matmul(_SSIM_BANDS[:rows, : rows + extra], seen, means[:, start : start + rows])
  return means


def ssim(
  a: UInt8[np.ndarray, "*#lead h w c"], b: UInt8[np.ndarray, "*#lead h w c"]
) -> float:
  """Mean over all frames of the structural similarity; see `frame_ssim`."""
  return float(np.mean(frame_ssim(a, b)))
