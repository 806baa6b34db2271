"""How near one image is to another, on 8-bit pixels.

PSNR is taken frame by frame on [0, 255], and means are means over frames of
that number in dB, as video papers report it. That is not the PSNR of the
pooled squared error: by Jensen's inequality the mean of the frames is never
lower.
"""

from jaxtyping import Float64, UInt8
import numpy as np

# What an identical frame scores. Pixels are whole numbers, so the smallest error
# a frame of n values can have, one level in one value, is 48.1 + 10 log10(n) dB:
# 83 dB for 32 x 32 x 3, 101 dB for 256 x 256 x 3.
MAX_PSNR = 100.0


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
