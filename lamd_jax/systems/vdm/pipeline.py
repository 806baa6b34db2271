"""VDM as a pipeline: videos from noise or given frames, longer, denser or larger."""

from lamd_jax.systems.clip import clip_of
from lamd_jax.systems.pipeline import Devices, Stages, WindowPipeline
from lamd_jax.types import Config


def make_pipeline(config: Config, trained: Stages, devices: Devices) -> WindowPipeline:
  """Builds the pipeline around the one stage."""
  return WindowPipeline(
    "vdm",
    clip_of(config, "base"),
    trained["base"],
    devices,
    config.sample.batch_size,
    upsamples=True,
  )
