"""The smallest configuration that goes through every part of the job, for tests."""

import ml_collections

from lamd_jax.config import experiment_config, parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; `:steps=6` trains each stage for so many steps."""
  steps = parse_arg(arg, steps=4)["steps"]
  config = experiment_config()
  config.system = "lamd"
  config.seed = 3
  config.compute_dtype = "float32"
  config.data = dict(
    name="shapes",
    num_frames=3,
    frame_stride=1,
    resolution=8,
    num_train=20,
    num_eval=4,
  )
  config.stages = ("mcd_vae", "dmg")
  config.mcd_vae = dict(
    model=dict(
      motion_channels=3,
      content_channels=4,
      encoder_channels=(4, 8),
      motion_encoder_channels=(4, 8),
      decoder_channels=(4, 8),
      encoder_blocks=0,
      decoder_blocks=(0, 0),
      kernels=((1, 3, 3), (3, 1, 1)),
    ),
    loss=dict(kl_weight=1e-2),
    adversary=dict(
      start=1, weight=0.5, model=dict(channels=(4, 4), frame_strides=(2,))
    ),
    train=dict(
      steps=steps,
      batch_size=8,
      accumulate=1,
      learning_rate=1e-3,
      ema_decay=0.9,
      log_every=1,
      checkpoint_every=2,
      sample_every=2,
    ),
  )
  config.dmg = dict(
    model=dict(
      model_channels=8,
      channel_mults=(1,),
      num_res_blocks=1,
      attention_factors=(),
      head_channels=4,
      context_channels=8,
    ),
    diffusion=dict(schedule="sqrt_linear", parameterization="eps"),
    train=dict(
      steps=steps,
      batch_size=8,
      accumulate=1,
      learning_rate=1e-3,
      warmup_steps=1,
      schedule="cosine",
      ema_decay=0.9,
      log_every=1,
      checkpoint_every=2,
      sample_every=0,
    ),
  )
  config.sample = dict(checkpoint="latest", num_steps=3, eta=0.0, batch_size=8)
  config.evaluate = dict(
    num_clips=4, samples_per_clip=2, metrics=("motion",), weights="weights"
  )
  return config
