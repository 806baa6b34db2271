"""Measures of motion, and of the variety of samples from one start.

All are in grey levels, [0, 255], and relative to real clips. They tell apart the ways
in which a video model fails quietly: clips that stand still, jerk, or flicker.
"""

import itertools

from jaxtyping import Float64, UInt8
import numpy as np

from lamd_jax.metrics.image import psnr

# Columns of `motion_statistics`.
AMPLITUDE, ROUGHNESS, FLICKER = range(3)
STILL = 0.1  # A clip with less than this share of real motion counts as a still.


def motion_amplitude(video: UInt8[np.ndarray, "*lead f h w c"]) -> float:
  """Returns the mean absolute difference of neighbouring frames, in grey levels.

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
      # Unsigned bytes cannot hold a negative difference.
      total += int(np.sum(np.maximum(before, now) - np.minimum(before, now)))
  return total / video[..., 1:, :, :, :].size


def motion_statistics(
  clips: UInt8[np.ndarray, "n f h w c"],
) -> Float64[np.ndarray, "n 3"]:
  """Returns how much each clip moves, jerks and flickers, in grey levels.

  For d and e, two consecutive changes of a pixel:

  amplitude: The mean of |d|; see `motion_amplitude`.
  roughness: The mean of |e - d|, the second difference: 0 if brightness changes
    steadily, sqrt(3) times the amplitude for noise that differs from frame to frame.
  flicker: The mean of the change that is undone at once: the smaller of |d| and |e| if
    their signs differ, else 0. It equals the amplitude if two frames alternate.

  Args:
    clips: Clips of at least three frames.

  Returns:
    The three means over the pixels and frames of each clip.
  """
  result = np.empty((len(clips), 3))
  for row, clip in zip(result, clips, strict=True):
    change = np.diff(clip.astype(np.int16), axis=0)
    before, after = change[:-1], change[1:]
    undone = np.minimum(np.abs(before), np.abs(after))
    row[AMPLITUDE] = np.abs(change).mean()
    row[ROUGHNESS] = np.abs(after - before).mean()
    row[FLICKER] = np.where(np.sign(before) * np.sign(after) < 0, undone, 0).mean()
  return result


def still_share(
  statistics: Float64[np.ndarray, "n 3"], real: Float64[np.ndarray, "m 3"]
) -> float:
  """Returns the share of clips that move less than a tenth as much as real clips.

  Args:
    statistics: Statistics of the clips to judge.
    real: Statistics of real clips.

  Returns:
    A fraction in [0, 1]; NaN if the real clips stand still.
  """
  least = STILL * real[:, AMPLITUDE].mean()
  return float(np.mean(statistics[:, AMPLITUDE] < least)) if least else float("nan")


def statistics_ratio(
  column: int,
  statistics: Float64[np.ndarray, "n 3"],
  real: Float64[np.ndarray, "m 3"],
) -> float:
  """Returns the mean of one statistic divided by that of real clips; 1 is ideal.

  Args:
    column: `AMPLITUDE`, `ROUGHNESS` or `FLICKER`.
    statistics: Statistics of the clips to judge.
    real: Statistics of real clips.

  Returns:
    The ratio; NaN if the mean of the real clips is 0.
  """
  reference = real[:, column].mean()
  return float(statistics[:, column].mean() / reference) if reference else float("nan")


def compared(
  video: UInt8[np.ndarray, "n f h w c"], real: UInt8[np.ndarray, "m f2 h w c"]
) -> dict[str, float]:
  """Compares the motion of clips with real ones, cheaply enough for training logs.

  Args:
    video: Clips to judge.
    real: Real clips.

  Returns:
    `motion_ratio`, `roughness_ratio`, `flicker_ratio` (ideally 1) and `still_share`
    (ideally 0). Undefined values are left out: all of them for clips of fewer than
    three frames, and ratios whose denominator is 0.
  """
  if min(video.shape[1], real.shape[1]) < 3:
    return {}
  judged, reference = motion_statistics(video), motion_statistics(real)
  found = {
    "motion_ratio": statistics_ratio(AMPLITUDE, judged, reference),
    "roughness_ratio": statistics_ratio(ROUGHNESS, judged, reference),
    "flicker_ratio": statistics_ratio(FLICKER, judged, reference),
    "still_share": still_share(judged, reference),
  }
  return {name: value for name, value in found.items() if np.isfinite(value)}


def motion_ratio(
  video: UInt8[np.ndarray, "*lead f h w c"],
  real: UInt8[np.ndarray, "*real_lead real_f h w c"],
) -> float:
  """Returns the motion amplitude of clips divided by that of real ones.

  Args:
    video: Clips to judge.
    real: Clips to compare with; their count and length may differ.

  Returns:
    The ratio of the two means (not the mean of ratios, which one nearly still real clip
    would dominate); NaN if the real clips stand still.
  """
  reference = motion_amplitude(real)
  return motion_amplitude(video) / reference if reference else float("nan")


def pairwise_psnr(samples: UInt8[np.ndarray, "n s f h w c"]) -> float:
  """Returns the mean PSNR between samples that share a first frame, in dB.

  A high value means that samples are copies of each other. Pass frames from 1 on: the
  first frame is shared by design.

  Args:
    samples: s samples for each of n first frames.

  Returns:
    The mean over first frames, the s (s - 1) / 2 pairs and frames; NaN for a single
    sample.
  """
  pairs = itertools.combinations(range(samples.shape[1]), 2)
  values = [psnr(samples[:, i], samples[:, j]) for i, j in pairs]
  return float(np.mean(values)) if values else float("nan")


def still(
  video: UInt8[np.ndarray, "*lead f h w c"],
) -> UInt8[np.ndarray, "*lead f h w c"]:
  """Repeats the first frame: the clip of a model that has learned no motion.

  Returns:
    A read-only view with the shape of `video`.
  """
  return np.broadcast_to(video[..., :1, :, :, :], video.shape)
