r"""LaMD on NATOPS: 32 frames of 128x128 of one of 24 gestures, from one frame.

Trains both stages, samples, evaluates and writes a report:

    python -m lamd_jax.main --config=configs/natops.py --config.data.path=DIR

DIR is `data` of the original NATOPS download; `lamd_jax/data/sets/natops.py` says where
to get it, and which people are for training. `:small` is for one GPU; `:smoke` goes
through the whole job in about a minute, on moving shapes and their five classes.

LFDM measures 10,000 videos of 40 frames (`--config.data.num_frames=40`), and FVD within
each gesture (cFVD) and person (sFVD) too. The paper's number of frames is not known.
Expected: not measured yet.
Paper: Hu et al. 2023, arXiv:2304.11603; FVD 196.67, cFVD 432.62 (LFDM 195.17, 423.42).
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
    name="natops",
    path="",
    num_frames=32,
    sampling="uniform",
    fit="pad",
    resolution=128,
  )
  config.condition = dict(kind="class", num_classes=24)
  config.condition.dropout = 0.1  # The paper gives none; this lets one try guidance.

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
    train=dict(steps=200_000, batch_size=24, accumulate=1),
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
    num_clips=4320,
    samples_per_clip=1,
    metrics=("fvd", "kvd"),
    group_by=("label", "subject"),  # cFVD and sFVD.
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
    config.mcd_vae.train.update(steps=50_000, batch_size=8, warmup_steps=500)
    config.mcd_vae.train.update(checkpoint_every=1000, sample_every=1000)
    config.dmg.model.update(model_channels=64, channel_mults=(1, 2, 4))
    config.dmg.model.context_channels = 256
    config.dmg.train.update(steps=100_000, warmup_steps=1000)
    config.dmg.train.update(checkpoint_every=1000, sample_every=5000)
    config.evaluate.update(num_clips=256, group_by=())
  if args["smoke"]:
    smoke.shrink(config)
    config.condition.num_classes = 5
    config.evaluate.group_by = ()
  return config
