r"""LaMD, ablation of d, the channels of the motion latent: reconstruction alone.

Trains the first stage on BAIR and measures what it reconstructs:

    python -m lamd_jax.main --config=configs/ablations/motion_channels.py:channels=2 \
      --config.data.data_dir=DIR

`mini=shapes` and `mini=bair` are for two cores of a laptop, at 32x32, some minutes
each; `:smoke` goes through everything in a minute. All of `configs/ablations`, in a
table: `tests/benchmarks/lamd_ablations.py`.

Paper: Hu et al. 2023, arXiv:2304.11603, ablation of motion capacity on BAIR, FVD of
reconstructions at d = 1, 2, 3, 4: 41.91, 42.96, 36.05, 38.84. Expected: not measured.
"""

import ml_collections

from lamd_jax.config import parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; see the module docstring."""
  args = parse_arg(arg, smoke=False, mini=("", "shapes", "bair"), channels=3)
  smoke, mini = args["smoke"], args["mini"]

  def pick(full, for_mini, for_smoke):
    return for_smoke if smoke else for_mini if mini else full

  config = ml_collections.ConfigDict()
  config.system = "lamd"
  config.seed = 0
  config.compute_dtype = pick("bfloat16", "float32", "float32")
  config.mesh = dict(data=-1, fsdp=1, tensor=1, context=1)
  # How it is run, not what is learned: configs/README.md.
  config.run = dict(
    remat="none", on_nonfinite="stop", keep_best="", log_examples=False, wandb=""
  )

  config.data = dict(
    name="tfds",
    tfds_name="bair_robot_pushing_small",
    data_dir="",
    image_key="image_main",
    num_frames=16,
    frame_stride=1,
    resolution=pick(64, 32, 16),
  )
  if smoke or mini == "shapes":
    config.data = dict(
      name="shapes",
      num_frames=16,
      frame_stride=1,
      resolution=pick(64, 32, 16),
      num_train=pick(0, 4096, 16),
      num_eval=pick(0, 128, 4),
    )

  config.stages = ("mcd_vae",)
  config.mcd_vae = dict(
    model=dict(
      motion_channels=args["channels"],
      latent_frames=1,
      content_channels=pick(512, 64, 16),
      encoder_channels=pick((128, 256, 512), (24, 32, 64), (8, 8, 16)),
      motion_encoder_channels=pick((64, 128, 256), (8, 24, 48), (4, 8, 16)),
      decoder_channels=pick((64, 128, 256), (24, 48, 64), (4, 8, 16)),
      encoder_blocks=pick(2, 1, 1),
      decoder_blocks=pick((2, 2, 2), (0, 1, 1), (0, 1, 1)),
      kernels=pick(
        ((3, 3, 3), (3, 3, 3)), ((1, 3, 3), (3, 1, 1)), ((1, 3, 3), (3, 1, 1))
      ),
    ),
    loss=dict(
      kl_weight=1e-2,
      kl_reduction="latents",
      perceptual=pick("lpips_vgg", "none", "none"),
    ),
    adversary=dict(
      start=pick(50_000, 0, 5),
      weight=pick(0.5, 0.0, 0.5),  # 0: none.
      form="hinge",
      model=dict(
        channels=pick((64, 128, 256, 512), (8, 16), (4, 8)),
        frame_strides=pick((2, 2, 2), (2,), (2,)),
      ),
    ),
    train=dict(
      steps=pick(200_000, 800, 10),
      batch_size=pick(32, 4, 4),
      accumulate=1,
      optimizer=pick("adam", "muon", "muon"),
      learning_rate=pick(1e-4, 3e-3, 3e-3),
      warmup_steps=pick(1000, 50, 5),
      schedule=pick("constant", "cosine", "cosine"),
      b1=pick(0.5, 0.9, 0.9),
      b2=pick(0.9, 0.99, 0.99),
      ema_decay=pick(0.999, 0.99, 0.99),
      log_every=pick(100, 20, 5),
      checkpoint_every=pick(5000, 400, 5),
      sample_every=0,
    ),
  )

  config.sample = dict(checkpoint="latest", batch_size=pick(64, 16, 4))
  config.evaluate = dict(
    num_clips=pick(256, 128, 4),
    samples_per_clip=1,
    metrics=pick(("fvd", "kvd", "ssim"), (), ("motion",)),
    weights="weights",  # A folder with networks other than I3D, if metrics need them.
  )
  return config
