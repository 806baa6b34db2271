r"""VDM on Kinetics-600: 16 frames of 64x64; 11 of them from the first five.

    python -m lamd_jax.main --config=configs/vdm_kinetics600.py \
      --config.data.path=kinetics600 --config.data.csv=train.csv \
      --config.data.eval_csv=test.csv

A folder of videos and csv files with their paths. The model learns whole videos and
images, without labels, and is told the five frames only when it samples. `:small` is
for one GPU; `:smoke` goes through the whole job in a few minutes, on moving shapes.

Sizes, optimizer and sampler are the paper's, appendix A; warm-up and clipping of
gradients are not in it. The paper takes a random window of each test video, here it is
the first. Expected: not measured yet.
Paper: Ho et al. 2022, arXiv:2204.03458, table 3: FVD 16.2 (50,000 test videos).
"""

import ml_collections

from lamd_jax.config import parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; see the module docstring."""
  args = parse_arg(arg, smoke=False, small=False)
  smoke, small = args["smoke"], args["small"]

  def pick(full, for_small, for_smoke):
    return for_smoke if smoke else for_small if small else full

  config = ml_collections.ConfigDict()
  config.system = "vdm"
  config.seed = 0
  config.compute_dtype = "float32" if smoke else "bfloat16"
  config.mesh = dict(data=-1, fsdp=1, tensor=1, context=1)
  # How it is run, not what is learned: configs/README.md.
  config.run = dict(
    remat="none", on_nonfinite="stop", keep_best="", log_examples=False, wandb=""
  )

  config.data = dict(
    name="video_csv",
    path="",
    csv="",
    eval_csv="",
    num_frames=16,
    frame_stride=1,
    resolution=64,
  )
  if smoke:
    config.data = dict(
      name="shapes",
      num_frames=8,
      frame_stride=1,
      resolution=8,
      num_train=64,
      num_eval=4,
    )
  config.images = dict(num=pick(8, 8, 2), source=dict())  # Of the same videos.
  config.augment = dict(flip=False)
  config.condition = dict(kind="none", dropout=0.0)

  config.stages = ("base",)
  config.base = dict(
    model=dict(
      model_channels=pick(256, 64, 8),
      channel_mults=pick((1, 2, 4, 8), (1, 2, 4, 8), (1, 2)),
      num_res_blocks=pick(2, 2, 1),
      attention_factors=pick((2, 4, 8), (4, 8), (2,)),
      head_channels=pick(64, 32, 8),
      embedding_channels=pick(1024, 256, 16),
      num_embedding_layers=2,
      max_frames=pick(16, 16, 8),
      dropout_rate=0.1,
    ),
    diffusion=dict(schedule="cosine", parameterization="v"),
    train=dict(
      steps=pick(220_000, 200_000, 10),
      batch_size=pick(256, 16, 4),
      accumulate=1,
      optimizer="adam",
      learning_rate=2e-4,
      b2=0.99,
      weight_decay=0.0,
      warmup_steps=pick(1000, 1000, 5),
      schedule="constant",
      ema_decay=pick(0.9999, 0.9999, 0.9),
      log_every=pick(100, 100, 5),
      checkpoint_every=pick(5000, 2000, 5),
      sample_every=0,
    ),
  )

  config.sample = dict(
    checkpoint="latest",  # Or "best", by run.keep_best.
    num_steps=pick(128, 128, 4),
    gamma=0.0,
    langevin_delta=0.1,
    guidance=1.0,
    given_frames=5,
    overlap=pick(8, 8, 4),
    method="reconstruction",
    frames_weight=9.0,
    size_weight=4.0,
    batch_size=pick(64, 16, 4),
  )
  config.evaluate = dict(
    num_clips=pick(2048, 2048, 2),
    samples_per_clip=pick(1, 1, 2),
    metrics=pick(("fvd", "kvd"), ("fvd", "kvd"), ("motion",)),
    weights="weights",  # A folder with networks other than I3D, if metrics need them.
  )
  return config
