"""How videos move, and how much samples from one start differ.

All is in grey levels of [0, 255] and compared with real clips. That separates the
ways in which a video model fails quietly: a clip that stands still, one that jerks,
one that flickers.
"""

import itertools

from jaxtyping import Float64, UInt8
import numpy as np

from lamd_jax.metrics.image import psnr

# Of the columns of `motion_statistics`.
AMPLITUDE, ROUGHNESS, FLICKER = range(3)
STILL = 0.1  # Of the motion of real clips: a clip below it has collapsed to a still.


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


def motion_statistics(
  clips: UInt8[np.ndarray, "n f h w c"],
) -> Float64[np.ndarray, "n 3"]:
  """How much each clip moves, jerks and flickers, in grey levels.

  Of two neighbouring differences of a pixel, d and e:

  amplitude: the mean of |d|; see `motion_amplitude`.
  roughness: the mean of |e - d|, the second difference: 0 where brightness changes
    steadily. For noise that differs from frame to frame it is sqrt(3) times the
    amplitude.
  flicker: the mean of what is at once taken back: the smaller of |d| and |e| where
    their signs differ, else 0. It equals the amplitude where two frames alternate.

  Args:
    clips: Of at least three frames.

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
  """The share of clips that move less than a tenth as much as real ones on average.

  Args:
    statistics: Of the clips to judge.
    real: Of real clips.

  Returns:
    A fraction in [0, 1]; NaN where the real clips stand still.
  """
  least = STILL * real[:, AMPLITUDE].mean()
  return float(np.mean(statistics[:, AMPLITUDE] < least)) if least else float("nan")


def statistics_ratio(
  column: int,
  statistics: Float64[np.ndarray, "n 3"],
  real: Float64[np.ndarray, "m 3"],
) -> float:
  """The mean of one statistic over that of real clips; 1 is as it should be.

  Args:
    column: `AMPLITUDE`, `ROUGHNESS` or `FLICKER`.
    statistics: Of the clips to judge.
    real: Of real clips.

  Returns:
    The ratio; NaN where it is 0 for the real clips.
  """
  reference = real[:, column].mean()
  return float(statistics[:, column].mean() / reference) if reference else float("nan")


def compared(
  video: UInt8[np.ndarray, "n f h w c"], real: UInt8[np.ndarray, "m f2 h w c"]
) -> dict[str, float]:
  """How clips move beside real ones; cheap enough to log while training.

  Args:
    video: Clips to judge.
    real: Real clips.

  Returns:
    `motion_ratio`, `roughness_ratio`, `flicker_ratio` (1 is as it should be) and
    `still_share` (0 is). What the clips do not define is left out: all where there are
    fewer than three frames, ratios to what real clips do not have.
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
