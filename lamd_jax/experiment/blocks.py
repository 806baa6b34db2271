"""The whole configuration: every key of every block, and the values that it takes.

Nothing is described here a second time. The keys are the arguments of what takes their
values: of networks and losses, of `make_optimizer`, of the data set that `data.name`
names, and of the records below, for what jobs read themselves.
"""

import dataclasses
from typing import Annotated

from lamd_jax.data import sources
from lamd_jax.metrics import measures
from lamd_jax.schema import (
  REQUIRED,
  Block,
  Count,
  Field,
  FilePath,
  Fraction,
  Length,
  OneOf,
  Range,
  Seed,
  block,
  build,
  check_block,
  check_key,
)
from lamd_jax.systems import blocks, clip, networks, table
from lamd_jax.training import health, optimizer
from lamd_jax.types import Config

# Keys of a clip, which images take from the videos.
OF_IMAGES = ("num_frames", "frame_stride", "resolution")
Devices = Annotated[int, Range(-1, 2**20)]
Clips = Annotated[int, Range(1, 2**20)]
Steps = Annotated[int, Range(0, 10**9)]
StageNames = Annotated[tuple[str, ...], Length(0, 16)]


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Values of no block.

  Attributes:
    system: Name of the paper, a key of `table.SYSTEMS`.
    stages: Its stages to train, in order.
    seed: Seed of parameters, noise, and the order of the data.
    compute_dtype: Dtype that networks compute in.
  """

  system: table.SystemName
  stages: StageNames
  seed: Seed
  compute_dtype: networks.DType


@dataclasses.dataclass(frozen=True)
class Mesh:
  """Devices along each axis, `config.mesh`; see `sharding.make_mesh`."""

  data: Devices = 1
  fsdp: Devices = 1
  tensor: Devices = 1
  context: Devices = 1


@dataclasses.dataclass(frozen=True)
class Execution:
  """How a run is executed, `config.run`; configs/README.md explains its keys."""

  remat: networks.Remat
  on_nonfinite: Annotated[str, OneOf(health.POLICIES)]
  keep_best: str
  log_examples: bool
  wandb: str


@dataclasses.dataclass(frozen=True)
class Images:
  """Images that go with each video in training, `config.images`.

  Attributes:
    num: Number of images for each video.
  """

  num: Annotated[int, Range(0, 2**10)]


@dataclasses.dataclass(frozen=True)
class Augment:
  """Random changes of training videos, `config.augment`.

  Attributes:
    flip: Whether half of the videos are mirrored, left to right.
  """

  flip: bool


@dataclasses.dataclass(frozen=True)
class Loop:
  """Keys of `config.<stage>.train` that the loop reads; the rest is the optimizer's.

  Attributes:
    batch_size: Examples of an update; global, over all devices.
    accumulate: Parts of a batch that are processed one after the other.
    ema_decay: Decay of the average of parameters that samples are made with.
    log_every: Updates from one line of the log to the next.
    checkpoint_every: Updates from one checkpoint to the next.
    sample_every: Updates from one grid of held-out clips to the next; 0 for none.
  """

  batch_size: Annotated[int, Range(1, 2**20)]
  accumulate: Annotated[int, Range(1, 2**20)]
  ema_decay: Fraction
  log_every: Count
  checkpoint_every: Count
  sample_every: Steps


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Settings of the final sampling and scoring, `config.evaluate`.

  Attributes:
    num_clips: Number of held-out clips.
    samples_per_clip: Number of samples of each.
    metrics: Keys of `measures.MEASURES`.
    weights: Folder with the weights of networks that measures need.
    substitute_given: Whether samples are also scored with the given frames put back.
    group_by: Annotations, such as "label", whose groups are scored by themselves.
  """

  num_clips: Clips
  samples_per_clip: Annotated[int, Range(1, 2**16)]
  metrics: tuple[Annotated[str, OneOf(measures.MEASURES)], ...]
  weights: FilePath
  substitute_given: bool = False
  group_by: tuple[str, ...] = ()


LOOP_KEYS = tuple(field.name for field in dataclasses.fields(Loop))
TRAIN = block(Loop, optimizer.make_optimizer, taker="training")


def check_config(config: Config) -> None:
  """Checks every key and value of a configuration, each by itself.

  Raises:
    UserError: A key is unknown or missing, or a value is not allowed.
  """
  check_block(config, describe(config), "")


def read_evaluation(config: Config) -> Evaluation:
  """Returns the settings of the final sampling and scoring."""
  return build(Evaluation, config.evaluate, "evaluate")


def describe(config: Config) -> Block:
  """Describes what a configuration may hold, with the system and data set it names.

  Raises:
    UserError: The system or a data set is missing, or not known.
  """
  system = table.SYSTEMS[check_key(config, "system", table.SystemName, "")]
  stages = check_key(config, "stages", StageNames, "")
  further = {
    "data": Field(_data(config, "data", "data")),
    "condition": Field(block(blocks.ConditionSettings), None),
    "augment": Field(block(Augment), None),
    "sample": Field(block(system.sampling, blocks.Drawing)),
    "evaluate": Field(block(Evaluation)),
    "mesh": Field(block(Mesh)),
    "run": Field(block(Execution)),
  }
  if "images" in config:
    source = _data(config.images, "source", "images.source", without=OF_IMAGES)
    further["images"] = Field(block(Images, source=Field(source)))
  of_all = {"train": Field(TRAIN), "clip": Field(clip.BLOCK, None)}
  for name, spec in system.stages.items():
    # Only stages that are trained need a block; others may have one.
    default = REQUIRED if name in stages else None
    described = dataclasses.replace(spec.block, fields={**spec.block.fields, **of_all})
    further[name] = Field(described, default)
  return block(Experiment, taker="a configuration", **further)


def _data(values: Config, key: str, where: str, without: tuple[str, ...] = ()) -> Block:
  """Describes a block whose `name` is that of a data set; an empty one may stay so."""
  anything = Block(where, {"name": Field(sources.SourceName)})
  if not hasattr(values, "keys") or key not in values:
    return anything
  if without and hasattr(values[key], "keys") and not len(values[key]):
    return Block(where, {})
  return sources.data_block(values[key], where, without)
