r"""LaMD, ablation of the size of the latent: what is gained and lost from beta and d.

Trains both stages on the sky time-lapse clips, and measures what they reconstruct and
generate (`configs/landscape.py` says where the data are from):

    python -m lamd_jax.main --config=configs/ablations/beta.py:beta=1e-5,channels=4 \
      --config.data.path=DIR

`reduction` is what the KL is divided by, which the paper does not say: by the number of
entries of a clip's latent, or by that of its pixels, 256 times as weak or more.

`mini=shapes` and `mini=bair` are for two cores of a laptop, at 32x32, some minutes
each; `:smoke` goes through everything in a minute. All of `configs/ablations`, in a
table: `tests/benchmarks/lamd_ablations.py`.

Paper: Hu et al. 2023, arXiv:2304.11603, FVD of reconstructions and of samples: 58.59
and 100.7 at beta = 1e-2, d = 3; 37.35 and 127.1 at beta = 1e-5, d = 4. Expected: not
measured.
"""

import ml_collections

from lamd_jax.config import parse_arg


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
    name="landscape", path="", num_frames=32, frame_stride=1, resolution=128
  )
  if mini == "bair":
    config.data = dict(
      name="tfds",
      tfds_name="bair_robot_pushing_small",
      data_dir="",
      image_key="image_main",
      num_frames=16,
      frame_stride=1,
      resolution=32,
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

  config.stages = ("mcd_vae", "dmg")
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
      kl_weight=args["beta"],
      kl_reduction=args["reduction"],
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

  config.dmg = dict(
    model=dict(
      model_channels=pick(224, 64, 16),
      channel_mults=pick((1, 2, 3, 4), (1, 2), (1, 2)),
      num_res_blocks=pick(2, 1, 1),
      attention_factors=pick((1, 2, 4), (1, 2), (1, 2)),
      head_channels=pick(32, 32, 16),
      context_channels=pick(512, 128, 16),
    ),
    diffusion=dict(schedule="sqrt_linear", parameterization="eps"),
    train=dict(
      steps=pick(300_000, 450, 10),
      batch_size=pick(64, 16, 4),
      accumulate=1,
      optimizer="adam",
      learning_rate=pick(1e-4, 1e-3, 1e-3),
      warmup_steps=pick(5000, 50, 5),
      schedule=pick("constant", "cosine", "cosine"),
      weight_decay=pick(0.01, 0.0, 0.0),
      ema_decay=pick(0.9999, 0.995, 0.9),
      log_every=pick(100, 20, 5),
      checkpoint_every=pick(5000, 450, 5),
      sample_every=0,
    ),
  )

  config.sample = dict(
    checkpoint="latest", num_steps=pick(200, 50, 5), eta=0.0, batch_size=pick(64, 16, 4)
  )
  config.evaluate = dict(
    num_clips=pick(256, 128, 4),
    samples_per_clip=1,
    metrics=pick(("fvd", "kvd", "ssim"), (), ("motion",)),
    weights="weights",  # A folder with networks other than I3D, if metrics need them.
  )
  return config
