"""How much a video moves, and how much samples from one start differ.

Amplitudes are mean absolute differences of neighbouring frames, in grey levels
of [0, 255]. They separate the two ways in which a video model fails quietly: a
clip that stands still (near 0) and one that flickers (far above real clips).
"""

import itertools

from jaxtyping import UInt8
import numpy as np

from lamd_jax.metrics.image import psnr


def motion_amplitude(video: UInt8[np.ndarray, "*lead f h w c"]) -> float:
  """Mean absolute difference of neighbouring frames, in grey levels.

  Args:
    video: Clips of at least two frames, with any leading axes.

  Returns:
    The mean over pixels, pairs of neighbouring frames and clips, in [0, 255].
  """
  total = 0
  for index in np.ndindex(video.shape[:-3]):
    *clip, frame = index
    if frame:
      before, now = video[*clip, frame - 1], video[index]
      # The difference of two bytes does not fit a byte.
      total += int(np.sum(np.maximum(before, now) - np.minimum(before, now)))
  return total / video[..., 1:, :, :, :].size


def motion_ratio(
  video: UInt8[np.ndarray, "*lead f h w c"],
  real: UInt8[np.ndarray, "*real_lead real_f h w c"],
) -> float:
  """The motion amplitude of clips over that of real ones; 1 moves as much.

  Args:
    video: Clips to judge.
    real: Clips to compare with; their count and length may differ.

  Returns:
    The ratio of the two means (not the mean of ratios, in which one nearly
    still real clip would count most); NaN where the real clips stand still.
  """
  reference = motion_amplitude(real)
  return motion_amplitude(video) / reference if reference else float("nan")


def pairwise_psnr(samples: UInt8[np.ndarray, "n s f h w c"]) -> float:
  """Mean PSNR between samples that share a first frame, in dB.

  High means that the samples are copies of each other. Give frames from 1 on:
  the shared first frame is alike by design.

  Args:
    samples: For each of n first frames, s samples.

  Returns:
    The mean over first frames, the s (s - 1) / 2 pairs and frames; NaN where
    there is only one sample.
  """
  pairs = itertools.combinations(range(samples.shape[1]), 2)
  values = [psnr(samples[:, i], samples[:, j]) for i, j in pairs]
  return float(np.mean(values)) if values else float("nan")


def still(
  video: UInt8[np.ndarray, "*lead f h w c"],
) -> UInt8[np.ndarray, "*lead f h w c"]:
  """The first frame repeated: the clip that a model which learned nothing gives.

  Returns:
    A read-only view with the shape of `video`.
  """
  return np.broadcast_to(video[..., :1, :, :, :], video.shape)
