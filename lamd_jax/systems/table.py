"""The table of systems: which stages each has, what they need, how it makes videos.

A new system is a folder with its stages and its pipeline, and an entry here.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple

from lamd_jax.schema import Block, OneOf, check
from lamd_jax.systems import blocks
from lamd_jax.systems.lamd import dmg, mcd_vae
from lamd_jax.systems.lamd import pipeline as lamd_pipeline
from lamd_jax.systems.pipeline import Devices, Pipeline, Stages
from lamd_jax.systems.stage import Part, Stage
from lamd_jax.systems.vdm import base
from lamd_jax.systems.vdm import pipeline as vdm_pipeline
from lamd_jax.types import Config, UserError

NO_KEYS = Block("a stage", {})


class StageSpec(NamedTuple):
  """A stage of a system.

  Attributes:
    make: Builds the stage from the configuration and the trained parts it needs; also
      from `perceptual`, the frozen network that `<stage>.loss.perceptual` names, where
      the stage is about to be trained.
    block: Keys of its block in a configuration, but for those of training.
    needs: Stages that are restored for it, by name.
    output: Kind of videos that its `sample` returns; None if not worth looking at.
  """

  make: Callable[[Config, Mapping[str, Part]], Stage]
  block: Block = NO_KEYS
  needs: tuple[str, ...] = ()
  output: Literal["reconstruction", "sample"] | None = None


class System(NamedTuple):
  """A paper.

  Attributes:
    name: Name in configurations, `config.system`.
    stages: Its stages by name, in the order in which they are trained.
    pipeline: Makes videos with trained stages, which are restored when looked up.
    sampling: Record of its keys of `config.sample`, those that jobs read left aside.
  """

  name: str
  stages: Mapping[str, StageSpec]
  pipeline: Callable[[Config, Stages, Devices], Pipeline]
  sampling: type = blocks.Drawing


SYSTEMS = {
  system.name: system
  for system in (
    System(
      "lamd",
      {
        "mcd_vae": StageSpec(
          mcd_vae.make_mcd_vae, mcd_vae.BLOCK, output="reconstruction"
        ),
        "dmg": StageSpec(dmg.make_dmg, dmg.BLOCK, needs=("mcd_vae",), output="sample"),
      },
      lamd_pipeline.LaMDPipeline,
      dmg.Sampling,
    ),
    System(
      "vdm",
      {"base": StageSpec(base.make_base, base.BLOCK, output="sample")},
      vdm_pipeline.make_pipeline,
      base.Sampling,
    ),
  )
}
SystemName = Annotated[str, OneOf(SYSTEMS)]


def find_system(config: Config) -> System:
  """Returns the system that a configuration names.

  Raises:
    UserError: The system or a stage is unknown, or a stage lacks one it needs.
  """
  system = SYSTEMS[check(config.system, SystemName, "config.system")]
  if not config.stages:
    raise UserError("config.stages is empty; name the stages to train, in order")
  for i, name in enumerate(config.stages):
    if name not in system.stages:
      raise UserError(
        f"config.stages has {name!r}; {config.system} has {', '.join(system.stages)}"
      )
    for need in system.stages[name].needs:
      if need not in config.stages[:i]:
        raise UserError(f"config.stages has {name!r} without {need!r} before it")
  return system


def make_stage(config: Config, name: str, parts: Mapping[str, Part]) -> Stage:
  """Builds a stage of the system that a configuration names.

  Args:
    config: The whole configuration.
    name: One of `config.stages`.
    parts: The stages it needs; see `StageSpec.make`.

  Raises:
    UserError: A name is unknown, or a value impossible.
  """
  return find_system(config).stages[name].make(config, parts)


def bare_stage(config: Config, name: str) -> Stage:
  """Builds a stage without parameters of others, to be asked about itself alone."""
  needs = find_system(config).stages[name].needs
  return make_stage(config, name, {need: Part(None) for need in needs})
