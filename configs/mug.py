r"""LaMD on MUG: 32 frames of one of seven expressions, from one frame.

Trains both stages, samples, evaluates and writes a report, at 128x128 or 256x256:

    python -m lamd_jax.main --config=configs/mug.py --config.data.path=DIR
    python -m lamd_jax.main --config=configs/mug.py:resolution=256 ...

DIR is the original download, `lamd_jax/data/mug.py` says from where, and which people
are for training. `:small` is for one GPU; `:smoke` goes through the whole job in
about a minute, on moving shapes and their five classes of motion.

LFDM measures 10,000 videos of 40 frames (`--config.data.num_frames=40`), and FVD within
each expression and person too. The paper's number of frames is not known. Expected:
not measured yet.
Paper: Hu et al. 2023, arXiv:2304.11603; FVD 49.62 at 256x256.
"""

import ml_collections

from lamd_jax.config import parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; see the module docstring."""
  args = parse_arg(arg, smoke=False, small=False, resolution=(128, 256))
  smoke, small = args["smoke"], args["small"]

  def pick(full, for_small, for_smoke):
    return for_smoke if smoke else for_small if small else full

  config = ml_collections.ConfigDict()
  config.system = "lamd"
  config.seed = 0
  config.compute_dtype = "float32" if smoke else "bfloat16"
  config.mesh = dict(data=-1, fsdp=1, tensor=1, context=1)
  # How it is run, not what is learned: configs/README.md.
  config.run = dict(
    remat="none", on_nonfinite="stop", keep_best="", log_examples=False, wandb=""
  )

  config.data = dict(
    name="mug",
    path="",
    num_frames=32,
    sampling="uniform",
    resolution=args["resolution"],
  )
  if smoke:
    config.data = dict(
      name="shapes", num_frames=16, frame_stride=1, resolution=16, num_eval=4
    )
  config.condition = dict(
    kind="class",
    num_classes=5 if smoke else 7,
    dropout=0.1,  # So that guidance can be tried; the paper names none.
  )

  config.stages = ("mcd_vae", "dmg")
  config.mcd_vae = dict(
    model=dict(
      motion_channels=3,
      content_channels=pick(512, 256, 16),
      encoder_channels=pick((128, 256, 512), (64, 128, 256), (8, 8, 16)),
      motion_encoder_channels=pick((64, 128, 256), (32, 64, 128), (4, 8, 16)),
      decoder_channels=pick((64, 128, 256), (32, 64, 128), (4, 8, 16)),
      encoder_blocks=pick(2, 1, 1),
      decoder_blocks=pick((2, 2, 2), (1, 1, 1), (0, 1, 1)),
      kernels=pick(
        ((3, 3, 3), (3, 3, 3)), ((3, 3, 3), (3, 3, 3)), ((1, 3, 3), (3, 1, 1))
      ),
    ),
    loss=dict(
      kl_weight=1e-2,
      kl_reduction="latents",
      perceptual=pick("lpips_vgg", "lpips_vgg", "none"),  # Extra `metrics`.
    ),
    adversary=dict(
      start=pick(50_000, 20_000, 5),
      weight=0.5,
      form="hinge",
      model=dict(
        channels=pick((64, 128, 256, 512), (32, 64, 128, 256), (4, 8)),
        frame_strides=pick((2, 2, 2), (2, 2, 2), (2,)),
      ),
    ),
    train=dict(
      steps=pick(200_000, 50_000, 10),
      batch_size=pick(24, 8, 4),
      accumulate=1,
      optimizer="adam",
      learning_rate=1e-4,
      b1=0.5,
      b2=0.9,
      warmup_steps=pick(1000, 500, 5),
      schedule="constant",
      ema_decay=0.999,
      log_every=pick(100, 100, 5),
      checkpoint_every=pick(5000, 1000, 5),
      sample_every=pick(5000, 1000, 10),
    ),
  )
  config.dmg = dict(
    model=dict(
      model_channels=pick(224, 64, 16),
      channel_mults=pick((1, 2, 3, 4), (1, 2, 4), (1, 2)),
      num_res_blocks=pick(2, 2, 1),
      attention_factors=pick((1, 2, 4), (1, 2, 4), (1, 2)),
      head_channels=pick(32, 32, 16),
      context_channels=pick(512, 256, 16),
      context_pool=2 if args["resolution"] == 256 else 1,
    ),
    diffusion=dict(schedule="sqrt_linear", parameterization="eps"),
    train=dict(
      steps=pick(300_000, 100_000, 10),
      batch_size=pick(64, 64, 4),
      accumulate=1,
      optimizer="adam",
      learning_rate=1e-4,
      warmup_steps=pick(5000, 1000, 5),
      schedule="constant",
      weight_decay=0.01,
      ema_decay=0.9999,
      log_every=pick(100, 100, 5),
      checkpoint_every=pick(5000, 1000, 5),
      sample_every=pick(10_000, 5000, 0),
    ),
  )

  config.sample = dict(
    checkpoint="latest",  # Or "best", by run.keep_best.
    num_steps=pick(200, 200, 5),
    sampler="ddim",  # Or "ddpm", "heun", "dpmpp_2m".
    eta=0.0,
    guidance=1.0,  # Classifier-free, for models with a condition.
    overlap=1,  # Of windows of longer videos.
    frames_weight=1.0,
    batch_size=pick(64, 64, 4),
  )
  config.evaluate = dict(
    num_clips=pick(1024, 256, 2),
    samples_per_clip=pick(1, 1, 2),
    metrics=pick(("fvd", "kvd"), ("fvd", "kvd"), ("motion",)),
    group_by=pick(("label", "subject"), (), ()),  # cFVD and sFVD.
    weights="weights",  # A folder with networks other than I3D, if metrics need them.
  )
  return config
