"""Convolutions over videos and images, with one set of weights on every platform.

The weights are those of an ordinary convolution. How it is computed depends on
the platform, chosen when a function is lowered: accelerators get XLA's own
convolution. On CPU, XLA's three-dimensional convolutions and the gradients of
narrow kernels are several times slower than the arithmetic allows, so there a
kernel over frames is a sum of two-dimensional convolutions with the frames folded
into the batch, and the gradient of the weights is a matrix product over patches,
accumulated over a few frames at a time so that the patches stay in the cache.
`tests/benchmarks/conv_benchmark.py` compares the two.
"""

from collections.abc import Sequence
import functools
import math

import flax.linen as nn
from flax.linen.dtypes import promote_dtype
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

# Rows of the patch matrix built at once on CPU; its size is a few hundred KiB.
ROWS = 4096
# With fewer rows in all, XLA's own gradient costs little and compiles faster.
FEW_ROWS = 8192
# What a convolution gives is called so, for `remat`: policies that go by primitives
# would see into `convolve`, where each platform has other ones.
RESULT = "convolution"

_DIMENSIONS = ("NDHWC", "DHWIO", "NDHWC")


def _pads(sizes, kernel, strides):
  """SAME padding, as (before, after) an axis."""
  pads = []
  for size, k, s in zip(sizes, kernel, strides, strict=True):
    total = max((math.ceil(size / s) - 1) * s + k - size, 0)
    pads.append((total // 2, total - total // 2))
  return pads


def _direct(x, kernel, strides):
  return jax.lax.conv_general_dilated(
    x, kernel, strides, "SAME", dimension_numbers=_DIMENSIONS
  )


def _convolve_images(x, kernel, strides):
  return jax.lax.conv_general_dilated(
    x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _tap_frames(x, kernel, strides):
  """For each tap of the kernel over frames: the frames it sees, folded to `n h w c`.

  Frames that lie in the padding are left out; the second value says which output
  frames (first, last + 1) the tap contributes to.
  """
  frames = x.shape[1]
  before, _ = _pads((frames,), kernel.shape[:1], strides[:1])[0]
  out = math.ceil(frames / strides[0])
  for tap in range(kernel.shape[0]):
    seen = [i for i in range(out) if 0 <= i * strides[0] + tap - before < frames]
    if not seen:
      continue
    first = seen[0] * strides[0] + tap - before
    last = seen[-1] * strides[0] + tap - before
    part = x[:, first : last + 1 : strides[0]]
    yield tap, part.reshape(-1, *x.shape[2:]), (seen[0], seen[-1] + 1)


def _folded(x, kernel, strides):
  """The convolution as a sum of two-dimensional ones."""
  batch, frames, *_, out = *x.shape[:2], kernel.shape[-1]
  frames = math.ceil(frames / strides[0])
  total = jnp.zeros((), x.dtype)
  for tap, part, (first, last) in _tap_frames(x, kernel, strides):
    y = _convolve_images(part, kernel[tap], strides[1:])
    y = y.reshape(batch, last - first, *y.shape[1:3], out)
    total += jnp.pad(y, ((0, 0), (first, frames - last), (0, 0), (0, 0), (0, 0)))
  return total


def _patch_gradient(x, g, kernel_shape, strides):
  """Gradient of a two-dimensional kernel: `n h w c`, `n h w o` -> `kh kw c o`."""
  n, h, w, c = x.shape
  (kh, kw), (out_h, out_w, out) = kernel_shape, g.shape[1:]
  pads = _pads((h, w), kernel_shape, strides)
  fits = [d for d in range(1, n + 1) if n % d == 0 and d * out_h * out_w <= ROWS]
  chunk = max(fits, default=1)
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  x = x.reshape(n // chunk, chunk, *x.shape[1:])
  g = g.reshape(n // chunk, chunk * out_h * out_w, out)

  def body(total, part):
    x, g = part
    patches = [
      x[
        :,
        i : i + (out_h - 1) * strides[0] + 1 : strides[0],
        j : j + (out_w - 1) * strides[1] + 1 : strides[1],
      ]
      for i in range(kh)
      for j in range(kw)
    ]
    patches = jnp.concatenate(patches, axis=-1).reshape(-1, kh * kw * c)
    return total + jnp.matmul(patches.T, g, preferred_element_type=jnp.float32), None

  total, _ = jax.lax.scan(body, jnp.zeros((kh * kw * c, out), jnp.float32), (x, g))
  return total.reshape(kh, kw, c, out)


def _image_gradient(x, g, kernel_shape, strides):
  """The same, by XLA."""
  kernel = jnp.zeros((*kernel_shape, x.shape[-1], g.shape[-1]), x.dtype)
  forward = lambda kernel: _convolve_images(x, kernel, strides)
  return jax.vjp(forward, kernel)[1](g)[0].astype(jnp.float32)


def _folded_gradient(x, g, kernel, strides):
  taps = [jnp.zeros(kernel.shape[1:], jnp.float32)] * kernel.shape[0]
  for tap, part, (first, last) in _tap_frames(x, kernel, strides):
    part_g = g[:, first:last].reshape(-1, *g.shape[2:])
    many = math.prod(part_g.shape[:3]) >= FEW_ROWS
    gradient = _patch_gradient if many else _image_gradient
    taps[tap] = gradient(part, part_g, kernel.shape[1:3], strides[1:])
  return jnp.stack(taps).astype(kernel.dtype)


def _over_frames(x, kernel, strides):
  """A kernel over frames alone, with all pixels of a frame in one row."""
  b, f, h, w, c = x.shape
  rows = x.reshape(b, f, h * w, c)
  y = _convolve_images(rows, kernel[:, :, 0], (strides[0], 1))
  return y.reshape(b, -1, h, w, kernel.shape[-1])


def _is_over_frames(kernel, strides):
  return kernel.shape[1:3] == (1, 1) and strides[1:] == (1, 1)


def _on_cpu(x, kernel, strides):
  over_frames = _is_over_frames(kernel, strides)
  return (_over_frames if over_frames else _folded)(x, kernel, strides)


def _gradients_on_cpu(x, kernel, g, strides):
  if _is_over_frames(kernel, strides):  # XLA's own gradients are fast here.
    return _gradients(_over_frames, x, kernel, g, strides)
  (gx,) = jax.vjp(lambda x: _folded(x, kernel, strides), x)[1](g)
  return gx, _folded_gradient(x, g, kernel, strides)


def _gradients(forward, x, kernel, g, strides):
  return jax.vjp(lambda x, kernel: forward(x, kernel, strides), x, kernel)[1](g)


def _forward(x, kernel, strides):
  return jax.lax.platform_dependent(
    x,
    kernel,
    cpu=functools.partial(_on_cpu, strides=strides),
    default=functools.partial(_direct, strides=strides),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
  x: Float[Array, "b f h w c"],
  kernel: Float[Array, "kf kh kw c o"],
  strides: tuple[int, int, int] = (1, 1, 1),
) -> Float[Array, "b f2 h2 w2 o"]:
  """Convolves a video, zero-padded to the size divided by the strides ("SAME")."""
  return _forward(x, kernel, strides)


def _convolve_fwd(x, kernel, strides):
  return _forward(x, kernel, strides), (x, kernel)


def _convolve_bwd(strides, residuals, g):
  x, kernel = residuals
  return jax.lax.platform_dependent(
    x,
    kernel,
    g,
    cpu=functools.partial(_gradients_on_cpu, strides=strides),
    default=functools.partial(_gradients, _direct, strides=strides),
  )


convolve.defvjp(_convolve_fwd, _convolve_bwd)


class Conv(nn.Module):
  """A convolution with bias over `b f h w c`, or over `b h w c`.

  Attributes:
    features: Channels out.
    kernel_size: Three sizes (frames, height, width), or two for images.
    strides: As many; the output has the size divided by the stride, rounded up.
    kernel_init: Initializer; zeros make a branch that ends here start as nothing.
    dtype: Of the computation; the parameters are float32.
  """

  features: int
  kernel_size: Sequence[int]
  strides: Sequence[int] | None = None
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "b *fhw c"]) -> Float[Array, "b *fhw2 o"]:
    """Convolves x."""
    size = tuple(self.kernel_size)
    strides = tuple(self.strides or (1,) * len(size))
    shape = (*size, x.shape[-1], self.features)
    kernel: Array = self.param("kernel", self.kernel_init, shape, jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
    is_image = len(size) == 2
    if is_image:  # A video of one frame.
      x, kernel, strides = x[:, None], kernel[None], (1, *strides)
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
    y = checkpoint_name(convolve(x, kernel, strides), RESULT) + bias
    return y[:, 0] if is_image else y
