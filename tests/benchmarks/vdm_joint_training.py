"""VDM on moving shapes: images beside videos, and guidance against replacement.

    pip install -e '.[metrics]'
    JAX_PLATFORMS=cpu python tests/benchmarks/vdm_joint_training.py --output=table.md

Small counterparts of tables 4 and 6 of Ho et al. 2022 (arXiv:2204.03458). Models are
trained for equally many steps with 0, 4 and 8 images for each video. Samples of one of
them are then extended to four blocks twice, from the same noise: with reconstruction
guidance and by replacement. The first block is the same.
"""

import argparse
import importlib.util
import pathlib
import tempfile
import time

from absl import logging
import jax
import numpy as np

from lamd_jax.data import pipeline, sources
from lamd_jax.experiment import trained, workdir
from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import train
from lamd_jax.metrics import features, frechet, motion
from lamd_jax.systems import pixels, windows

ROOT = pathlib.Path(__file__).parents[2]
BLOCKS = 4


def configuration(num_images, args):
  """`configs/vdm_shapes.py`, smaller."""
  path = ROOT / "configs/vdm_shapes.py"
  spec = importlib.util.spec_from_file_location("vdm_shapes", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  config.data.resolution = args.resolution
  config.data.num_eval = 2 * args.num_clips
  config.images.num = num_images
  config.base.train.steps = args.steps
  config.base.train.batch_size = args.batch_size
  config.base.train.checkpoint_every = args.steps
  config.base.train.log_every = 50
  config.sample.num_steps = args.sampling_steps
  config.seed = args.seed
  return config


def sampler(config, folder, method):
  """A function from a key and what is known to videos, of one trained model."""
  with config.sample.unlocked():
    config.sample.method = method
  stage, params, *_ = trained.load(make_run(config, folder), "base")
  return jax.jit(
    lambda key, video, is_known=None: stage.sample_window(
      params, {}, key, video, is_known
    )
  )


def extended(run, first, key, config):
  """Goes on to `BLOCKS` blocks after the first one."""
  window, overlap = config.data.num_frames, config.sample.overlap
  whole = windows.extended(first, window + (BLOCKS - 1) * (window - overlap))

  def sample(key, part):
    return run(key, part.video, part.is_known)

  *_, (_, video) = windows.fill(sample, key, whole, window=window, overlap=overlap)
  return video


def to_uint8(video):
  """Pixels in [-1, 1] as bytes."""
  return np.asarray(pixels.to_uint8(jax.numpy.asarray(video)))


def boundary(videos, config):
  """Change at the first frame of a new block over the mean change elsewhere."""
  window, overlap = config.data.num_frames, config.sample.overlap
  change = np.abs(np.diff(videos.astype(np.int16), axis=1)).mean(axis=(0, 2, 3, 4))
  starts = np.arange(window, videos.shape[1], window - overlap) - 1
  return change[starts].mean() / np.delete(change, starts).mean()


def main():
  """Prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--steps", type=int, default=1000)
  parser.add_argument("--batch_size", type=int, default=8)
  parser.add_argument("--resolution", type=int, default=8)
  parser.add_argument("--sampling_steps", type=int, default=64)
  parser.add_argument("--num_clips", type=int, default=64)
  parser.add_argument("--images", type=int, nargs="+", default=[0, 4, 8])
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--folder", type=pathlib.Path, help="keeps the trained models")
  parser.add_argument("--output", type=pathlib.Path)
  args = parser.parse_args()
  logging.set_verbosity(logging.WARNING)
  root = args.folder or pathlib.Path(tempfile.mkdtemp())
  detector = features.i3d_detector()
  of = lambda videos: features.features(detector, list(videos), cache=root / "features")
  score = lambda real, videos: (
    f"{frechet.frechet_distance(real, of(videos)):.0f} |"
    f" {frechet.kernel_distance(real, of(videos)):.1f}"
  )
  lines = []

  def say(line):
    lines.append(line)
    print(line, flush=True)

  config = configuration(0, args)
  window, overlap = config.data.num_frames, config.sample.overlap
  length = window + (BLOCKS - 1) * (window - overlap)
  data, stride = config.data.to_dict(), config.data.frame_stride
  source = sources.make_source(data | {"num_frames": length}, "eval")
  clips = pipeline.eval_clips(source, 2 * args.num_clips, length, stride)
  # I3D needs nine frames: of samples of one block each frame is shown twice.
  short = lambda videos: np.repeat(videos[:, :window], 2, axis=1)
  halves = clips[: args.num_clips], clips[args.num_clips :]
  say(
    f"{args.steps} steps of {args.batch_size} videos, {window} frames of"
    f" {args.resolution}x{args.resolution}, {args.sampling_steps} sampling steps, seed"
    f" {args.seed}, FVD@{args.num_clips}"
  )
  say("\n| images per video | FVD | KVD | motion | seconds of training |")
  say("| --- | --- | --- | --- | --- |")
  real_short, real_long = of(short(halves[0])), of(halves[0])
  say(f"| other real clips | {score(real_short, short(halves[1]))} | 1 | |")
  runs = {}
  zeros = np.zeros((args.num_clips, window, *clips.shape[2:]), np.float32)
  for num_images in args.images:
    config = configuration(num_images, args)
    folder = root / f"images_{num_images}"
    experiment = make_run(config, folder)
    workdir.open_workdir(experiment)
    started = time.monotonic()
    train.train(experiment)
    seconds = time.monotonic() - started
    run = sampler(config, folder, "reconstruction")
    first = np.asarray(run(jax.random.key(1), zeros))
    runs[num_images] = folder, config, first
    videos = to_uint8(first)
    moves = motion.motion_ratio(videos, halves[0][:, :window])
    say(
      f"| {num_images} | {score(real_short, short(videos))} | {moves:.2f} |"
      f" {seconds:.0f} |"
    )
  folder, config, first = runs[args.images[-1]]
  say(f"\nExtended to {BLOCKS} blocks, {length} frames, {args.images[-1]} images:")
  say("\n| conditioning | FVD | KVD | change at block boundaries over inside |")
  say("| --- | --- | --- | --- |")
  found = boundary(halves[1], config)
  say(f"| other real clips | {score(real_long, halves[1])} | {found:.2f} |")
  for method in ("reconstruction", "replacement"):
    run = sampler(config, folder, method)
    videos = to_uint8(extended(run, first, jax.random.key(2), config))
    np.testing.assert_array_equal(videos[:, :window], to_uint8(first))
    np.save(root / f"{method}.npy", videos)
    found = boundary(videos, config)
    say(f"| {method} | {score(real_long, videos)} | {found:.2f} |")
  if args.output:
    args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
