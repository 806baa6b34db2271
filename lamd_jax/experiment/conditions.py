"""Conditions of a model: what is said of each video, as arrays of a batch.

A configuration has them in the block `condition`; `systems/blocks.py` says which keys
each kind needs.
"""

from collections.abc import Callable, Mapping, Sequence
import pathlib
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.data import sources, vocabulary
from lamd_jax.data.pipeline import Describe
from lamd_jax.experiment import captions
from lamd_jax.systems.blocks import ConditionSettings, read_condition
from lamd_jax.types import Config, UserError

Arrays = dict[str, np.ndarray]


class Condition(NamedTuple):
  """One thing that a model can be told of a video.

  Attributes:
    kind: Its kind, a key of `KINDS`.
    key: Its key in a video's annotation, also the name of its command-line flag:
      "label" or "caption".
    shapes: Arrays that a batch has for each example, by name.
    read: From what is said of videos to these arrays; with a folder that keeps what is
      expensive. Raises a `UserError` for what the model does not know.
    check: Raises a `UserError` for what is wrong with the configuration of it.
  """

  kind: str
  key: str
  shapes: Mapping[str, jax.ShapeDtypeStruct]
  read: Callable[[Sequence[Any], pathlib.Path | None], Arrays]
  check: Callable[[], Any] = lambda: None


def make_conditions(config: Config) -> tuple[Condition, ...]:
  """Returns the conditions that a configuration names; () for none."""
  values = read_condition(config)
  return (KINDS[values.kind](values),) if values.kind in KINDS else ()


def abstract(
  conditions: Sequence[Condition], batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of the condition arrays of a batch."""
  return {
    name: jax.ShapeDtypeStruct((batch_size, *x.shape), x.dtype)
    for condition in conditions
    for name, x in condition.shapes.items()
  }


def describer(
  conditions: Sequence[Condition],
  source: sources.VideoSource,
  numbers: Sequence[int] | None = None,
  cache: pathlib.Path | None = None,
) -> Describe | None:
  """Returns a function from the number of a video to its conditions; None without any.

  Args:
    conditions: The conditions of the model.
    source: The videos.
    numbers: Videos that will be asked for; None for all.
    cache: A folder that keeps embeddings of captions.

  Raises:
    UserError: A video has no label or caption, or a label is too large.
  """
  numbers = range(len(source)) if numbers is None else sorted(set(numbers))
  if not conditions:
    return None
  found: Arrays = {}
  for condition in conditions:
    found |= condition.read(_notes(condition, source, numbers), cache)
  places = {i: place for place, i in enumerate(numbers)}
  return lambda i: {name: values[places[i]] for name, values in found.items()}


def asked(conditions: Sequence[Condition], count: int, **said: Any) -> Arrays:
  """Builds the condition arrays of `count` videos that a user asks for.

  Args:
    conditions: The conditions of the model.
    count: Number of videos.
    **said: `caption` or `label`, of all of them; None where nothing is said.

  Returns:
    {} where nothing is said: the model is then asked without its condition.

  Raises:
    UserError: This model knows no such thing.
  """
  by_key = {condition.key: condition for condition in conditions}
  found: Arrays = {}
  for name, value in said.items():
    if value is None:
      continue
    if name not in by_key:
      known = " or ".join(repr(k) for k, key in KEYS.items() if key == name)
      there = " and ".join(repr(x.kind) for x in conditions) or "'none'"
      raise UserError(f"--{name}: this model's condition is {there}, not {known}")
    try:
      found |= by_key[name].read([value] * count, None)
    except UnknownLabelError as e:
      raise UserError(f"--label={value}: expected {e.expected}") from e
  return found


def label_number(label: int | str, source_fn: Callable[[], sources.VideoSource]) -> int:
  """Returns the number of a class that is given by its number or by its own name.

  Args:
    label: The number, also as text, or the name.
    source_fn: Opens the training videos, which know the names; only called for names.

  Raises:
    UserError: No video has a class of this name.
  """
  if not isinstance(label, str) or re.fullmatch(r"\d{1,9}", label):
    return int(label)
  source = source_fn()
  names: dict[str, int] = {}
  for note in map(source.annotation, range(len(source))):
    if "label" in note:
      name = note.get("class_name", note.get("caption", ""))
      names.setdefault(str(name), int(note["label"]))
  if label not in names:
    known = ", ".join(map(repr, sorted(names)[:20])) or "without names"
    raise UserError(
      f"--label={label!r} is no class of the training videos; they have {known}"
    )
  return names[label]


def check(conditions: Sequence[Condition], *splits: sources.VideoSource) -> None:
  """Raises a `UserError` for what `describer` would stumble over; takes little time."""
  for condition in conditions:
    condition.check()
    for source in splits:
      notes = _notes(condition, source, range(len(source)))
      if condition.kind != "caption":  # Whose encoder takes its time.
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


def _class(values: ConditionSettings) -> Condition:
  def read(labels: Sequence[int], cache: pathlib.Path | None) -> Arrays:
    del cache
    for label in labels:
      if not 0 <= int(label) < values.num_classes:
        raise UnknownLabelError(label, values.num_classes)
    return {"label": np.array(labels, np.int32)}

  return Condition(
    "class", "label", {"label": jax.ShapeDtypeStruct((), jnp.int32)}, read
  )


def _caption(values: ConditionSettings) -> Condition:
  tokens, width = values.num_tokens, values.text_channels
  shapes = {
    "text": jax.ShapeDtypeStruct((tokens, width), jnp.float16),
    "text_mask": jax.ShapeDtypeStruct((tokens,), jnp.bool_),
  }

  def read(texts: Sequence[str], cache: pathlib.Path | None) -> Arrays:
    texts = [str(text) for text in texts]
    found = captions.embed(_encoder(values), texts, cache=cache)
    return {"text": found.values, "text_mask": found.mask}

  return Condition("caption", "caption", shapes, read, lambda: _encoder(values))


def _words(values: ConditionSettings) -> Condition:
  words = _vocabulary(values)

  def read(texts: Sequence[str], cache: pathlib.Path | None) -> Arrays:
    del cache
    return {"words": words.encode([str(text) for text in texts])}

  shapes = {"words": jax.ShapeDtypeStruct((words.num_tokens,), jnp.int32)}
  return Condition("words", "caption", shapes, read)


KINDS: dict[str, Callable[[ConditionSettings], Condition]] = {
  "class": _class,
  "caption": _caption,
  "words": _words,
}
# Kind -> what is said, `Condition.key`.
KEYS = {"class": "label", "caption": "caption", "words": "caption"}


def _notes(
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
      f" number {lacking[0]}; condition.kind={condition.kind!r} needs one for each"
    )
  if condition.key == "label":
    for i, label in zip(numbers, notes, strict=True):
      try:
        condition.read([label], None)
      except UnknownLabelError as e:
        raise UserError(f"video {i} has {e}") from e
  return notes


def _vocabulary(values: ConditionSettings) -> vocabulary.Vocabulary:
  found = vocabulary.VOCABULARIES.get(values.vocabulary)
  if found is None:
    if not pathlib.Path(values.vocabulary).expanduser().is_file():
      raise UserError(
        f"condition.vocabulary={values.vocabulary!r} is no file with a word in each"
        f" line; known by name: {', '.join(vocabulary.VOCABULARIES)}"
      )
    if not values.num_tokens:
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


def _encoder(values: ConditionSettings) -> captions.TextEncoder:
  encoder = captions.text_encoder(values.encoder or None, num_tokens=values.num_tokens)
  if encoder.width != values.text_channels:
    raise UserError(
      f"condition.text_channels={values.text_channels}; the text encoder gives"
      f" {encoder.width}"
    )
  return encoder
