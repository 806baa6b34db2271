"""Convolutions over videos and images, with one set of weights on every platform.

The weights are those of an ordinary convolution. How it is computed depends on the
platform, chosen when a function is lowered: accelerators get XLA's own convolution. On
CPU, XLA's three-dimensional convolutions and the gradients of narrow kernels are
several times slower than the arithmetic allows, so there a kernel over frames becomes a
sum of two-dimensional convolutions with the frames folded into the batch, and the
gradient of the weights becomes a matrix product over patches, accumulated a few frames
at a time so that the patches stay in the cache. `tests/benchmarks/conv_benchmark.py`
compares the two.
"""

from collections.abc import Sequence
import functools
import math
from typing import NamedTuple

import flax.linen as nn
from flax.linen.dtypes import promote_dtype
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lamd_jax.types import UserError

PADDINGS = ("zeros", "edge")
Pads = tuple[tuple[int, int], ...]  # (before, after) for each axis.

# Rows of the patch matrix built at once on CPU; its size is a few hundred KiB.
ROWS = 4096
# With fewer rows in all, XLA's own gradient costs little and compiles faster.
FEW_ROWS = 8192
# Name of a convolution's result, for `remat`: policies that go by primitives would look
# inside `convolve`, where each platform has different ones.
RESULT = "convolution"

_DIMENSIONS = ("NDHWC", "DHWIO", "NDHWC")


class _Window(NamedTuple):
  """Strides and zero padding of a convolution, by axis."""

  strides: tuple[int, ...]
  pads: Pads

  def in_space(self) -> "_Window":
    return _Window(self.strides[1:], self.pads[1:])


def same_pads(
  sizes: Sequence[int], kernel_size: Sequence[int], strides: Sequence[int]
) -> Pads:
  """Returns the padding for an output size of input / stride, rounded up ("SAME").

  An odd total puts the larger half after the input, as TensorFlow does.
  """
  pads = []
  for size, k, s in zip(sizes, kernel_size, strides, strict=True):
    total = max((math.ceil(size / s) - 1) * s + k - size, 0)
    pads.append((total // 2, total - total // 2))
  return tuple(pads)


def pad_edges(x: Float[Array, "b *fhw c"], pads: Pads) -> Float[Array, "b *fhw2 c"]:
  """Repeats the outermost values of x along all axes but batch and channels."""
  return jnp.pad(x, ((0, 0), *pads, (0, 0)), mode="edge")


def _direct(x, kernel, window):
  return jax.lax.conv_general_dilated(x, kernel, *window, dimension_numbers=_DIMENSIONS)


def _convolve_images(x, kernel, window):
  return jax.lax.conv_general_dilated(
    x, kernel, *window, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _num_out(frames, kernel, window):
  """Returns the number of output frames."""
  return (frames + sum(window.pads[0]) - kernel.shape[0]) // window.strides[0] + 1


def _tap_frames(x, kernel, window):
  """Yields each tap of the kernel over frames, with its frames folded to `n h w c`.

  Frames in the padding are left out; the third value gives the output frames
  (first, last + 1) that the tap contributes to.
  """
  frames, stride, before = x.shape[1], window.strides[0], window.pads[0][0]
  out = _num_out(frames, kernel, window)
  for tap in range(kernel.shape[0]):
    seen = [i for i in range(out) if 0 <= i * stride + tap - before < frames]
    if not seen:
      continue
    first = seen[0] * stride + tap - before
    last = seen[-1] * stride + tap - before
    part = x[:, first : last + 1 : stride]
    yield tap, part.reshape(-1, *x.shape[2:]), (seen[0], seen[-1] + 1)


def _folded(x, kernel, window):
  """Computes the convolution as a sum of two-dimensional ones."""
  batch, out = x.shape[0], kernel.shape[-1]
  frames = _num_out(x.shape[1], kernel, window)
  total = jnp.zeros((), x.dtype)
  for tap, part, (first, last) in _tap_frames(x, kernel, window):
    y = _convolve_images(part, kernel[tap], window.in_space())
    y = y.reshape(batch, last - first, *y.shape[1:3], out)
    total += jnp.pad(y, ((0, 0), (first, frames - last), (0, 0), (0, 0), (0, 0)))
  return total


def _patch_gradient(x, g, kernel_shape, window):
  """Gradient of a two-dimensional kernel: `n h w c`, `n h w o` -> `kh kw c o`."""
  n, c = x.shape[0], x.shape[-1]
  (kh, kw), (out_h, out_w, out) = kernel_shape, g.shape[1:]
  strides = window.strides
  fits = [d for d in range(1, n + 1) if n % d == 0 and d * out_h * out_w <= ROWS]
  chunk = max(fits, default=1)
  x = jnp.pad(x, ((0, 0), *window.pads, (0, 0)))
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


def _image_gradient(x, g, kernel_shape, window):
  """Computes the gradient of `_patch_gradient` by XLA's own convolution."""
  kernel = jnp.zeros((*kernel_shape, x.shape[-1], g.shape[-1]), x.dtype)
  forward = lambda kernel: _convolve_images(x, kernel, window)
  return jax.vjp(forward, kernel)[1](g)[0].astype(jnp.float32)


def _folded_gradient(x, g, kernel, window):
  taps = [jnp.zeros(kernel.shape[1:], jnp.float32)] * kernel.shape[0]
  for tap, part, (first, last) in _tap_frames(x, kernel, window):
    part_g = g[:, first:last].reshape(-1, *g.shape[2:])
    many = math.prod(part_g.shape[:3]) >= FEW_ROWS
    gradient = _patch_gradient if many else _image_gradient
    taps[tap] = gradient(part, part_g, kernel.shape[1:3], window.in_space())
  return jnp.stack(taps).astype(kernel.dtype)


def _over_frames(x, kernel, window):
  """Convolves over frames alone, with all pixels of a frame in one row."""
  b, f, h, w, c = x.shape
  rows = x.reshape(b, f, h * w, c)
  window = _Window((window.strides[0], 1), (window.pads[0], (0, 0)))
  y = _convolve_images(rows, kernel[:, :, 0], window)
  return y.reshape(b, -1, h, w, kernel.shape[-1])


def _is_over_frames(kernel, window):
  plain = _Window((1, 1), ((0, 0), (0, 0)))
  return kernel.shape[1:3] == (1, 1) and window.in_space() == plain


def _on_cpu(x, kernel, window):
  over_frames = _is_over_frames(kernel, window)
  return (_over_frames if over_frames else _folded)(x, kernel, window)


def _gradients_on_cpu(x, kernel, g, window):
  if _is_over_frames(kernel, window):  # XLA's own gradients are fast here.
    return _gradients(_over_frames, x, kernel, g, window)
  (gx,) = jax.vjp(lambda x: _folded(x, kernel, window), x)[1](g)
  return gx, _folded_gradient(x, g, kernel, window)


def _gradients(forward, x, kernel, g, window):
  return jax.vjp(lambda x, kernel: forward(x, kernel, window), x, kernel)[1](g)


def _forward(x, kernel, window):
  return jax.lax.platform_dependent(
    x,
    kernel,
    cpu=functools.partial(_on_cpu, window=window),
    default=functools.partial(_direct, window=window),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x, kernel, window):
  return _forward(x, kernel, window)


def _convolve_fwd(x, kernel, window):
  return _forward(x, kernel, window), (x, kernel)


def _convolve_bwd(window, residuals, g):
  x, kernel = residuals
  return jax.lax.platform_dependent(
    x,
    kernel,
    g,
    cpu=functools.partial(_gradients_on_cpu, window=window),
    default=functools.partial(_gradients, _direct, window=window),
  )


_convolve.defvjp(_convolve_fwd, _convolve_bwd)


def convolve(
  x: Float[Array, "b f h w c"],
  kernel: Float[Array, "kf kh kw c o"],
  strides: tuple[int, ...] = (1, 1, 1),
  pads: Pads | None = None,
) -> Float[Array, "b f2 h2 w2 o"]:
  """Convolves a zero-padded video.

  Args:
    x: A video.
    kernel: Weights.
    strides: Strides over frames, height and width.
    pads: Zeros (before, after) along the same axes; None for `same_pads`.
  """
  if pads is None:
    pads = same_pads(x.shape[1:4], kernel.shape[:3], strides)
  return _convolve(x, kernel, _Window(strides, pads))


def _adjoint(x, kernel, window):
  """Applies the adjoint as a convolution: zeros between the values, kernel flipped."""
  pads = [
    (k - 1 - before, k - 1 - after)
    for k, (before, after) in zip(kernel.shape[:3], window.pads, strict=True)
  ]
  return jax.lax.conv_general_dilated(
    x,
    jnp.flip(kernel, (0, 1, 2)),
    (1, 1, 1),
    pads,
    lhs_dilation=window.strides,
    dimension_numbers=_DIMENSIONS,
  )


def _adjoint_on_cpu(x, kernel, window):
  """Applies the adjoint of `_on_cpu`: some thirty times faster than `_adjoint`."""
  shape = [
    (n - 1) * s + k - before - after
    for n, s, k, (before, after) in zip(
      x.shape[1:4], window.strides, kernel.shape[:3], window.pads, strict=True
    )
  ]
  given = jnp.zeros((x.shape[0], *shape, kernel.shape[-1]), x.dtype)
  forward = lambda given: _on_cpu(given, kernel.swapaxes(-1, -2), window)
  return jax.vjp(forward, given)[1](x)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_transpose(x, kernel, window):
  return jax.lax.platform_dependent(
    x,
    kernel,
    cpu=functools.partial(_adjoint_on_cpu, window=window),
    default=functools.partial(_adjoint, window=window),
  )


def _transpose_fwd(x, kernel, window):
  return _convolve_transpose(x, kernel, window), (x, kernel)


def _transpose_bwd(window, residuals, g):
  # <g, conv_t(x)> = <conv(g), x>, linear in x and in the kernel.
  x, kernel = residuals
  forward = lambda kernel: _convolve(g, kernel, window)
  gx, vjp = jax.vjp(forward, kernel.swapaxes(-1, -2))
  return gx, vjp(x)[0].swapaxes(-1, -2)


_convolve_transpose.defvjp(_transpose_fwd, _transpose_bwd)


def convolve_transpose(
  x: Float[Array, "b f h w c"],
  kernel: Float[Array, "kf kh kw c o"],
  strides: tuple[int, ...],
  pads: Pads,
) -> Float[Array, "b f2 h2 w2 o"]:
  """Applies the adjoint of the convolution with these strides and pads.

  Each input value adds a scaled copy of the kernel to the output, `strides` apart; the
  pads are cut off at the borders, so that an axis of n becomes
  (n - 1) stride + kernel - before - after. A negative pad adds zeros.
  """
  cut = tuple((max(before, 0), max(after, 0)) for before, after in pads)
  added = tuple((max(-before, 0), max(-after, 0)) for before, after in pads)
  y = _convolve_transpose(x, kernel, _Window(strides, cut))
  return jnp.pad(y, ((0, 0), *added, (0, 0)))


class Conv(nn.Module):
  """A convolution with bias over `b f h w c` or `b h w c`.

  Attributes:
    features: Number of output channels.
    kernel_size: Three sizes (frames, height, width), or two for images.
    strides: One per kernel size; None for 1 everywhere.
    kernel_init: Initializer; zeros let a branch that ends here start as nothing.
    padding: Values outside of the input: "zeros", or "edge" for copies of its
      outermost values (PyTorch calls that "replicate").
    pads: Amounts (before, after) per axis. None gives an output size of input / stride,
      rounded up, with the larger half after the input; PyTorch's `padding=p` is (p, p).
    dtype: Dtype of the computation; the parameters are float32.
  """

  features: int
  kernel_size: Sequence[int]
  strides: Sequence[int] | None = None
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  padding: str = "zeros"
  pads: Sequence[Sequence[int]] | None = None
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "b *fhw c"]) -> Float[Array, "b *fhw2 o"]:
    """Convolves x."""
    if self.padding not in PADDINGS:
      known = ", ".join(PADDINGS)
      raise UserError(f"Conv.padding is {self.padding!r}; known: {known}")
    size = tuple(self.kernel_size)
    strides = _per_axis("Conv.strides", self.strides, len(size), 1)
    pads = _pairs(self.pads, x.shape[1:-1], size, strides)
    x, kernel, bias = _parameters(self, x, size)
    if self.padding == "edge":
      x, pads = pad_edges(x, pads), ((0, 0),) * len(size)
    if len(size) == 2:  # A video of one frame.
      x, kernel = x[:, None], kernel[None]
      strides, pads = (1, *strides), ((0, 0), *pads)
    y = checkpoint_name(convolve(x, kernel, strides, pads), RESULT) + bias
    return y[:, 0] if len(size) == 2 else y


class ConvTranspose(nn.Module):
  """A transposed convolution with bias, in the arithmetic of PyTorch.

  An axis of n becomes (n - 1) stride - 2 padding + kernel + output_padding. PyTorch's
  weights `c o kf kh kw` are this kernel, `kf kh kw c o`, without a flip.

  Attributes:
    features: Number of output channels.
    kernel_size: Three sizes (frames, height, width), or two for images.
    strides: One per kernel size; None for 1 everywhere.
    padding: Output values cut off at either end, one per kernel size; None for 0.
    output_padding: Values added at the far end, fewer than the stride; None for 0.
    kernel_init: Initializer.
    dtype: Dtype of the computation; the parameters are float32.
  """

  features: int
  kernel_size: Sequence[int]
  strides: Sequence[int] | None = None
  padding: Sequence[int] | None = None
  output_padding: Sequence[int] | None = None
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "b *fhw c"]) -> Float[Array, "b *fhw2 o"]:
    """Convolves x."""
    size = tuple(self.kernel_size)
    n, name = len(size), "ConvTranspose"
    strides = _per_axis(f"{name}.strides", self.strides, n, 1)
    padding = _per_axis(f"{name}.padding", self.padding, n, 0)
    further = _per_axis(f"{name}.output_padding", self.output_padding, n, 0)
    if any(more >= stride for more, stride in zip(further, strides, strict=True)):
      raise UserError(
        f"{name}.output_padding={further}: expected less than the strides, {strides}"
      )
    pads = tuple((p, p - more) for p, more in zip(padding, further, strict=True))
    x, kernel, bias = _parameters(self, x, size)
    if n == 2:  # A video of one frame.
      x, kernel = x[:, None], kernel[None]
      strides, pads = (1, *strides), ((0, 0), *pads)
    y = convolve_transpose(x, kernel, strides, pads)
    y = checkpoint_name(y, RESULT) + bias
    return y[:, 0] if n == 2 else y


def _parameters(module: Conv | ConvTranspose, x: Array, size: tuple[int, ...]):
  """Returns x, kernel and bias, in the dtype of the computation."""
  shape = (*size, x.shape[-1], module.features)
  kernel: Array = module.param("kernel", module.kernel_init, shape, jnp.float32)
  zeros = nn.initializers.zeros
  bias = module.param("bias", zeros, (module.features,), jnp.float32)
  return promote_dtype(x, kernel, bias, dtype=module.dtype)


def _per_axis(
  name: str, given: Sequence[int] | None, num_axes: int, default: int
) -> tuple[int, ...]:
  values = (default,) * num_axes if given is None else tuple(given)
  if len(values) != num_axes:
    raise UserError(f"{name}={values}: expected {num_axes}, one per kernel size")
  return values


def _pairs(given, sizes, kernel_size, strides) -> Pads:
  if given is None:
    return same_pads(sizes, kernel_size, strides)
  pads = tuple((before, after) for before, after in given)
  if len(pads) != len(kernel_size):
    raise UserError(
      f"Conv.pads={pads}: expected {len(kernel_size)} pairs, one per kernel size"
    )
  return pads
