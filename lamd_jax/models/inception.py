"""The Inception-v3 of FID and the Inception Score.

The network of Szegedy et al. 2015 (arXiv:1512.00567) as Google's graph
`inception-2015-12-05` has it, the one behind published scores. It differs from the
networks called Inception-v3 elsewhere: it has 1008 outputs, its average pooling leaves
the padding out of the mean, and its last block uses max pooling where the paper says
average. Its weights give wrong features in any other variant.

It is only evaluated here, so batch norm, which is then a scale and a shift per channel,
is folded into kernels and biases when weights are read. The weights come from a PyTorch
copy of the graph, in the package `pytorch-fid`; `from_pytorch_fid` reads its layout.
"""

from collections.abc import Callable, Mapping
import functools
from typing import NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from lamd_jax.types import Params, UserError

SIZE = 299  # Height and width in the training of the weights.
NUM_CLASSES = 1008  # ImageNet's 1000, and 8 that were never used.
_EPSILON = 1e-3  # Added to the variance by the batch norms.
# The arrays of a convolution and its norm.
_UNIT = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


class Outputs(NamedTuple):
  """Outputs that the scores are computed from.

  Attributes:
    features: Mean of the last block over the image, for FID and KID: `b 2048`.
    logits: Class logits, for the Inception Score: `b 1008`. They leave out the last
      layer's bias: the code of Salimans et al. 2016 multiplies by the kernel alone, as
      do all implementations whose scores agree with it.
  """

  features: Array
  logits: Array


def _unit(
  x: Float[Array, "b h w c"],
  name: str,
  features: int,
  height: int,
  width: int,
  stride: int = 1,
  padding: str = "SAME",
) -> Float[Array, "b h2 w2 features"]:
  """Applies a convolution, with its norm folded in, and a ReLU."""
  strides = (stride, stride)
  conv = nn.Conv(features, (height, width), strides, padding, name=name)
  return nn.relu(conv(x))


def _halved(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  return nn.max_pool(x, (3, 3), (2, 2))


def _max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
  return nn.max_pool(x, (3, 3), padding="SAME")


def _mean_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
  return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


class BlockA(nn.Module):
  """Branches of 1x1, 5x5 and two 3x3 convolutions, and a pool.

  Attributes:
    pool_features: Width of the pooling branch.
  """

  pool_features: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
    """Returns the branches' outputs, concatenated."""
    a = _unit(x, "branch1x1", 64, 1, 1)
    b = _unit(x, "branch5x5_1", 48, 1, 1)
    b = _unit(b, "branch5x5_2", 64, 5, 5)
    c = _unit(x, "branch3x3dbl_1", 64, 1, 1)
    c = _unit(c, "branch3x3dbl_2", 96, 3, 3)
    c = _unit(c, "branch3x3dbl_3", 96, 3, 3)
    d = _unit(_mean_pool(x), "branch_pool", self.pool_features, 1, 1)
    return jnp.concatenate([a, b, c, d], axis=-1)


class BlockB(nn.Module):
  """First reduction of height and width, by half."""

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
    """Returns the branches' outputs, concatenated."""
    a = _unit(x, "branch3x3", 384, 3, 3, 2, "VALID")
    b = _unit(x, "branch3x3dbl_1", 64, 1, 1)
    b = _unit(b, "branch3x3dbl_2", 96, 3, 3)
    b = _unit(b, "branch3x3dbl_3", 96, 3, 3, 2, "VALID")
    return jnp.concatenate([a, b, _halved(x)], axis=-1)


class BlockC(nn.Module):
  """Branches with one and two 7x7 convolutions, each as a row and a column.

  Attributes:
    features: Width inside the branches.
  """

  features: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
    """Returns the branches' outputs, concatenated."""
    a = _unit(x, "branch1x1", 192, 1, 1)
    b = _unit(x, "branch7x7_1", self.features, 1, 1)
    b = _unit(b, "branch7x7_2", self.features, 1, 7)
    b = _unit(b, "branch7x7_3", 192, 7, 1)
    c = _unit(x, "branch7x7dbl_1", self.features, 1, 1)
    c = _unit(c, "branch7x7dbl_2", self.features, 7, 1)
    c = _unit(c, "branch7x7dbl_3", self.features, 1, 7)
    c = _unit(c, "branch7x7dbl_4", self.features, 7, 1)
    c = _unit(c, "branch7x7dbl_5", 192, 1, 7)
    d = _unit(_mean_pool(x), "branch_pool", 192, 1, 1)
    return jnp.concatenate([a, b, c, d], axis=-1)


class BlockD(nn.Module):
  """Second reduction of height and width, by half."""

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
    """Returns the branches' outputs, concatenated."""
    a = _unit(x, "branch3x3_1", 192, 1, 1)
    a = _unit(a, "branch3x3_2", 320, 3, 3, 2, "VALID")
    b = _unit(x, "branch7x7x3_1", 192, 1, 1)
    b = _unit(b, "branch7x7x3_2", 192, 1, 7)
    b = _unit(b, "branch7x7x3_3", 192, 7, 1)
    b = _unit(b, "branch7x7x3_4", 192, 3, 3, 2, "VALID")
    return jnp.concatenate([a, b, _halved(x)], axis=-1)


class BlockE(nn.Module):
  """Branches that end in a row and a column convolution in parallel.

  Attributes:
    pool: Pooling of the last branch, `b h w c` to `b h w c`.
  """

  pool: Callable[[Array], Array]

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
    """Returns the branches' outputs, concatenated."""
    a = _unit(x, "branch1x1", 320, 1, 1)
    b = _unit(x, "branch3x3_1", 384, 1, 1)
    b_row = _unit(b, "branch3x3_2a", 384, 1, 3)
    b_column = _unit(b, "branch3x3_2b", 384, 3, 1)
    c = _unit(x, "branch3x3dbl_1", 448, 1, 1)
    c = _unit(c, "branch3x3dbl_2", 384, 3, 3)
    c_row = _unit(c, "branch3x3dbl_3a", 384, 1, 3)
    c_column = _unit(c, "branch3x3dbl_3b", 384, 3, 1)
    d = _unit(self.pool(x), "branch_pool", 192, 1, 1)
    return jnp.concatenate([a, b_row, b_column, c_row, c_column, d], axis=-1)


class Inception(nn.Module):
  """The whole network. Layers have the names of `pytorch-fid`."""

  @nn.compact
  def __call__(self, x: Float[Array, "b h w 3"]) -> Outputs:
    """Returns features and logits.

    Args:
      x: Images with pixels in [-1, 1], at least 75 a side; scores use 299, resized by
        `metrics.resize.bilinear`.
    """
    x = _unit(x, "Conv2d_1a_3x3", 32, 3, 3, 2, "VALID")
    x = _unit(x, "Conv2d_2a_3x3", 32, 3, 3, 1, "VALID")
    x = _unit(x, "Conv2d_2b_3x3", 64, 3, 3)
    x = _unit(_halved(x), "Conv2d_3b_1x1", 80, 1, 1)
    x = _unit(x, "Conv2d_4a_3x3", 192, 3, 3, 1, "VALID")
    x = _halved(x)
    for name, pool_features in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
      x = BlockA(pool_features, name=name)(x)
    x = BlockB(name="Mixed_6a")(x)
    for letter, features in zip("bcde", (128, 160, 160, 192), strict=True):
      x = BlockC(features, name=f"Mixed_6{letter}")(x)
    x = BlockD(name="Mixed_7a")(x)
    x = BlockE(_mean_pool, name="Mixed_7b")(x)
    x = BlockE(_max_pool, name="Mixed_7c")(x)
    x = jnp.mean(x, axis=(1, 2))
    logits = nn.Dense(NUM_CLASSES, use_bias=False, name="fc")(x)
    return Outputs(x, logits)


def from_pytorch_fid(arrays: Mapping[str, np.ndarray]) -> Params:
  """Reads the parameters of `Inception` from the state dict of `pytorch-fid`.

  Args:
    arrays: Arrays by name, such as `Mixed_5b.branch1x1.conv.weight`. The last layer's
      bias is not used; see `Outputs`.

  Raises:
    UserError: Arrays are missing, or belong to another Inception.
  """
  params = {}
  for name, shapes in _shapes().items():
    if name == "fc":
      parts = {"kernel": _array(arrays, "fc.weight").T}  # o c -> c o
    else:
      parts = _folded({key: _array(arrays, f"{name}.{key}") for key in _UNIT})
    for part, shape in shapes.items():
      if parts[part].shape != shape:
        raise UserError(
          f"{name} has a {part} of {parts[part].shape}, expected {shape}: these are"
          " weights of another Inception; give those of pytorch-fid"
        )
    params[name] = {part: jnp.asarray(x, jnp.float32) for part, x in parts.items()}
  return {"params": flax.traverse_util.unflatten_dict(params, sep=".")}


@functools.cache
def _shapes() -> dict[str, dict[str, tuple[int, ...]]]:
  """Returns the shapes of each layer's kernel and bias, by its dotted name."""
  x = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
  params = jax.eval_shape(Inception().init, jax.random.key(0), x)["params"]
  result = {}
  for path, leaf in jax.tree.leaves_with_path(params):
    *layer, part = (entry.key for entry in path)
    result.setdefault(".".join(layer), {})[part] = leaf.shape
  return result


def _array(arrays, name):
  if name not in arrays:
    raise UserError(
      f"these are no weights of FID's Inception: {name} is missing among"
      f" {len(arrays)} arrays; give those of pytorch-fid"
    )
  return np.asarray(arrays[name], np.float32)


def _folded(unit):
  """Folds a batch norm into the convolution before it, which has no bias."""
  gain = unit["bn.weight"] / np.sqrt(unit["bn.running_var"] + np.float32(_EPSILON))
  kernel = unit["conv.weight"].transpose(2, 3, 1, 0)  # o c h w -> h w c o
  return {
    "kernel": kernel * gain,
    "bias": unit["bn.bias"] - unit["bn.running_mean"] * gain,
  }
