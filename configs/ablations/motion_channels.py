r"""LaMD, ablation of d, the channels of the motion latent: reconstruction alone.

Trains the first stage on BAIR and measures its reconstructions:

    python -m lamd_jax.main --config=configs/ablations/motion_channels.py:channels=2 \
      --config.data.data_dir=DIR

`mini=shapes` and `mini=bair` are for two cores of a laptop, at 32x32, some minutes
each; `:smoke` goes through everything in a minute. `tests/benchmarks/lamd_ablations.py`
runs all of `configs/ablations` and prints a table.

Paper: Hu et al. 2023, arXiv:2304.11603, ablation of motion capacity on BAIR, FVD of
reconstructions at d = 1, 2, 3, 4: 41.91, 42.96, 36.05, 38.84. Expected: not measured
yet.
"""

import ml_collections

from lamd_jax.config import experiment_config, parse_arg
from lamd_jax.systems.lamd import smoke


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; see the module docstring."""
  args = parse_arg(arg, smoke=False, mini=("", "shapes", "bair"), channels=3)
  config = experiment_config()
  config.system = "lamd"
  config.seed = 0
  config.compute_dtype = "bfloat16"

  config.data = dict(
    name="tfds",
    tfds_name="bair_robot_pushing_small",
    data_dir="",
    image_key="image_main",
    num_frames=16,
    frame_stride=1,
    resolution=64,
  )

  config.stages = ("mcd_vae",)
  config.mcd_vae = dict(
    model=dict(
      motion_channels=args["channels"],
      latent_frames=1,
      content_channels=512,
      encoder_channels=(128, 256, 512),
      motion_encoder_channels=(64, 128, 256),
      decoder_channels=(64, 128, 256),
      encoder_blocks=2,
      decoder_blocks=(2, 2, 2),
      kernels=((3, 3, 3), (3, 3, 3)),
    ),
    loss=dict(kl_weight=1e-2, kl_reduction="latents", perceptual="lpips_vgg"),
    adversary=dict(
      start=50_000,
      weight=0.5,
      form="hinge",
      model=dict(channels=(64, 128, 256, 512), frame_strides=(2, 2, 2)),
    ),
    train=dict(steps=200_000, batch_size=32, accumulate=1),
  )
  config.mcd_vae.train.update(optimizer="adam", learning_rate=1e-4, b1=0.5, b2=0.9)
  config.mcd_vae.train.update(warmup_steps=1000, schedule="constant", ema_decay=0.999)
  config.mcd_vae.train.update(log_every=100, checkpoint_every=5000, sample_every=0)

  config.sample = dict(checkpoint="latest", batch_size=64)
  config.evaluate = dict(
    num_clips=256,
    samples_per_clip=1,
    metrics=("fvd", "kvd", "ssim"),
    weights="weights",  # Folder of the networks that other metrics than FVD need.
  )

  if args["mini"] or args["smoke"]:
    config.compute_dtype = "float32"
    config.data.resolution = 32
    if args["mini"] == "shapes":
      config.data = dict(name="shapes", num_frames=16, frame_stride=1, resolution=32)
      config.data.update(num_train=4096, num_eval=128)
    config.mcd_vae.model.update(
      content_channels=64,
      encoder_channels=(24, 32, 64),
      motion_encoder_channels=(8, 24, 48),
      decoder_channels=(24, 48, 64),
      encoder_blocks=1,
      decoder_blocks=(0, 1, 1),
      kernels=((1, 3, 3), (3, 1, 1)),
    )
    config.mcd_vae.loss.perceptual = "none"
    config.mcd_vae.adversary.update(start=0, weight=0.0)  # No adversary.
    config.mcd_vae.adversary.model.update(channels=(8, 16), frame_strides=(2,))
    config.mcd_vae.train.update(steps=800, batch_size=4)
    config.mcd_vae.train.update(optimizer="muon", learning_rate=3e-3, b1=0.9, b2=0.99)
    config.mcd_vae.train.update(warmup_steps=50, schedule="cosine", ema_decay=0.99)
    config.mcd_vae.train.update(log_every=20, checkpoint_every=400)
    config.sample.batch_size = 16
    config.evaluate.update(num_clips=128, metrics=())
  if args["smoke"]:
    smoke.shrink(config)
    config.data.update(num_train=16)
    config.mcd_vae.adversary.weight = 0.5
    config.mcd_vae.train.sample_every = 0
    config.evaluate.update(num_clips=4, samples_per_clip=1)
  return config
