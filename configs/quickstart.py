r"""LaMD on moving shapes: the whole job on two cores of a laptop, in 12 minutes.

    python -m lamd_jax.main --config=configs/quickstart.py

Needs no data: the shapes are drawn on demand. More minutes buy more steps of the same
model; `:smoke` goes through everything in a minute:

    python -m lamd_jax.main --config=configs/quickstart.py:minutes=60
    python -m lamd_jax.main --config=configs/quickstart.py:smoke

Paper: Hu et al. 2023, arXiv:2304.11603. The losses here are its L1 and KL terms.
"""

import ml_collections

from lamd_jax.config import experiment_config, parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; see the module docstring."""
  args = parse_arg(arg, smoke=False, minutes=12)
  training = max(args["minutes"] - 3, 1)  # Compiling and sampling take three.
  config = experiment_config()
  config.system = "lamd"
  config.seed = 0
  config.compute_dtype = "float32"

  config.data = dict(name="shapes", num_frames=16, frame_stride=1, resolution=32)
  config.data.update(num_train=4096, num_eval=64)

  config.stages = ("mcd_vae", "dmg")
  config.mcd_vae = dict(
    model=dict(
      motion_channels=3,
      content_channels=64,
      encoder_channels=(24, 32, 64),
      motion_encoder_channels=(8, 24, 48),
      decoder_channels=(24, 48, 64),
      encoder_blocks=1,
      decoder_blocks=(0, 1, 1),
      kernels=((1, 3, 3), (3, 1, 1)),
    ),
    # With the paper's 1e-2, so few updates make hardly anything move.
    loss=dict(kl_weight=1e-3, kl_reduction="latents"),
    train=dict(steps=120 * training, batch_size=4, accumulate=1),
  )
  config.mcd_vae.train.update(optimizer="muon", learning_rate=3e-3, b2=0.99)
  config.mcd_vae.train.update(warmup_steps=50, schedule="cosine", ema_decay=0.99)
  config.mcd_vae.train.update(log_every=10, checkpoint_every=400, sample_every=400)

  config.dmg = dict(
    model=dict(
      model_channels=64,
      channel_mults=(1, 2),
      num_res_blocks=1,
      attention_factors=(1, 2),
      head_channels=32,
      context_channels=128,
    ),
    diffusion=dict(schedule="sqrt_linear", parameterization="eps"),
    train=dict(steps=50 * training, batch_size=16, accumulate=1),
  )
  config.dmg.train.update(optimizer="adam", learning_rate=1e-3, ema_decay=0.995)
  config.dmg.train.update(warmup_steps=50, schedule="cosine")
  config.dmg.train.update(log_every=10, checkpoint_every=400, sample_every=0)

  # Samplers: "ddim", "ddpm", "heun", "dpmpp_2m". Checkpoints: "latest", or "best" by
  # run.keep_best. A guidance of 1 is none.
  config.sample = dict(checkpoint="latest", batch_size=16)
  config.sample.update(sampler="ddim", num_steps=50, eta=0.0, guidance=1.0)
  config.sample.update(overlap=1, frames_weight=1.0)  # Windows of longer videos.
  config.evaluate = dict(
    num_clips=32,
    samples_per_clip=5,
    metrics=(),  # For example ("fvd",), with the extra `metrics`; from 64 clips on.
    weights="weights",  # Folder of the networks that other metrics than FVD need.
  )

  if args["smoke"]:
    config.data.update(num_train=64, num_eval=4)
    config.mcd_vae.model.update(
      content_channels=16,
      encoder_channels=(8, 8, 16),
      motion_encoder_channels=(4, 8, 16),
      decoder_channels=(4, 8, 16),
    )
    config.mcd_vae.train.update(steps=20, warmup_steps=5)
    config.mcd_vae.train.update(checkpoint_every=10, sample_every=10)
    config.dmg.model.update(model_channels=16, head_channels=16, context_channels=16)
    config.dmg.train.update(steps=20, batch_size=4, warmup_steps=5, checkpoint_every=10)
    config.sample.num_steps = 10
    config.evaluate.num_clips = 4
  return config
