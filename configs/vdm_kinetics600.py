r"""VDM on Kinetics-600: 16 frames of 64x64; 11 of them from the first five.

    python -m lamd_jax.main --config=configs/vdm_kinetics600.py \
      --config.data.path=kinetics600 --config.data.csv=train.csv \
      --config.data.eval_csv=test.csv

The data are a folder of videos and csv files with their paths. The model learns whole
videos and images, without labels; only when it samples is it given the five frames.
`:small` is for one GPU; `:smoke` goes through the whole job in a few minutes, on moving
shapes.

Sizes, optimizer and sampler are the paper's, appendix A; warm-up and clipping of
gradients are not in it. The paper takes a random window of each test video; here it is
the first. Expected: not measured yet.
Paper: Ho et al. 2022, arXiv:2204.03458, table 3: FVD 16.2 (50,000 test videos).
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
    name="video_csv",
    path="",
    csv="",
    eval_csv="",
    num_frames=16,
    frame_stride=1,
    resolution=64,
  )
  config.images = dict(num=8, source=dict())  # Frames of the same videos.
  config.augment = dict(flip=False)
  config.condition = dict(kind="none", dropout=0.0)

  config.stages = ("base",)
  config.base = dict(
    model=dict(
      model_channels=256,
      channel_mults=(1, 2, 4, 8),
      num_res_blocks=2,
      attention_factors=(2, 4, 8),
      head_channels=64,
      embedding_channels=1024,
      num_embedding_layers=2,
      max_frames=16,
      dropout_rate=0.1,
    ),
    diffusion=dict(schedule="cosine", parameterization="v"),
    train=dict(steps=220_000, batch_size=256, accumulate=1),
  )
  config.base.train.update(optimizer="adam", learning_rate=2e-4, b2=0.99)
  config.base.train.update(weight_decay=0.0, ema_decay=0.9999)
  config.base.train.update(warmup_steps=1000, schedule="constant")
  config.base.train.update(log_every=100, checkpoint_every=5000, sample_every=0)

  # Checkpoints: "latest", or "best" by run.keep_best. A guidance of 1 is none.
  config.sample = dict(checkpoint="latest", batch_size=64)
  config.sample.update(num_steps=128, gamma=0.0, langevin_delta=0.1, guidance=1.0)
  config.sample.update(given_frames=5, overlap=8, method="reconstruction")
  config.sample.update(frames_weight=9.0, size_weight=4.0)
  config.evaluate = dict(
    num_clips=2048,
    samples_per_clip=1,
    metrics=("fvd", "kvd"),
    weights="weights",  # Folder of the networks that other metrics than FVD need.
  )

  if args["small"]:  # One GPU.
    config.base.model.update(model_channels=64, attention_factors=(4, 8))
    config.base.model.update(head_channels=32, embedding_channels=256)
    config.base.train.update(steps=200_000, batch_size=16, checkpoint_every=2000)
    config.sample.batch_size = 16
  if args["smoke"]:
    smoke.shrink(config, num_frames=8, overlap=4)
  return config
