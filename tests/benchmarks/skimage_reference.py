"""Runs scikit-image's SSIM and PSNR and keeps their values.

    pip install scikit-image==0.26.0
    python tests/benchmarks/skimage_reference.py

Writes tests/metrics/skimage_reference.npz, which `image_test.py` compares with: for
each size the two values of each pair of frames, which are made from a seed.
"""

import pathlib
import sys

import numpy as np
from skimage import metrics

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "helpers"))
import seeded  # noqa: E402

OUT = TESTS / "metrics/skimage_reference.npz"
SIZES = ((11, 11), (11, 40), (33, 24), (64, 64), (90, 121))


def main():
  """Writes the file."""
  out = {}
  for height, width in SIZES:
    pairs = list(zip(*seeded.frame_pairs(4, 3, height, width), strict=True))
    ssim = [
      metrics.structural_similarity(
        a,
        b,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=-1,
      )
      for a, b in pairs
    ]
    psnr = [metrics.peak_signal_noise_ratio(a, b, data_range=255) for a, b in pairs]
    out[f"ssim {height} {width}"], out[f"psnr {height} {width}"] = ssim, psnr
    print(height, width, ssim, psnr)
  np.savez_compressed(OUT, **out)
  print(f"{len(out)} arrays in {OUT} ({OUT.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
  main()
