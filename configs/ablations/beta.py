r"""LaMD, ablation of the capacity of the latent: the effect of beta and d.

Trains both stages on the sky time-lapse clips, and measures reconstructions and samples
(`configs/landscape.py` says where the data come from):

    python -m lamd_jax.main --config=configs/ablations/beta.py:beta=1e-5,channels=4 \
      --config.data.path=DIR

`reduction` is the divisor of the KL, which the paper does not give: the number of
entries of a clip's latent, or the number of its pixel values, which makes the KL 256
times as weak or more.

`mini=shapes` and `mini=bair` are for two cores of a laptop, at 32x32, some minutes
each; `:smoke` goes through everything in a minute. `tests/benchmarks/lamd_ablations.py`
runs all of `configs/ablations` and prints a table.

Paper: Hu et al. 2023, arXiv:2304.11603, FVD of reconstructions and of samples: 58.59
and 100.7 at beta = 1e-2, d = 3; 37.35 and 127.1 at beta = 1e-5, d = 4. Expected: not
measured yet.
"""

import ml_collections

from lamd_jax.config import experiment_config, parse_arg
from lamd_jax.systems.lamd import smoke


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; see the module docstring."""
  args = parse_arg(
    arg,
    smoke=False,
    mini=("", "shapes", "bair"),
    beta=1e-2,
    channels=3,
    reduction=("latents", "pixels"),
  )
  config = experiment_config()
  config.system = "lamd"
  config.seed = 0
  config.compute_dtype = "bfloat16"

  config.data = dict(
    name="landscape", path="", num_frames=32, frame_stride=1, resolution=128
  )

  config.stages = ("mcd_vae", "dmg")
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
    loss=dict(
      kl_weight=args["beta"], kl_reduction=args["reduction"], perceptual="lpips_vgg"
    ),
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

  config.dmg = dict(
    model=dict(
      model_channels=224,
      channel_mults=(1, 2, 3, 4),
      num_res_blocks=2,
      attention_factors=(1, 2, 4),
      head_channels=32,
      context_channels=512,
    ),
    diffusion=dict(schedule="sqrt_linear", parameterization="eps"),
    train=dict(steps=300_000, batch_size=64, accumulate=1),
  )
  config.dmg.train.update(optimizer="adam", learning_rate=1e-4, weight_decay=0.01)
  config.dmg.train.update(warmup_steps=5000, schedule="constant", ema_decay=0.9999)
  config.dmg.train.update(log_every=100, checkpoint_every=5000, sample_every=0)

  config.sample = dict(checkpoint="latest", num_steps=200, eta=0.0, batch_size=64)
  config.evaluate = dict(
    num_clips=256,
    samples_per_clip=1,
    metrics=("fvd", "kvd", "ssim"),
    weights="weights",  # Folder of the networks that other metrics than FVD need.
  )

  if args["mini"] or args["smoke"]:
    config.compute_dtype = "float32"
    if args["mini"] == "shapes":
      config.data = dict(name="shapes", num_frames=16, frame_stride=1, resolution=32)
      config.data.update(num_train=4096, num_eval=128)
    if args["mini"] == "bair":
      config.data = dict(name="tfds", num_frames=16, frame_stride=1, resolution=32)
      config.data.update(tfds_name="bair_robot_pushing_small", data_dir="")
      config.data.image_key = "image_main"
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
    config.dmg.model.update(model_channels=64, channel_mults=(1, 2), num_res_blocks=1)
    config.dmg.model.update(attention_factors=(1, 2), context_channels=128)
    config.dmg.train.update(steps=450, batch_size=16)
    config.dmg.train.update(learning_rate=1e-3, weight_decay=0.0, ema_decay=0.995)
    config.dmg.train.update(warmup_steps=50, schedule="cosine")
    config.dmg.train.update(log_every=20, checkpoint_every=450)
    config.sample.update(num_steps=50, batch_size=16)
    config.evaluate.update(num_clips=128, metrics=())
  if args["smoke"]:
    smoke.shrink(config)
    config.data.update(num_train=16)
    config.mcd_vae.adversary.weight = 0.5
    config.mcd_vae.train.sample_every = 0
    config.dmg.train.ema_decay = 0.9
    config.evaluate.update(num_clips=4, samples_per_clip=1)
  return config
