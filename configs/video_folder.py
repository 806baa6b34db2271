r"""LaMD on any folder of videos: 16 frames of 64x64, from one given frame.

    python -m lamd_jax.main --config=configs/video_folder.py \
        --config.data.path=my_clips

mp4, mov, avi, mkv, webm, gif, and folders of frames; found in subfolders too. From
ten videos on, a tenth of them is held out for evaluation; with fewer, the end of
each. `frame_stride` takes every second frame, third, and so on: more motion in a
clip. `:smoke` goes through the whole job in about a minute, on moving shapes.

Sizes and steps are for one GPU and clips that move alike: thousands of short ones.
Expected: not measured yet.
Paper: Hu et al. 2023, arXiv:2304.11603.
"""

import ml_collections

from lamd_jax.config import parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; see the module docstring."""
  smoke = parse_arg(arg, smoke=False)["smoke"]
  config = ml_collections.ConfigDict()
  config.system = "lamd"
  config.seed = 0
  config.compute_dtype = "float32"
  config.mesh = dict(data=-1, fsdp=1, tensor=1, context=1)
  # How it is run, not what is learned: configs/README.md.
  config.run = dict(
    remat="none", on_nonfinite="stop", keep_best="", log_examples=False, wandb=""
  )

  config.data = dict(
    name="video_folder", path="", num_frames=16, frame_stride=2, resolution=64
  )
  if smoke:
    config.data = dict(
      name="shapes", num_frames=16, frame_stride=1, resolution=16, num_eval=4
    )

  config.stages = ("mcd_vae", "dmg")
  config.mcd_vae = dict(
    model=dict(
      motion_channels=3,
      content_channels=16 if smoke else 256,
      encoder_channels=(8, 8, 16) if smoke else (64, 128, 256),
      motion_encoder_channels=(4, 8, 16) if smoke else (32, 64, 128),
      decoder_channels=(4, 8, 16) if smoke else (32, 64, 128),
      encoder_blocks=1,
      decoder_blocks=(0, 1, 1) if smoke else (1, 1, 1),
      kernels=((1, 3, 3), (3, 1, 1)),
    ),
    # With the extra `metrics`, perceptual="lpips_vgg" or "i3d" gives sharper pictures.
    loss=dict(kl_weight=1e-2, kl_reduction="latents", perceptual="none"),
    train=dict(
      steps=10 if smoke else 50_000,
      batch_size=4 if smoke else 16,
      accumulate=1,
      optimizer="adam",
      learning_rate=5e-4,
      warmup_steps=5 if smoke else 100,
      schedule="cosine",
      ema_decay=0.999,
      log_every=5 if smoke else 50,
      checkpoint_every=5 if smoke else 1000,
      sample_every=10 if smoke else 1000,
    ),
  )
  config.dmg = dict(
    model=dict(
      model_channels=16 if smoke else 64,
      channel_mults=(1, 2) if smoke else (1, 2, 4),
      num_res_blocks=1 if smoke else 2,
      attention_factors=(1, 2) if smoke else (1, 2, 4),
      head_channels=16 if smoke else 32,
      context_channels=16 if smoke else 256,
    ),
    diffusion=dict(schedule="sqrt_linear", parameterization="eps"),
    train=dict(
      steps=10 if smoke else 100_000,
      batch_size=4 if smoke else 32,
      accumulate=1,
      optimizer="adam",
      learning_rate=1e-4,
      warmup_steps=5 if smoke else 100,
      schedule="cosine",
      weight_decay=0.01,
      ema_decay=0.9999,
      log_every=5 if smoke else 50,
      checkpoint_every=5 if smoke else 1000,
      sample_every=0 if smoke else 5000,
    ),
  )

  config.sample = dict(
    checkpoint="latest",  # Or "best", by run.keep_best.
    num_steps=5 if smoke else 200,
    sampler="ddim",  # Or "ddpm", "heun", "dpmpp_2m".
    eta=0.0,
    guidance=1.0,  # Classifier-free, for models with a condition.
    overlap=1,  # Of windows of longer videos.
    frames_weight=1.0,
    batch_size=16,
  )
  config.evaluate = dict(
    num_clips=2 if smoke else 64,
    samples_per_clip=2 if smoke else 5,
    metrics=(),  # Such as ("fvd",), with the extra `metrics`; from 64 clips on.
    weights="weights",  # A folder with networks other than I3D, if metrics need them.
  )
  return config
