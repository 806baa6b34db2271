"""The smallest VDM with classes and joint training, for tests."""

import ml_collections

from lamd_jax.config import experiment_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the configuration."""
  config = experiment_config()
  config.system = "vdm"
  config.seed = 0
  config.compute_dtype = "float32"
  config.data = dict(
    name="shapes", num_frames=3, frame_stride=1, resolution=8, num_train=8, num_eval=4
  )
  config.images = dict(num=2, source=dict())
  config.augment = dict(flip=True)
  config.condition = dict(kind="class", dropout=0.5, num_classes=5)
  config.stages = ("base",)
  config.base = dict(
    model=dict(
      model_channels=4,
      channel_mults=(1,),
      num_res_blocks=1,
      attention_factors=(),
      head_channels=4,
      embedding_channels=4,
      num_embedding_layers=2,
      max_frames=3,
    ),
    diffusion=dict(schedule="cosine", parameterization="v"),
    train=dict(
      steps=2,
      batch_size=8,
      accumulate=1,
      learning_rate=1e-3,
      ema_decay=0.9,
      log_every=1,
      checkpoint_every=2,
      sample_every=0,
    ),
  )
  config.sample = dict(
    num_steps=2,
    gamma=0.1,
    langevin_delta=0.1,
    guidance=2.0,
    given_frames=1,
    overlap=1,
    method="reconstruction",
    frames_weight=9.0,
    size_weight=2.0,
    batch_size=8,
  )
  config.evaluate = dict(
    num_clips=4, samples_per_clip=2, metrics=("motion",), weights="weights"
  )
  return config
