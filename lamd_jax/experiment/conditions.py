"""Conditions of a model: what is said of each video, as arrays of a batch.

A configuration has them in the block `condition`, which systems without any leave out:

  condition   kind, dropout, and what the kind needs:
                class    num_classes
                caption  by a frozen encoder: encoder (a folder, "" for the installed
                         one), num_tokens, and text_channels, the width of the encoder
                words    by one that is trained: vocabulary (a name, or a text file with
                         a word in each line), num_words, and for a file num_tokens
"""

from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.data import sources, vocabulary
from lamd_jax.data.pipeline import Describe
from lamd_jax.experiment import captions
from lamd_jax.types import Config, UserError

Arrays = dict[str, np.ndarray]


class Condition(NamedTuple):
  """One thing that a model can be told of a video.

  Attributes:
    key: Its key in a video's annotation, also the name of its command-line flag:
      "label" or "caption".
    shapes: Arrays that a batch has for each example, by name.
    read: From what is said of videos to these arrays; with a folder that keeps what is
      expensive. Raises a `UserError` for what the model does not know.
    check: Raises a `UserError` for what is wrong with the configuration of it.
  """

  key: str
  shapes: Mapping[str, jax.ShapeDtypeStruct]
  read: Callable[[Sequence[Any], pathlib.Path | None], Arrays]
  check: Callable[[], Any] = lambda: None


def make_conditions(config: Config) -> tuple[Condition, ...]:
  """Returns the conditions that a configuration names; () for none."""
  name = kind(config)
  return (KINDS[name](config),) if name in KINDS else ()


def kind(config: Config) -> str:
  """Returns the kind of a model's condition, "none" where it has none."""
  return config.condition.kind if "condition" in config else "none"


def abstract(config: Config, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of the condition arrays of a batch."""
  return {
    name: jax.ShapeDtypeStruct((batch_size, *x.shape), x.dtype)
    for condition in make_conditions(config)
    for name, x in condition.shapes.items()
  }


def describer(
  config: Config,
  source: sources.VideoSource,
  numbers: Sequence[int] | None = None,
  cache: pathlib.Path | None = None,
) -> Describe | None:
  """Returns a function from the number of a video to its conditions; None without any.

  Args:
    config: The configuration.
    source: The videos.
    numbers: Videos that will be asked for; None for all.
    cache: A folder that keeps embeddings of captions.

  Raises:
    UserError: A video has no label or caption, or a label is too large.
  """
  numbers = range(len(source)) if numbers is None else sorted(set(numbers))
  conditions = make_conditions(config)
  if not conditions:
    return None
  found: Arrays = {}
  for condition in conditions:
    found |= condition.read(_notes(config, condition, source, numbers), cache)
  places = {i: place for place, i in enumerate(numbers)}
  return lambda i: {name: values[places[i]] for name, values in found.items()}


def asked(config: Config, count: int, **said: Any) -> Arrays:
  """Builds the condition arrays of `count` videos that a user asks for.

  Args:
    config: The configuration.
    count: Number of videos.
    **said: `caption` or `label`, of all of them; None where nothing is said.

  Returns:
    {} where nothing is said: the model is then asked without its condition.

  Raises:
    UserError: This model knows no such thing.
  """
  conditions = {condition.key: condition for condition in make_conditions(config)}
  found: Arrays = {}
  for name, value in said.items():
    if value is None:
      continue
    if name not in conditions:
      known = " or ".join(repr(k) for k, key in KEYS.items() if key == name)
      raise UserError(
        f"--{name}: this model's condition is {kind(config)!r}, not {known}"
      )
    try:
      found |= conditions[name].read([value] * count, None)
    except UnknownLabelError as e:
      raise UserError(f"--label={value}: expected {e.expected}") from e
  return found


def check(config: Config, *splits: sources.VideoSource) -> None:
  """Raises a `UserError` for what `describer` would stumble over; takes little time."""
  for condition in make_conditions(config):
    condition.check()
    for source in splits:
      notes = _notes(config, condition, source, range(len(source)))
      if kind(config) != "caption":  # Whose encoder takes its time.
        condition.read(notes, None)


class UnknownLabelError(UserError):
  """A label outside the classes of a model.

  Attributes:
    expected: The labels that it knows.
  """

  def __init__(self, label: int, num_classes: int):
    """Says which label was given, and which are known."""
    self.expected = f"0 to {num_classes - 1}"
    super().__init__(
      f"the label {label}; condition.num_classes={num_classes} knows {self.expected}"
    )


def _class(config: Config) -> Condition:
  def read(labels: Sequence[int], cache: pathlib.Path | None) -> Arrays:
    del cache
    for label in labels:
      if not 0 <= int(label) < config.condition.num_classes:
        raise UnknownLabelError(label, config.condition.num_classes)
    return {"label": np.array(labels, np.int32)}

  return Condition("label", {"label": jax.ShapeDtypeStruct((), jnp.int32)}, read)


def _caption(config: Config) -> Condition:
  values = config.condition
  tokens, width = values.num_tokens, values.text_channels
  shapes = {
    "text": jax.ShapeDtypeStruct((tokens, width), jnp.float16),
    "text_mask": jax.ShapeDtypeStruct((tokens,), jnp.bool_),
  }

  def read(texts: Sequence[str], cache: pathlib.Path | None) -> Arrays:
    texts = [str(text) for text in texts]
    found = captions.embed(_encoder(config), texts, cache=cache)
    return {"text": found.values, "text_mask": found.mask}

  return Condition("caption", shapes, read, lambda: _encoder(config))


def _words(config: Config) -> Condition:
  words = _vocabulary(config)

  def read(texts: Sequence[str], cache: pathlib.Path | None) -> Arrays:
    del cache
    return {"words": words.encode([str(text) for text in texts])}

  shapes = {"words": jax.ShapeDtypeStruct((words.num_tokens,), jnp.int32)}
  return Condition("caption", shapes, read)


KINDS: dict[str, Callable[[Config], Condition]] = {
  "class": _class,
  "caption": _caption,
  "words": _words,
}
# Kind -> what is said, `Condition.key`.
KEYS = {"class": "label", "caption": "caption", "words": "caption"}


def _notes(
  config: Config,
  condition: Condition,
  source: sources.VideoSource,
  numbers: Sequence[int],
) -> list[Any]:
  """Returns the label or the caption of each video."""
  notes = [source.annotation(i).get(condition.key) for i in numbers]
  lacking = [i for i, note in zip(numbers, notes, strict=True) if note is None]
  if lacking:
    raise UserError(
      f"{len(lacking)} of {len(numbers)} videos have no {condition.key}, the first is"
      f" number {lacking[0]}; condition.kind={kind(config)!r} needs one for each"
    )
  if condition.key == "label":
    for i, label in zip(numbers, notes, strict=True):
      try:
        condition.read([label], None)
      except UnknownLabelError as e:
        raise UserError(f"video {i} has {e}") from e
  return notes


def _vocabulary(config: Config) -> vocabulary.Vocabulary:
  values = config.condition
  found = vocabulary.VOCABULARIES.get(values.vocabulary)
  if found is None:
    if not pathlib.Path(values.vocabulary).expanduser().is_file():
      raise UserError(
        f"condition.vocabulary={values.vocabulary!r} is no file with a word in each"
        f" line; known by name: {', '.join(vocabulary.VOCABULARIES)}"
      )
    if "num_tokens" not in values:
      raise UserError(
        f"condition.vocabulary={values.vocabulary!r} is a file and needs"
        " condition.num_tokens, the number of tokens of the longest caption with its"
        " start and end"
      )
    found = vocabulary.read_vocabulary(values.vocabulary, values.num_tokens)
  if len(found.words) != values.num_words:
    raise UserError(
      f"condition.num_words={values.num_words}; the vocabulary"
      f" {values.vocabulary!r} has {len(found.words)}, with [PAD], [CLS] and [SEP]"
    )
  return found


def _encoder(config: Config) -> captions.TextEncoder:
  values = config.condition
  encoder = captions.text_encoder(values.encoder or None, num_tokens=values.num_tokens)
  if encoder.width != values.text_channels:
    raise UserError(
      f"condition.text_channels={values.text_channels}; the text encoder gives"
      f" {encoder.width}"
    )
  return encoder
