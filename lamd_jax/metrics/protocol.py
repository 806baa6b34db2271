"""Figures of video models, with their meaning and their protocol.

No figure is printed without its protocol: `video_figures` also returns counts and
sizes, and `sentence` puts them into words.

Frames that the model was given are left out wherever they would flatter it: with frame
0 given, reconstructions, the still baseline and the variety of samples are measured on
frames 1 to L-1. Papers that include frame 0 report a higher PSNR; the sentence says
what was done.
"""

from collections.abc import Mapping
import dataclasses
import math

from jaxtyping import UInt8
import numpy as np

from lamd_jax.metrics import motion
from lamd_jax.metrics.image import SSIM_SIZE, psnr, ssim
from lamd_jax.metrics.motion import motion_ratio, pairwise_psnr, still
from lamd_jax.types import UserError

MAX_LIKENESS = 8  # Samples of a clip that are compared with each other.


@dataclasses.dataclass(frozen=True)
class Figure:
  """Description of a figure.

  Attributes:
    label: Name in tables.
    unit: Unit, or "" for a ratio.
    meaning: One sentence that says what is measured.
    better: Which direction is better, and what the extremes mean.
    low: Lower end of the expected range; None if there is none.
    high: Upper end of the expected range; None if there is none.
  """

  label: str
  unit: str
  meaning: str
  better: str
  low: float | None = None
  high: float | None = None

  def expected(self) -> str:
    """Returns the expected range in words; "" if there is none."""
    unit = f" {self.unit}" if self.unit else ""
    match self.low, self.high:
      case None, None:
        return ""
      case low, None:
        return f"at least {low:g}{unit}"
      case None, high:
        return f"below {high:g}{unit}"
      case low, high:
        return f"{low:g} to {high:g}{unit}"

  def is_expected(self, value: float | int) -> bool | None:
    """Returns whether a value is in the expected range; None if there is none."""
    if self.low is None and self.high is None:
      return None
    low = -math.inf if self.low is None else self.low
    high = math.inf if self.high is None else self.high
    return low <= value <= high


FIGURES: Mapping[str, Figure] = {
  "reconstruction_psnr": Figure(
    "Reconstruction",
    "dB",
    "PSNR of real clips encoded to their first frame and one motion latent, and"
    " decoded again: the ceiling for everything sampled.",
    "Higher is better; 25 dB shows the motion with blurred detail, 30 dB is close.",
  ),
  "still_psnr": Figure(
    "Still baseline",
    "dB",
    "PSNR of repeating the first frame, which needs no model: a property of the"
    " clips alone.",
    "Neither way; the lower it is, the more the clips move.",
  ),
  "reconstruction_gain_db": Figure(
    "Gain over a still",
    "dB",
    "Reconstruction minus still baseline: what the motion latent is worth.",
    "Higher is better; 0 means that the latent carries no motion.",
    low=3.0,
  ),
  "reconstruction_ssim": Figure(
    "Structural similarity",
    "",
    "SSIM of the same reconstructions (windows of 11x11 pixels).",
    "Higher is better; 1 is equal.",
  ),
  "reconstruction_motion_ratio": Figure(
    "Motion, reconstructed",
    "",
    "Mean absolute difference of neighbouring frames, reconstructed over real.",
    "1 is best; towards 0 motion is lost, above 1 it flickers.",
    low=0.7,
    high=1.3,
  ),
  "sample_motion_ratio": Figure(
    "Motion, sampled",
    "",
    "Mean absolute difference of neighbouring frames, sampled over real.",
    "1 is best; towards 0 samples stand still, above 1 they flicker.",
    low=0.7,
    high=1.3,
  ),
  "sample_roughness_ratio": Figure(
    "Roughness, sampled",
    "",
    "Mean absolute second difference over frames, sampled over real.",
    "1 is as smooth as real clips; above it motion jerks, below it glides or fades.",
  ),
  "sample_flicker_ratio": Figure(
    "Flicker, sampled",
    "",
    "Brightness that comes and goes at once, sampled over real.",
    "1 is as in real clips; above it samples flicker.",
  ),
  "sample_still_share": Figure(
    "Stills, sampled",
    "",
    "Share of samples that move less than a tenth as much as real clips do.",
    "Lower is better; at 1 all samples have collapsed to a still.",
    high=0.1,
  ),
  "sample_pairwise_psnr": Figure(
    "Likeness of samples",
    "dB",
    "PSNR between samples that share a first frame, over all pairs of up to eight.",
    "Lower is more varied; near 100 the samples are copies of each other.",
    high=30.0,
  ),
  "sample_first_frame_psnr": Figure(
    "First frame kept",
    "dB",
    "PSNR of the first frame or frames of each sample against those that were given.",
    "Higher is better; below 28 dB the given picture visibly changes.",
    low=28.0,
  ),
}


def video_figures(
  real: UInt8[np.ndarray, "n f h w c"],
  reconstructed: UInt8[np.ndarray, "n f h w c"] | None,
  sampled: UInt8[np.ndarray, "n s f h w c"],
  given_frames: int = 1,
) -> dict[str, float]:
  """Measures reconstructions and samples of held-out clips.

  Args:
    real: Held-out clips, of at least two frames.
    reconstructed: Reconstructions of the clips; None without an autoencoder.
    sampled: s samples for each clip, from its first frames; s may be 0 if there are
      reconstructions.
    given_frames: Number of frames that the model was given; they are left out.

  Returns:
    The figures of `FIGURES`, and the `protocol_*` values for `sentence`. Undefined
    figures are left out: ratios to real clips that stand still, the likeness of a
    single sample, and figures of reconstructions or given frames without any.

  Raises:
    UserError: There is no clip, no sample, or only one frame.
  """
  num_clips, num_frames, height, width, _ = real.shape
  num_samples = sampled.shape[1]
  has_something = num_samples or reconstructed is not None
  if not num_clips or not has_something or num_frames < 2:
    raise UserError(
      f"cannot measure {num_clips} clips of {num_frames} frames with"
      f" {num_samples} samples each: expected at least one clip, two frames"
      " and one sample; see config.evaluate and config.data.num_frames"
    )
  later = np.s_[..., max(given_frames, 1) :, :, :, :]
  new = np.s_[..., given_frames:, :, :, :]
  given = np.s_[..., :given_frames, :, :, :]
  figures: dict[str, float] = {}
  if num_samples:
    moves = {"motion_ratio": motion_ratio(sampled, real)}
    moves |= motion.compared(sampled.reshape(-1, *real.shape[1:]), real)
    figures = {f"sample_{name}": value for name, value in moves.items()}
    # A hundred samples have 4950 pairs.
    few = sampled[:, :MAX_LIKENESS]
    figures["sample_pairwise_psnr"] = pairwise_psnr(few[new])
  if given_frames and num_samples:
    # n 1 f h w c against n s f h w c.
    figures["sample_first_frame_psnr"] = psnr(real[given][:, None], sampled[given])
  figures["still_psnr"] = baseline = psnr(still(real)[later], real[later])
  if reconstructed is not None:
    reconstruction = psnr(reconstructed[later], real[later])
    figures |= {
      "reconstruction_psnr": reconstruction,
      "reconstruction_gain_db": reconstruction - baseline,
      "reconstruction_motion_ratio": motion_ratio(reconstructed, real),
    }
    if min(height, width) >= SSIM_SIZE:
      figures["reconstruction_ssim"] = ssim(reconstructed[later], real[later])
  return {name: x for name, x in figures.items() if math.isfinite(x)} | {
    "protocol_clips": float(num_clips),
    "protocol_samples_per_clip": float(num_samples),
    "protocol_frames": float(num_frames),
    "protocol_given_frames": float(given_frames),
    "protocol_height": float(height),
    "protocol_width": float(width),
  }


def sentence(figures: Mapping[str, float | int]) -> str:
  """Returns the protocol of the figures in words; "" if they do not hold it."""
  names = ("clips", "samples_per_clip", "frames", "height", "width", "given_frames")
  if any(f"protocol_{name}" not in figures for name in names):
    return ""
  n, s, f, h, w, k = (f"{figures[f'protocol_{name}']:g}" for name in names)
  start = (
    f"from the first {_count(k, 'frame') if k != '1' else 'frame'} of each"
    if k != "0"
    else "for each, with no frame of it given to the model"
  )
  samples = f", {_count(s, 'sample')} {start}" if s != "0" else ", reconstructed"
  left_out = (
    "; given frames are left out of all figures but their own" if k != "0" else ""
  )
  return (
    f"Measured on {_count(n, 'held-out clip')} of {f} frames at {h}x{w} pixels"
    f" (height x width){samples}. PSNR is taken per frame on"
    " 8-bit pixels (0 to 255) and averaged over frames, clips and samples"
    f"{left_out}. Motion is compared over all frames."
  )


def _count(number: str, noun: str) -> str:
  return f"{number} {noun}" if number == "1" else f"{number} {noun}s"
