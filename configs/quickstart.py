r"""LaMD on moving shapes: the whole job on two cores of a laptop, in 12 minutes.

    python -m lamd_jax.main --config=configs/quickstart.py

Needs no data: the shapes are drawn on demand. More minutes are more steps, of the
same model (an hour here); `:smoke` goes through everything in a minute:

    python -m lamd_jax.main --config=configs/quickstart.py:minutes=60
    python -m lamd_jax.main --config=configs/quickstart.py:smoke

Paper: Hu et al. 2023, arXiv:2304.11603. The losses here are its L1 and KL terms.
"""

import ml_collections

from lamd_jax.config import parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; see the module docstring."""
  args = parse_arg(arg, smoke=False, minutes=12)
  smoke = args["smoke"]
  training = max(args["minutes"] - 3, 1)  # Three go to compiling and sampling.
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
    name="shapes",
    num_frames=16,
    frame_stride=1,
    resolution=32,
    num_train=64 if smoke else 4096,
    num_eval=4 if smoke else 64,
  )

  config.stages = ("mcd_vae", "dmg")
  config.mcd_vae = dict(
    model=dict(
      motion_channels=3,
      content_channels=16 if smoke else 64,
      encoder_channels=(8, 8, 16) if smoke else (24, 32, 64),
      motion_encoder_channels=(4, 8, 16) if smoke else (8, 24, 48),
      decoder_channels=(4, 8, 16) if smoke else (24, 48, 64),
      encoder_blocks=1,
      decoder_blocks=(0, 1, 1),
      kernels=((1, 3, 3), (3, 1, 1)),
    ),
    # With the paper's 1e-2 so few updates hardly make anything move.
    loss=dict(kl_weight=1e-3, kl_reduction="latents"),
    train=dict(
      steps=20 if smoke else 120 * training,
      batch_size=4,
      accumulate=1,
      optimizer="muon",
      learning_rate=3e-3,
      warmup_steps=5 if smoke else 50,
      schedule="cosine",
      b2=0.99,
      ema_decay=0.99,
      log_every=10,
      checkpoint_every=10 if smoke else 400,
      sample_every=10 if smoke else 400,
    ),
  )
  config.dmg = dict(
    model=dict(
      model_channels=16 if smoke else 64,
      channel_mults=(1, 2),
      num_res_blocks=1,
      attention_factors=(1, 2),
      head_channels=16 if smoke else 32,
      context_channels=16 if smoke else 128,
    ),
    diffusion=dict(schedule="sqrt_linear", parameterization="eps"),
    train=dict(
      steps=20 if smoke else 50 * training,
      batch_size=4 if smoke else 16,
      accumulate=1,
      optimizer="adam",
      learning_rate=1e-3,
      warmup_steps=5 if smoke else 50,
      schedule="cosine",
      ema_decay=0.995,
      log_every=10,
      checkpoint_every=10 if smoke else 400,
      sample_every=0,
    ),
  )

  config.sample = dict(
    checkpoint="latest",  # Or "best", by run.keep_best.
    num_steps=10 if smoke else 50,
    sampler="ddim",  # Or "ddpm", "heun", "dpmpp_2m".
    eta=0.0,
    guidance=1.0,  # Classifier-free, for models with a condition.
    overlap=1,  # Of windows of longer videos.
    frames_weight=1.0,
    batch_size=16,
  )
  config.evaluate = dict(
    num_clips=4 if smoke else 32,
    samples_per_clip=5,
    metrics=(),  # Such as ("fvd",), with the extra `metrics`; from 64 clips on.
    weights="weights",  # A folder with networks other than I3D, if metrics need them.
  )
  return config
