"""TFDS data sets on disk, read without TensorFlow.

A data set that TFDS has prepared as ArrayRecord is a folder with a description in JSON
and files of `tf.train.Example` records. Both can be read without TensorFlow, and
without TFDS's feature classes, some of which (`features.Video`) need it. Only the image
sequence of a record is used, and only the window is decoded.
"""

import collections
import functools
import io
import json
import os
import pathlib
import re
import threading
from typing import Annotated, Any

from absl import logging
from array_record.python import array_record_data_source
from jaxtyping import UInt8
import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

from lamd_jax.data import media, replacement
from lamd_jax.data.regular_files import read_text
from lamd_jax.data.sets import bair
from lamd_jax.schema import FilePath, Frames, Range, Side
from lamd_jax.types import UserError

_IMAGE_KEYS = {bair.NAME: bair.IMAGE_KEY}
_RATES = {bair.NAME: bair.FPS}
_EVAL_SPLITS = ("test", "validation", "val", "eval")
_EVAL_FRACTION = 0.1


class TfdsSource:
  """The image sequences of a TFDS data set.

  Training reads the split "train". Evaluation reads "test" or "validation"; without
  either it reads the last tenth of "train", which training then leaves out.

  Attributes:
    fps: Frames per second; TFDS does not store it.
    skipped: A line for every unusable record, added as it is encountered.
    num_classes: None; labels are not read.
  """

  def __init__(
    self,
    split: str,
    *,
    num_frames: Frames,
    tfds_name: str = bair.NAME,
    data_dir: FilePath | None = None,
    image_key: str | None = None,
    fps: Annotated[float, Range(0.01, 1000)] | None = None,
    frame_stride: Frames = 1,
    resolution: Side = 64,
  ):
    """Finds the data set and reads its description, but no record.

    Args:
      split: "train" or "eval".
      num_frames: Number of frames of a window.
      tfds_name: Name in TFDS: "name", "name/config", "name:version" or
        "name/config:version"; without a version, the latest one on disk.
      data_dir: The folder in which TFDS prepared the data; by default TFDS's own.
      image_key: The image sequence, with dots for nested keys, such as
        "steps.observation.image"; optional where there is only one.
      fps: Frames per second at which clips are shown.
      frame_stride: Distance in the video between neighbouring frames of a window.
      resolution: Height and width of the squares in pixels.
    """
    self._folder = _find(tfds_name, data_dir)
    name = re.split("[/:]", tfds_name)[0]
    key = _choose_key(self._folder, image_key or _IMAGE_KEYS.get(name))
    self._field = key.replace(".", "/")
    self.fps = float(fps or _RATES.get(name, bair.FPS))
    self.skipped: list[str] = []
    self.num_classes: int | None = None
    self._span = (num_frames - 1) * frame_stride + 1
    self._resolution = resolution
    self._split, records, self._numbers = _open_split(self._folder, split)
    self._records = records
    self._lengths: dict[int, int] = {}
    self._lock = threading.Lock()
    # The length of a video is needed just before its window is read.
    self._encoded = functools.lru_cache(maxsize=32)(self._load)

  def __len__(self) -> int:
    """Returns the number of videos."""
    return len(self._numbers)

  def num_frames(self, index: int) -> int:
    """Returns the number of frames of video `index`; 0 if it cannot be read."""
    if index not in self._lengths:
      try:
        self._lengths[index] = len(self._encoded(index))
      except UserError as error:
        self._skip(index, error)
        self._lengths[index] = 0
    return self._lengths[index]

  def read(
    self, index: int, start: int, num_frames: int, stride: int
  ) -> UInt8[np.ndarray, "f h w 3"]:
    """Reads the frames start, start + stride, ... of video `index`, as squares.

    A window that cannot be read is replaced by one of the next video that can be read.
    The choice depends only on the arguments, so training stays reproducible.
    """

    def read_window(index: int, start: int) -> UInt8[np.ndarray, "f h w 3"]:
      numbers = slice(start, start + (num_frames - 1) * stride + 1, stride)
      images = (media.read_image(io.BytesIO(i)) for i in self._encoded(index)[numbers])
      return np.concatenate(
        [media.resize_crop(image[None], self._resolution) for image in images]
      )

    return replacement.read_or_replace(
      read_window,
      self.num_frames,
      self._skip,
      num_videos=len(self),
      index=index,
      start=start,
      span=(num_frames - 1) * stride + 1,
    )

  def annotation(self, index: int) -> dict[str, int | str]:
    """Returns no annotation, as nothing is known of these videos."""
    del index
    return {}

  def _load(self, index: int) -> list[bytes]:
    """Returns the encoded images of a record."""
    try:
      record = self._records[self._numbers[index]]
      example = tf_example_pb2.Example.FromString(  # pyright: ignore[reportAttributeAccessIssue]
        record
      )
    except Exception as error:  # array_record and protobuf raise various errors.
      reason = " ".join(str(error).split())
      raise UserError(f"the record cannot be read ({reason})") from error
    if self._field not in example.features.feature:
      raise UserError(f"the record has no {self._field!r}")
    return list(example.features.feature[self._field].bytes_list.value)

  def _skip(self, index: int, error: UserError) -> None:
    name = f"{self._split} record {self._numbers[index]}"
    with self._lock:
      if any(line.startswith(f"{name}: ") for line in self.skipped):
        return
      self.skipped.append(f"{name}: {error}")
    logging.warning("another clip takes the place of %s", self.skipped[-1])


def _find(tfds_name: str, data_dir: str | None) -> pathlib.Path:
  """Finds the folder of one version of a data set."""
  default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  root = pathlib.Path(data_dir or default).expanduser()
  path, _, version = tfds_name.partition(":")
  if not re.fullmatch(r"[\w.*-]*", version):
    raise UserError(
      f"data.tfds_name={tfds_name!r}: expected a version such as 1.0.0 after the colon"
    )
  base = root / path
  found = [path.parent for path in base.glob(f"{version or '*'}/features.json")]
  if not found:
    configs = {p.parent.parent.name for p in base.glob("*/*/features.json")}
    if len(configs) > 1:
      raise UserError(
        f"data.tfds_name={tfds_name!r} has several configurations in {str(root)!r}; "
        f"add one of: {', '.join(f'{path}/{config}' for config in sorted(configs))}"
      )
    pattern = f"*/{version or '*'}/features.json"
    found = [path.parent for path in base.glob(pattern)]
  if not found:
    raise UserError(
      f"no data set {tfds_name!r} in data.data_dir={str(root)!r} (looked for "
      f"{base / (version or '<version>') / 'features.json'}); to prepare it, the one "
      "step that needs TensorFlow, run: pip install tensorflow tensorflow-datasets && "
      'python -c "import tensorflow_datasets as tfds; '
      f"tfds.builder({tfds_name!r}, file_format='array_record', "
      f'data_dir={str(root)!r}).download_and_prepare()"'
    )
  # 10.0.0 is later than 9.0.0.
  return max(found, key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)])


def _choose_key(folder: pathlib.Path, image_key: str | None) -> str:
  file = folder / "features.json"
  try:
    sequences, others = _image_sequences(json.loads(read_text(file)))
  # Of any damage, as what is read is of any shape.
  except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
    raise UserError(
      f"{str(file)!r} cannot be read ({error}); copy the data set again"
    ) from error
  if image_key in sequences:
    return image_key
  if not sequences:
    raise UserError(
      f"the data set in {str(folder)!r} has no sequence of images; it has: "
      f"{', '.join(others) or 'nothing'}"
    )
  if image_key is None and len(sequences) == 1:
    return sequences[0]
  given = "is not set" if image_key is None else f"is {image_key!r}"
  raise UserError(
    f"data.image_key {given}; the data set in {str(folder)!r} has these image "
    f"sequences: {', '.join(sequences)}"
  )


def _image_sequences(
  feature: dict[str, Any], path: str = "", depth: int = 0
) -> tuple[list[str], list[str]]:
  """Returns dotted names of the image sequences and of all other features."""
  if "featuresDict" in feature:
    sequences, others = [], []
    for name, inner in sorted(dict(feature["featuresDict"]["features"]).items()):
      found = _image_sequences(inner, f"{path}.{name}" if path else name, depth)
      sequences += found[0]
      others += found[1]
    return sequences, others
  if "sequence" in feature:
    return _image_sequences(feature["sequence"]["feature"], path, depth + 1)
  # A video is a sequence of images; sequences of videos are not supported.
  is_images = ("image" in feature and depth == 1) or ("video" in feature and depth == 0)
  return ([path], []) if is_images else ([], [path])


def _open_split(
  folder: pathlib.Path, split: str
) -> tuple[str, array_record_data_source.ArrayRecordDataSource, range]:
  """Returns the name of the stored split, its records, and which of them to use."""
  shards: dict[str, dict[int, tuple[int, pathlib.Path]]] = collections.defaultdict(dict)
  for path in sorted(folder.glob("*.array_record-*-of-*")):
    match = re.fullmatch(r".+-(.+)\.array_record-(\d+)-of-(\d+)", path.name)
    if match:
      shards[match[1]][int(match[2])] = int(match[3]), path
  if not shards:
    raise UserError(
      f"{str(folder)!r} holds no ArrayRecord files; data prepared in another format is "
      "converted by (needs TensorFlow): python -m "
      f"tensorflow_datasets.scripts.convert_format --dataset_dir={str(folder)!r} "
      f"--out_file_format=array_record --out_path={str(folder)!r}"
    )
  held_out = next((name for name in _EVAL_SPLITS if name in shards), None)
  name = held_out if split == "eval" and held_out else "train"
  if name not in shards:
    raise UserError(
      f"{str(folder)!r} has no split {name!r}; it has: {', '.join(sorted(shards))}"
    )
  count = max(count for count, _ in shards[name].values())
  if missing := count - len(shards[name]):
    first = next(number for number in range(count) if number not in shards[name])
    raise UserError(
      f"{str(folder)!r}: {missing} of the {count} files of split {name!r} are "
      f"missing, the first is number {first}; copy the folder again"
    )
  paths = [str(shards[name][number][1]) for number in range(count)]
  try:
    records = array_record_data_source.ArrayRecordDataSource(paths)
    size = len(records)
  except Exception as error:  # The errors for damaged files are undocumented.
    raise UserError(
      f"split {name!r} in {str(folder)!r} cannot be opened "
      f"({' '.join(str(error).split())}); copy it again"
    ) from error
  numbers = range(size)
  if held_out is None:
    first_held_out = size - max(1, round(size * _EVAL_FRACTION))
    numbers = numbers[first_held_out:] if split == "eval" else numbers[:first_held_out]
  if not numbers:
    raise UserError(f"split {name!r} in {str(folder)!r} has no record for {split!r}")
  return name, records, numbers
