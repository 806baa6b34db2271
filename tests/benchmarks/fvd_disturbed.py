"""FVD of real clips that were disturbed, more and more: it must rise with each step.

    pip install -e '.[metrics]'
    python tests/benchmarks/fvd_disturbed.py --data_dir=DATA --output=table.md

Of BAIR's training episodes (the first 16 frames, camera `image_main`) some are
disturbed: noise, blur, a share of the frames in another order, a share frozen. They
are measured against the same clips undisturbed, where the score begins at 0, and
against as many others, where it begins at what other real clips score. That is large
at small counts, and hides disturbances that are smaller.
"""

import argparse
import pathlib

import numpy as np
import scipy.ndimage
import tqdm

from lamd_jax.data import pipeline, sources
from lamd_jax.metrics import features, frechet

FRAMES = 16


def noisy(clip, sigma, rng):
  """Adds Gaussian noise, in grey levels."""
  noise = rng.normal(0.0, sigma, clip.shape)
  return np.clip(np.rint(clip + noise), 0, 255).astype(np.uint8)


def blurred(clip, sigma, rng):
  """Blurs each frame by a Gaussian, in pixels."""
  del rng
  return scipy.ndimage.gaussian_filter(clip, (0, sigma, sigma, 0))


def chosen(share, rng):
  """Some of the frames after the first."""
  count = round(share * (FRAMES - 1))
  return np.sort(rng.choice(np.arange(1, FRAMES), count, replace=False))


def shuffled(clip, share, rng):
  """Puts a share of the frames in each other's places."""
  places, order = chosen(share, rng), np.arange(FRAMES)
  order[places] = rng.permutation(places)
  return clip[order]


def frozen(clip, share, rng):
  """Replaces a share of the frames by the one before."""
  order = np.arange(FRAMES)
  order[chosen(share, rng)] = 0
  return clip[np.maximum.accumulate(order)]


DISTURBANCES = {
  "noise, grey levels": (noisy, (2, 5, 10, 20)),
  "blur, pixels": (blurred, (0.5, 1, 2, 4)),
  "shuffled share": (shuffled, (0.25, 0.5, 0.75, 1)),
  "frozen share": (frozen, (0.25, 0.5, 0.75, 1)),
}


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--data_dir", required=True)
  parser.add_argument("--num_clips", type=int, default=80)
  parser.add_argument("--resize_rule", default="half_pixel")
  parser.add_argument("--cache", type=pathlib.Path, default=None)
  parser.add_argument("--output", type=pathlib.Path, default=None)
  args = parser.parse_args()
  data = dict(
    name="tfds",
    tfds_name="bair_robot_pushing_small",
    data_dir=args.data_dir,
    image_key="image_main",
    num_frames=FRAMES,
    resolution=64,
  )
  source = sources.make_source(data, "train")
  clips = pipeline.eval_clips(source, 2 * args.num_clips, FRAMES, 1)
  others, clips = clips[: args.num_clips], clips[args.num_clips :]
  detector = features.i3d_detector(resize_rule=args.resize_rule)
  of = lambda clips: features.features(
    detector, tqdm.tqdm(clips, disable=None), cache=args.cache
  )
  against = {"the same": of(clips), "others": of(others)}
  undisturbed = frechet.frechet_distance(against["the same"], against["others"])
  lines = [
    f"FVD@{len(clips)}, {detector.name}, {args.resize_rule}; against others,"
    f" undisturbed: {undisturbed:.0f}",
    "",
    "| disturbance | against | least | | | most | rises |",
    "| --- | --- | --- | --- | --- | --- | --- |",
  ]
  for name, (disturb, amounts) in DISTURBANCES.items():
    found = []
    for amount in amounts:
      rng = np.random.default_rng(0)
      found.append(of(disturb(clip, amount, rng) for clip in clips))
    for whom, reference in against.items():
      values = [frechet.frechet_distance(reference, x) for x in found]
      first = undisturbed if whom == "others" else 0.0
      rises = "yes" if np.all(np.diff([first, *values]) > 0) else "no"
      cells = (f"{a}: {v:.0f}" for a, v in zip(amounts, values, strict=True))
      lines.append(f"| {name} | {whom} | {' | '.join(cells)} | {rises} |")
    print(*lines[-2:], sep="\n", flush=True)
  print(*lines, sep="\n")
  if args.output:
    args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
