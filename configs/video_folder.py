r"""LaMD on any folder of videos: 16 frames of 64x64, from one given frame.

    python -m lamd_jax.main --config=configs/video_folder.py \
      --config.data.path=my_clips

Reads video files of all kinds and folders of frames, in subfolders too. From ten videos
on, a tenth of them is held out for evaluation; with fewer, the end of each. With
`--config.data.frame_stride=3` it takes every third frame, and a clip has more motion.
`:smoke` goes through the whole job in about a minute, on moving shapes.

Sizes and steps suit one GPU and thousands of short clips that move alike.
Expected: not measured yet.
Paper: Hu et al. 2023, arXiv:2304.11603.
"""

import ml_collections

from lamd_jax.config import experiment_config, parse_arg
from lamd_jax.systems.lamd import smoke


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; see the module docstring."""
  args = parse_arg(arg, smoke=False)
  config = experiment_config()
  config.system = "lamd"
  config.seed = 0
  config.compute_dtype = "float32"

  config.data = dict(
    name="video_folder", path="", num_frames=16, frame_stride=2, resolution=64
  )

  config.stages = ("mcd_vae", "dmg")
  config.mcd_vae = dict(
    model=dict(
      motion_channels=3,
      content_channels=256,
      encoder_channels=(64, 128, 256),
      motion_encoder_channels=(32, 64, 128),
      decoder_channels=(32, 64, 128),
      encoder_blocks=1,
      decoder_blocks=(1, 1, 1),
      kernels=((1, 3, 3), (3, 1, 1)),
    ),
    # With the extra `metrics`, perceptual="lpips_vgg" or "i3d" gives sharper pictures.
    loss=dict(kl_weight=1e-2, kl_reduction="latents", perceptual="none"),
    train=dict(steps=50_000, batch_size=16, accumulate=1),
  )
  config.mcd_vae.train.update(optimizer="adam", learning_rate=5e-4, ema_decay=0.999)
  config.mcd_vae.train.update(warmup_steps=100, schedule="cosine")
  config.mcd_vae.train.update(log_every=50, checkpoint_every=1000, sample_every=1000)

  config.dmg = dict(
    model=dict(
      model_channels=64,
      channel_mults=(1, 2, 4),
      num_res_blocks=2,
      attention_factors=(1, 2, 4),
      head_channels=32,
      context_channels=256,
    ),
    diffusion=dict(schedule="sqrt_linear", parameterization="eps"),
    train=dict(steps=100_000, batch_size=32, accumulate=1),
  )
  config.dmg.train.update(optimizer="adam", learning_rate=1e-4, weight_decay=0.01)
  config.dmg.train.update(warmup_steps=100, schedule="cosine", ema_decay=0.9999)
  config.dmg.train.update(log_every=50, checkpoint_every=1000, sample_every=5000)

  # Samplers: "ddim", "ddpm", "heun", "dpmpp_2m". Checkpoints: "latest", or "best" by
  # run.keep_best. A guidance of 1 is none.
  config.sample = dict(checkpoint="latest", batch_size=16)
  config.sample.update(sampler="ddim", num_steps=200, eta=0.0, guidance=1.0)
  config.sample.update(overlap=1, frames_weight=1.0)  # Windows of longer videos.
  config.evaluate = dict(
    num_clips=64,
    samples_per_clip=5,
    metrics=(),  # For example ("fvd",), with the extra `metrics`; from 64 clips on.
    weights="weights",  # Folder of the networks that other metrics than FVD need.
  )

  if args["smoke"]:
    smoke.shrink(config)
    config.sample.batch_size = 16
    config.evaluate.metrics = ()
  return config
