"""Blocks of a configuration that several systems read, as records of their keys."""

import dataclasses
from typing import Annotated, Any, Literal

from lamd_jax.diffusion import process, schedules
from lamd_jax.schema import (
  FilePath,
  Fraction,
  OneOf,
  Range,
  block,
  build,
  check_block,
)
from lamd_jax.types import Config, UserError

# Kind of condition -> the keys that it needs.
KINDS = {
  "none": (),
  "class": ("num_classes",),
  "caption": ("num_tokens", "text_channels"),
  "words": ("vocabulary", "num_words"),
}
Tokens = Annotated[int, Range(0, 2**14)]
Classes = Annotated[int, Range(0, 2**20)]


@dataclasses.dataclass(frozen=True)
class Diffusion:
  """Settings of the diffusion process, `config.<stage>.diffusion`.

  Attributes:
    schedule: Noise levels, a key of `schedules.SCHEDULES`.
    parameterization: Quantity that the network predicts.
  """

  schedule: Annotated[str, OneOf(schedules.SCHEDULES)]
  parameterization: process.Parameterization


@dataclasses.dataclass(frozen=True)
class Drawing:
  """Keys of `config.sample` that jobs read; the rest is the system's.

  Attributes:
    batch_size: Clips sampled together.
    checkpoint: The checkpoint to sample with; "best" by `config.run.keep_best`.
  """

  batch_size: Annotated[int, Range(1, 2**16)]
  checkpoint: Literal["latest", "best"] = "latest"


@dataclasses.dataclass(frozen=True)
class ConditionSettings:
  """Conditioning of the model, `config.condition`: classes, captions or nothing.

  Keys of other kinds than the chosen one are without effect; 0 and "" are none.

  Attributes:
    kind: A key of `KINDS`.
    dropout: Share of examples that are trained without their condition.
    num_classes: Number of classes.
    encoder: Folder of the frozen encoder of captions; "" for the installed one.
    num_tokens: Tokens of a caption, start and end included.
    text_channels: Width of the encoder.
    vocabulary: Name of a vocabulary, or a text file with a word in each line.
    num_words: Words of the vocabulary, the special ones included.
  """

  kind: Annotated[str, OneOf(KINDS)] = "none"
  dropout: Fraction = 0.1
  num_classes: Classes = 0
  encoder: FilePath = ""
  num_tokens: Tokens = 0
  text_channels: Tokens = 0
  vocabulary: FilePath = ""
  num_words: Classes = 0

  def __post_init__(self):
    """Raises a `UserError` if a key is missing that the kind needs."""
    for key in KINDS[self.kind]:
      if not getattr(self, key):
        raise UserError(
          f"condition.kind={self.kind!r} needs condition.{key}; it is missing"
        )


def read_diffusion(config: Config, stage: str) -> Diffusion:
  """Returns the settings of a stage's diffusion process."""
  return build(Diffusion, config[stage].diffusion, f"{stage}.diffusion")


def read_sampling(cls: type, config: Config) -> Any:
  """Returns a system's keys of `config.sample` as a record of a class."""
  whole = check_block(config.sample, block(cls, Drawing), "sample")
  own = {field.name for field in dataclasses.fields(cls)}
  return cls(**{key: value for key, value in whole.items() if key in own})


def read_condition(config: Config) -> ConditionSettings:
  """Returns the condition of a model; without the block there is none."""
  return build(ConditionSettings, config.get("condition", {}), "condition")
