"""VGG16 and AlexNet up to their last convolutions, for their intermediate features.

Simonyan & Zisserman 2014 (arXiv:1409.1556), configuration D; Krizhevsky 2014
(arXiv:1404.5997). Trained to classify ImageNet, and only evaluated here. Both return
the five feature maps that a perceptual distance compares (`perceptual.py`).

The weights are torchvision's. Layers keep torchvision's numbers in `features`, which
count activations and poolings too.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from lamd_jax.nn.conv import Conv
from lamd_jax.types import Params, UserError

# Channels and numbers of the convolutions of each block; pooling lies in between.
_VGG16_BLOCKS = (
  (64, (0, 2)),
  (128, (5, 7)),
  (256, (10, 12, 14)),
  (512, (17, 19, 21)),
  (512, (24, 26, 28)),
)
# Channels, kernel size and number of each convolution.
_ALEXNET_LAYERS = ((64, 11, 0), (192, 5, 3), (384, 3, 6), (256, 3, 8), (256, 3, 10))


class VGG16(nn.Module):
  """VGG16, with the activations at the end of each block: `relu1_2` to `relu5_3`."""

  channels = tuple(channels for channels, _ in _VGG16_BLOCKS)
  min_size = 16  # Pixels a side; fewer leave nothing for the last block.

  @nn.compact
  def __call__(self, x: Float[Array, "b h w 3"]) -> list[Float[Array, "b _ _ _"]]:
    """Returns five maps of 64, 128, 256, 512 and 512 channels, each half as large.

    Args:
      x: Images, normalized as the weights expect; at least `min_size` a side.
    """
    maps = []
    for channels, numbers in _VGG16_BLOCKS:
      if maps:
        x = nn.max_pool(x, (2, 2), (2, 2))
      for number in numbers:
        x = nn.relu(Conv(channels, (3, 3), name=f"features_{number}")(x))
      maps.append(x)
    return maps


class AlexNet(nn.Module):
  """AlexNet, with the activations after each convolution: `relu1` to `relu5`."""

  channels = tuple(channels for channels, *_ in _ALEXNET_LAYERS)
  min_size = 31  # Pixels a side; fewer leave nothing for the second pooling.

  @nn.compact
  def __call__(self, x: Float[Array, "b h w 3"]) -> list[Float[Array, "b _ _ _"]]:
    """Returns five maps of 64, 192, 384, 256 and 256 channels.

    Args:
      x: Images, normalized as the weights expect; at least `min_size` a side.
    """
    maps = []
    for channels, size, number in _ALEXNET_LAYERS:
      name = f"features_{number}"
      if len(maps) in (1, 2):
        x = nn.max_pool(x, (3, 3), (2, 2))
      if maps:
        x = Conv(channels, (size, size), name=name)(x)
      else:  # Two pixels on each side; "SAME" gives that at some sizes only.
        x = nn.Conv(channels, (size, size), (4, 4), padding=2, name=name)(x)
      x = nn.relu(x)
      maps.append(x)
    return maps


def from_torchvision(
  network: VGG16 | AlexNet, arrays: Mapping[str, np.ndarray]
) -> Params:
  """Reads the parameters of a network from torchvision's state dict.

  Args:
    network: Network to read.
    arrays: Arrays by name (`features.0.weight`), with kernels `o c h w`. Arrays other
      than the convolutions', such as the classifier's, are ignored.

  Raises:
    UserError: An array is missing, or belongs to another network.
  """
  x = jnp.zeros((1, network.min_size, network.min_size, 3))
  expected = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
  params = {}
  for layer, shapes in expected.items():
    name, (h, w, c, o) = layer.replace("_", "."), shapes["kernel"].shape
    kernel = named_array(arrays, f"{name}.weight", (o, c, h, w))
    params[layer] = {
      "kernel": jnp.asarray(kernel.transpose(2, 3, 1, 0)),  # h w c o
      "bias": jnp.asarray(named_array(arrays, f"{name}.bias", (o,))),
    }
  return {"params": params}


def named_array(
  arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]
) -> Float[np.ndarray, "..."]:
  """Returns an array of a state dict, as float32.

  Args:
    arrays: Arrays by name.
    name: Name of the array.
    shape: Shape that the array must have.

  Raises:
    UserError: The array is missing or has another shape.
  """
  if name not in arrays:
    found = ", ".join([*sorted(arrays)[:3], *["..."] * (len(arrays) > 3)])
    raise UserError(f"{name} is missing; there is: {found or 'nothing'}")
  if arrays[name].shape != shape:
    raise UserError(f"{name} has the shape {arrays[name].shape}, expected {shape}")
  return np.asarray(arrays[name], np.float32)
