r"""VDM on BAIR robot pushing: 16 frames of 64x64; 15 of them from the first.

    python -m lamd_jax.main --config=configs/vdm_bair.py --config.data.data_dir=DIR

DIR is where TFDS keeps its data (`lamd_jax/data/README.md`). The model learns whole
videos and images; only when it samples is it given the first frame, by reconstruction
guidance of weight 50 with a Langevin corrector. `:small` is for one GPU; `:smoke` goes
through the whole job in a few minutes, on moving shapes.

Sizes, optimizer and sampler are the paper's, appendix A; warm-up and clipping of
gradients are not in it. Expected: not measured yet.
Paper: Ho et al. 2022, arXiv:2204.03458, table 2: FVD 66.92 (100 samples of each clip).
"""

import ml_collections

from lamd_jax.config import experiment_config, parse_arg
from lamd_jax.systems.vdm import smoke


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; see the module docstring."""
  args = parse_arg(arg, smoke=False, small=False)
  config = experiment_config()
  config.system = "vdm"
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
  config.images = dict(num=8, source=dict())  # Frames of the same videos.
  config.augment = dict(flip=True)
  config.condition = dict(kind="none", dropout=0.0)

  config.stages = ("base",)
  config.base = dict(
    model=dict(
      model_channels=128,
      channel_mults=(1, 2, 3, 4),
      num_res_blocks=3,
      attention_factors=(2, 4, 8),
      head_channels=64,
      embedding_channels=1024,
      num_embedding_layers=2,
      max_frames=16,
      dropout_rate=0.1,
    ),
    diffusion=dict(schedule="cosine", parameterization="v"),
    train=dict(steps=660_000, batch_size=128, accumulate=1),
  )
  config.base.train.update(optimizer="adam", learning_rate=2e-4, b2=0.999)
  config.base.train.update(weight_decay=0.01, ema_decay=0.999)
  config.base.train.update(warmup_steps=1000, schedule="constant")
  config.base.train.update(log_every=100, checkpoint_every=5000, sample_every=0)

  # Checkpoints: "latest", or "best" by run.keep_best. A guidance of 1 is none.
  config.sample = dict(checkpoint="latest", batch_size=64)
  config.sample.update(num_steps=256, gamma=0.0, langevin_delta=0.1, guidance=1.0)
  config.sample.update(given_frames=1, overlap=8, method="reconstruction")
  config.sample.update(frames_weight=50.0, size_weight=4.0)
  config.evaluate = dict(
    num_clips=256,
    samples_per_clip=100,
    metrics=("fvd", "kvd"),
    weights="weights",  # Folder of the networks that other metrics than FVD need.
  )

  if args["small"]:  # One GPU.
    config.base.model.update(model_channels=64, attention_factors=(4, 8))
    config.base.model.update(head_channels=32, embedding_channels=256)
    config.base.train.update(steps=200_000, batch_size=16, checkpoint_every=2000)
    config.sample.batch_size = 16
    config.evaluate.samples_per_clip = 1
  if args["smoke"]:
    smoke.shrink(config)
  return config
