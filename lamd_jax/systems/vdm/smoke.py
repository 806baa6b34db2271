"""The smallest VDM that goes through every job, for `:smoke` of its configurations."""

from lamd_jax.types import Config


def shrink(config: Config, *, num_frames: int = 4, overlap: int = 2) -> None:
  """Turns a configuration into a run of a few minutes on moving shapes.

  Every block that the configuration has stays, with its choice of sampler, optimizer
  and conditions; network, data and the number of steps become tiny.

  Args:
    config: The configuration, changed in place.
    num_frames: Frames of a video.
    overlap: Frames that neighbouring windows of a longer video share.
  """
  config.compute_dtype = "float32"
  config.data = dict(
    name="shapes",
    num_frames=num_frames,
    frame_stride=1,
    resolution=8,
    num_train=64,
    num_eval=4,
  )
  config.images.num = 2
  if config.condition.kind == "caption":
    config.condition.num_tokens = 48

  config.base.model.update(
    model_channels=8,
    channel_mults=(1, 2),
    num_res_blocks=1,
    attention_factors=(2,),
    head_channels=8,
    embedding_channels=16,
    max_frames=num_frames,
  )
  config.base.train.update(steps=10, batch_size=4, warmup_steps=5, ema_decay=0.9)
  config.base.train.update(log_every=5, checkpoint_every=5)

  config.sample.update(num_steps=4, overlap=overlap, batch_size=4)
  config.evaluate.update(num_clips=2, samples_per_clip=2, metrics=("motion",))
