"""The smallest LaMD that goes through every job, for `:smoke` of its configurations."""

from lamd_jax.types import Config


def shrink(config: Config) -> None:
  """Turns a configuration into a run of a minute on moving shapes.

  Every block that the configuration has stays, with its choice of losses, optimizer and
  conditions; networks, data and the number of steps become tiny. A condition that is
  particular to a data set is left to the caller.

  Args:
    config: The configuration, changed in place.
  """
  config.compute_dtype = "float32"
  config.data = dict(
    name="shapes", num_frames=16, frame_stride=1, resolution=16, num_eval=4
  )
  steps = dict(steps=10, batch_size=4, warmup_steps=5, log_every=5, checkpoint_every=5)

  config.mcd_vae.model.update(
    content_channels=16,
    encoder_channels=(8, 8, 16),
    motion_encoder_channels=(4, 8, 16),
    decoder_channels=(4, 8, 16),
    encoder_blocks=1,
    decoder_blocks=(0, 1, 1),
    kernels=((1, 3, 3), (3, 1, 1)),
  )
  config.mcd_vae.loss.perceptual = "none"
  if "adversary" in config.mcd_vae:
    config.mcd_vae.adversary.start = 5
    config.mcd_vae.adversary.model.update(channels=(4, 8), frame_strides=(2,))
  config.mcd_vae.train.update(steps, sample_every=10)

  if "dmg" in config.stages:
    config.dmg.model.update(
      model_channels=16,
      channel_mults=(1, 2),
      num_res_blocks=1,
      attention_factors=(1, 2),
      head_channels=16,
      context_channels=16,
    )
    config.dmg.train.update(steps, sample_every=0)
    config.sample.num_steps = 5

  config.sample.batch_size = 4
  config.evaluate.update(num_clips=2, samples_per_clip=2, metrics=("motion",))
