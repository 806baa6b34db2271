"""What batches hold beside videos: conditions, and images for joint training.

Both come from blocks of a configuration, which systems that know neither leave out:

  condition   kind, dropout, and what the kind needs:
                class    num_classes
                caption  by a frozen encoder: encoder (a folder, "" for the installed
                         one), num_tokens, and text_channels, the width of the encoder
                words    by one that is trained: vocabulary (a name, or a text file with
                         a word in each line), num_words, and for a file num_tokens
  images      num, for each video, and source: as config.data, {} for the same videos

A third, `augment`, has flip: whether half of them are mirrored left to right.
"""

from collections.abc import Sequence
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.data import sources, vocabulary
from lamd_jax.data.pipeline import Describe
from lamd_jax.experiment import captions
from lamd_jax.types import Config, UserError


def abstract(config: Config, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of what is beside the videos of a batch."""
  conditions: dict[str, tuple[tuple[int, ...], Any]] = {}
  match kind(config):
    case "class":
      conditions["label"] = (), jnp.int32
    case "caption":
      tokens, width = config.condition.num_tokens, config.condition.text_channels
      conditions["text"] = (tokens, width), jnp.float16
      conditions["text_mask"] = (tokens,), jnp.bool_
    case "words":
      conditions["words"] = (_vocabulary(config).num_tokens,), jnp.int32
  shapes = {
    name: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
    for name, (shape, dtype) in conditions.items()
  }
  if num := num_images(config):
    side = config.data.resolution
    shapes["images"] = jax.ShapeDtypeStruct((batch_size, num, side, side, 3), jnp.uint8)
    for name, (shape, dtype) in conditions.items():
      shape = (batch_size, num, *shape)
      shapes[f"image_{name}"] = jax.ShapeDtypeStruct(shape, dtype)
  return shapes


def num_images(config: Config) -> int:
  """How many images go with each video in training."""
  return config.images.num if "images" in config else 0


def image_source(
  config: Config, videos: sources.VideoSource, split: str
) -> sources.VideoSource:
  """Where the images come from; the videos themselves if nothing else is said."""
  values = config.images.source.to_dict() if "images" in config else {}
  if not values:
    return videos
  same = {"num_frames": 1, "frame_stride": 1, "resolution": config.data.resolution}
  return sources.make_source(values | same, split)


def describer(
  config: Config,
  source: sources.VideoSource,
  numbers: Sequence[int] | None = None,
  cache: pathlib.Path | None = None,
) -> Describe | None:
  """From the number of a video to its condition; None where there is none.

  Args:
    config: The configuration.
    source: The videos.
    numbers: Of the videos that will be asked for; None for all.
    cache: A folder that keeps embeddings of captions.

  Raises:
    UserError: A video has no label or caption, or a label is too large.
  """
  numbers = range(len(source)) if numbers is None else sorted(set(numbers))
  notes = _notes(config, source, numbers)
  match kind(config):
    case "class":
      return lambda i: {"label": np.asarray(notes[i], np.int32)}
    case "caption" | "words":
      found = _read(config, [str(notes[i]) for i in numbers], cache)
      places = {i: place for place, i in enumerate(numbers)}
      return lambda i: {name: values[places[i]] for name, values in found.items()}
  return None


def asked(
  config: Config, count: int, *, caption: str | None = None, label: int | None = None
) -> dict[str, np.ndarray]:
  """What a user says of videos to be made, as a batch of `count` holds it.

  Args:
    config: The configuration.
    count: How many videos.
    caption: Of all of them, for a model that knows captions.
    label: Of all of them, for a model that knows classes.

  Returns:
    {} where nothing is said: the model is then asked without its condition.

  Raises:
    UserError: This model knows no such thing.
  """
  of = kind(config)
  for name, value, kinds in (
    ("caption", caption, ("caption", "words")), ("label", label, ("class",))
  ):  # fmt: skip
    if value is not None and of not in kinds:
      needed = " or ".join(repr(x) for x in kinds)
      raise UserError(f"--{name}: this model's condition is {of!r}, not {needed}")
  if caption is not None:
    return _read(config, [caption] * count)
  if label is not None:
    if not 0 <= label < config.condition.num_classes:
      raise UserError(
        f"--label={label}: expected 0 to {config.condition.num_classes - 1}"
      )
    return {"label": np.full(count, label, np.int32)}
  return {}


def check(config: Config, *splits: sources.VideoSource) -> None:
  """Raises a `UserError` for what `describer` would stumble over; takes little time."""
  for source in splits:
    notes = _notes(config, source, range(len(source)))
    if kind(config) == "words":
      _read(config, [str(note) for note in notes.values()])
  if kind(config) == "caption":
    _encoder(config)


def _notes(
  config: Config, source: sources.VideoSource, numbers: Sequence[int]
) -> dict[int, int | str]:
  """The label or the caption of each video; {} where there is no condition."""
  if (of := kind(config)) == "none":
    return {}
  key = "label" if of == "class" else "caption"
  notes: dict[int, int | str] = {}
  lacking = []
  for i in numbers:
    note = source.annotation(i).get(key)
    if note is None:
      lacking.append(i)
    else:
      notes[i] = note
  if lacking:
    raise UserError(
      f"{len(lacking)} of {len(numbers)} videos have no {key}, the first is number"
      f" {lacking[0]}; condition.kind={of!r} needs one for each"
    )
  known = config.condition.num_classes if of == "class" else 0
  for i, label in notes.items():
    if of == "class" and not 0 <= int(label) < known:
      raise UserError(
        f"video {i} has the label {label}; condition.num_classes={known} knows 0 to"
        f" {known - 1}"
      )
  return notes


def _read(
  config: Config, texts: Sequence[str], cache: pathlib.Path | None = None
) -> dict[str, np.ndarray]:
  """Captions as a batch holds them.

  Returns:
    `text` [b n d] and `text_mask` [b n] of a frozen encoder, or `words` [b n].
  """
  if kind(config) == "words":
    return {"words": _vocabulary(config).encode(texts)}
  found = captions.embed(_encoder(config), texts, cache=cache)
  return {"text": found.values, "text_mask": found.mask}


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
        " condition.num_tokens, the tokens of the longest caption with a start and an"
        " end"
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


def kind(config: Config) -> str:
  """What batches have for a condition: "none", "class", "caption" or "words"."""
  return config.condition.kind if "condition" in config else "none"
