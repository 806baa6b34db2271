r"""LaMD on BAIR robot pushing: 16 frames of 64x64, from one given frame.

Trains both stages, samples, evaluates and writes a report:

    python -m lamd_jax.main --config=configs/bair.py --config.data.data_dir=DIR

DIR is where TFDS keeps its data; if BAIR is not there, a message says how to prepare
it. `bair.py:small` trains on one GPU; `bair.py:smoke` goes through the whole job in
about a minute, on moving shapes instead of BAIR.

The sizes that the paper gives are used here (a latent of 16x16x3, a DMG of 340 M
parameters, 200 DDIM steps), and so are its loss terms. It does not give widths,
discriminator, optimizer or number of steps; these follow latent diffusion. FVD is
measured on 256 test clips of 16 frames, once with the first frame as decoded and once
as given. Expected: not measured yet.
Paper: Hu et al. 2023, arXiv:2304.11603; FVD 57.0, reconstruction PSNR 31.64.
"""

import ml_collections

from lamd_jax.config import experiment_config, parse_arg
from lamd_jax.systems.lamd import smoke


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; see the module docstring."""
  args = parse_arg(arg, smoke=False, small=False)
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

  config.stages = ("mcd_vae", "dmg")
  config.mcd_vae = dict(
    model=dict(
      motion_channels=3,
      content_channels=512,
      encoder_channels=(128, 256, 512),
      motion_encoder_channels=(64, 128, 256),
      decoder_channels=(64, 128, 256),
      encoder_blocks=2,
      decoder_blocks=(2, 2, 2),
      kernels=((3, 3, 3), (3, 3, 3)),
    ),
    # LPIPS needs the extra `metrics`.
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
  config.mcd_vae.train.update(log_every=100, checkpoint_every=5000, sample_every=5000)

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
  config.dmg.train.update(log_every=100, checkpoint_every=5000, sample_every=10_000)

  # Samplers: "ddim", "ddpm", "heun", "dpmpp_2m". Checkpoints: "latest", or "best" by
  # run.keep_best. A guidance of 1 is none.
  config.sample = dict(checkpoint="latest", batch_size=64)
  config.sample.update(sampler="ddim", num_steps=200, eta=0.0, guidance=1.0)
  config.sample.update(overlap=1, frames_weight=1.0)  # Windows of longer videos.
  config.evaluate = dict(
    num_clips=256,
    samples_per_clip=5,
    metrics=("fvd", "kvd"),
    substitute_given=True,  # FVD also with the given frame in place of its decoding.
    weights="weights",  # Folder of the networks that other metrics than FVD need.
  )

  if args["small"]:  # One GPU.
    config.mcd_vae.model.update(
      content_channels=256,
      encoder_channels=(64, 128, 256),
      motion_encoder_channels=(32, 64, 128),
      decoder_channels=(32, 64, 128),
      encoder_blocks=1,
      decoder_blocks=(1, 1, 1),
    )
    config.mcd_vae.adversary.start = 20_000
    config.mcd_vae.adversary.model.channels = (32, 64, 128, 256)
    config.mcd_vae.train.update(steps=50_000, batch_size=16, warmup_steps=500)
    config.mcd_vae.train.update(checkpoint_every=1000, sample_every=1000)
    config.dmg.model.update(model_channels=64, channel_mults=(1, 2, 4))
    config.dmg.model.context_channels = 256
    config.dmg.train.update(steps=100_000, warmup_steps=1000)
    config.dmg.train.update(checkpoint_every=1000, sample_every=5000)
  if args["smoke"]:
    smoke.shrink(config)
  return config
