"""A run: one experiment as every job sees it, from a configuration and a folder."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh

from lamd_jax.experiment.blocks import check_config
from lamd_jax.experiment.conditions import Condition, make_conditions
from lamd_jax.systems.clip import Clip, clip_of, data_of
from lamd_jax.systems.table import System, find_system
from lamd_jax.training import sharding
from lamd_jax.types import Config, PRNGKey


@dataclasses.dataclass(frozen=True)
class Run:
  """One experiment.

  Attributes:
    config: The whole configuration.
    folder: The work folder.
    mesh: The devices.
    system: The paper that is trained.
    stages: Stages to train, in order.
  """

  config: Config
  folder: pathlib.Path
  mesh: Mesh
  system: System
  stages: tuple[str, ...]

  @functools.cached_property
  def conditions(self) -> tuple[Condition, ...]:
    """The model's conditions, such as a class or a caption."""
    return make_conditions(self.config)

  def clip(self, stage: str) -> Clip:
    """Returns the size of the clips that a stage is trained on."""
    return clip_of(self.config, stage)

  def data(self, stage: str) -> dict[str, Any]:
    """Returns the keyword arguments of a stage's source of videos."""
    return data_of(self.config, stage).to_dict()

  def key(self, stage: str) -> PRNGKey:
    """Returns a stage's root key: the seed, and the stage's place in its system."""
    number = list(self.system.stages).index(stage)
    return jax.random.fold_in(jax.random.key(self.config.seed), number)

  def stage_folder(self, stage: str) -> pathlib.Path:
    """Returns where a stage keeps its checkpoints, scalars and pictures."""
    return self.folder / stage

  def with_output(self, output: str) -> str | None:
    """Returns the last stage whose videos are of a kind; None if there is none.

    Args:
      output: A value of `StageSpec.output`.
    """
    found = [n for n in self.stages if self.system.stages[n].output == output]
    return found[-1] if found else None


def make_run(config: Config, folder: pathlib.Path) -> Run:
  """Checks the configuration and lays the mesh over all devices; writes nothing.

  Raises:
    UserError: A key or value of the configuration is wrong, the mesh does not fit the
      devices, or a system or stage is unknown.
  """
  check_config(config)
  system = find_system(config)
  mesh = sharding.make_mesh(config.mesh.to_dict())
  return Run(config, folder, mesh, system, tuple(config.stages))
