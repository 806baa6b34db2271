"""Features of frames and captions by frozen networks, batch by batch.

They serve FID (`metrics.frechet` on features of Inception), the Inception Score and
CLIPSIM. Networks run in full float32 on every device: the faster products of GPUs and
TPUs would change the scores.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float32, Int32, UInt8
import numpy as np
from PIL import Image

from lamd_jax.interop.weights import Origin, Path, read_safetensors
from lamd_jax.metrics import resize
from lamd_jax.models import clip, inception
from lamd_jax.types import Params, UserError

INCEPTION = Origin(
  network="the Inception-v3 of FID",
  url=(
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
  ),
  sha256="6726825d",
  convert=(
    "import torch, safetensors.torch as s;"
    " s.save_file(torch.load('pt_inception-2015-12-05-6726825d.pth'),"
    " 'inception.safetensors')"
  ),
)
CLIP = Origin(
  network="CLIP ViT-B/32",
  url=(
    "https://openaipublic.azureedge.net/clip/models/40d365715913c9da98579312b702a82c"
    "18be219cc2a73407c4526f58eba950af/ViT-B-32.pt"
  ),
  sha256="40d36571",
  convert=(
    "import torch, safetensors.torch as s;"
    " m = torch.jit.load('ViT-B-32.pt', map_location='cpu');"
    " s.save_file({k: v.clone() for k, v in m.state_dict().items()},"
    " 'clip.safetensors')"
  ),
)
# Mean and standard deviation of CLIP's training pixels, as fractions of white.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def load_inception(path: Path) -> Params:
  """Loads parameters for `inception_outputs` from a safetensors file.

  Raises:
    UserError: The file is missing, or holds something else; says where to get it.
  """
  return inception.from_pytorch_fid(read_safetensors(path, INCEPTION))


def load_clip(path: Path) -> tuple[clip.CLIP, Params]:
  """Loads CLIP and its parameters from a safetensors file.

  Raises:
    UserError: The file is missing, or holds something else; says where to get it.
  """
  return clip.from_openai(read_safetensors(path, CLIP))


def inception_outputs(
  params: Params, frames: UInt8[np.ndarray, "*lead h w 3"], *, batch_size: int = 32
) -> inception.Outputs:
  """Returns Inception's features and logits of frames.

  Frames are resized to 299x299 as in `pytorch-fid`: pixel centres are aligned, without
  smoothing. The original FID and Inception Score in TensorFlow used the rule "tf1" of
  `resize`.

  Args:
    params: Parameters from `load_inception`.
    frames: Frames of any size, with any leading axes.
    batch_size: Frames per batch; each frame size is compiled once.

  Returns:
    float32, `*lead 2048` and `*lead 1008`.
  """
  return in_batches(functools.partial(_inception, params), frames, 3, batch_size)


def clip_image_features(
  network: clip.CLIP,
  params: Params,
  frames: UInt8[np.ndarray, "*lead h w 3"],
  *,
  batch_size: int = 64,
) -> Float32[np.ndarray, "*lead d"]:
  """Returns CLIP's features of frames, not normalized.

  Args:
    network: Network from `load_clip`.
    params: Parameters from `load_clip`.
    frames: Frames of any size, with any leading axes; see `clip_frames`.
    batch_size: Frames per batch.
  """
  fn = lambda part: _clip_image(network, params, clip_frames(part, network.image_size))
  return in_batches(fn, frames, 3, batch_size)


def clip_text_features(
  network: clip.CLIP,
  params: Params,
  tokens: Int32[np.ndarray, "*lead n"],
  *,
  batch_size: int = 64,
) -> Float32[np.ndarray, "*lead d"]:
  """Returns CLIP's features of texts, not normalized.

  Args:
    network: Network from `load_clip`.
    params: Parameters from `load_clip`.
    tokens: Tokens from `interop.clip_tokenizer`.
    batch_size: Texts per batch.
  """
  fn = functools.partial(_clip_text, network, params)
  return in_batches(fn, tokens, 1, batch_size)


def clip_frames(
  frames: UInt8[np.ndarray, "b h w 3"], size: int
) -> UInt8[np.ndarray, "b size size 3"]:
  """Resizes frames as CLIP does, bicubic by Pillow, and crops the centre square.

  Args:
    frames: Frames of any size.
    size: New height and width.
  """
  _, h, w, _ = frames.shape
  short = min(h, w)
  height, width = size * h // short, size * w // short
  # Rounds halves to even, as torchvision does.
  top, left = round((height - size) / 2), round((width - size) / 2)
  result = np.empty((len(frames), size, size, 3), np.uint8)
  for out, frame in zip(result, frames, strict=True):
    resized = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
    out[:] = np.asarray(resized)[top : top + size, left : left + size]
  return result


def in_batches(
  fn: Callable[[np.ndarray], Any], items: np.ndarray, item_ndim: int, batch_size: int
) -> Any:
  """Applies a function of a batch to any number of items.

  The last batch is padded with copies of its last item, so that all batches have one
  size and the function compiles once.

  Args:
    fn: Function from a batch of items to arrays, or a tree of arrays, with a leading
      batch axis.
    items: Items with any leading axes.
    item_ndim: Number of axes of an item.
    batch_size: Items per batch.

  Returns:
    The function's tree as NumPy arrays, with the leading axes of the items.

  Raises:
    UserError: There are no items.
  """
  lead, shape = items.shape[:-item_ndim], items.shape[-item_ndim:]
  items = items.reshape(-1, *shape)
  if not len(items):
    raise UserError(
      f"features of an empty array {(*lead, *shape)} were asked for; expected at least"
      " one frame or text"
    )

  def results(start):
    part = items[start : start + batch_size]
    copies = np.repeat(part[-1:], batch_size - len(part), axis=0)
    tree = jax.device_get(fn(np.concatenate([part, copies])))
    return jax.tree.map(lambda x: x[: len(part)], tree)

  parts = [results(start) for start in range(0, len(items), batch_size)]
  join = lambda *xs: np.concatenate(xs).reshape(*lead, *xs[0].shape[1:])
  return jax.tree.map(join, *parts)


@jax.jit
@jax.default_matmul_precision("highest")
def _inception(params, frames):
  size = (inception.SIZE, inception.SIZE)
  x = resize.bilinear(frames / 127.5 - 1.0, size, "half_pixel")
  return inception.Inception().apply(params, x)


@functools.partial(jax.jit, static_argnames="network")
@jax.default_matmul_precision("highest")
def _clip_image(network, params, frames):
  x = (frames / 255.0 - jnp.array(_CLIP_MEAN)) / jnp.array(_CLIP_STD)
  return network.apply(params, x, method="encode_image")


@functools.partial(jax.jit, static_argnames="network")
@jax.default_matmul_precision("highest")
def _clip_text(network, params, tokens):
  return network.apply(params, tokens, method="encode_text")
