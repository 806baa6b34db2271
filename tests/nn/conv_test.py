"""Convolutions against XLA's own, on the CPU path and as lowered for others."""

import functools
import re

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import jax.test_util
import numpy as np
import pytest

from lamd_jax.nn import conv
from lamd_jax.types import UserError

CASES = [
  # Name, input, kernel, strides.
  ("over_space", (2, 3, 6, 5, 4), (1, 3, 3), (1, 1, 1)),
  ("over_frames", (2, 5, 3, 4, 2), (3, 1, 1), (1, 1, 1)),
  ("over_all", (2, 5, 6, 7, 3), (3, 3, 3), (1, 1, 1)),
  ("pointwise", (2, 3, 5, 4, 7), (1, 1, 1), (1, 1, 1)),
  ("half_the_space_odd", (2, 3, 7, 5, 4), (1, 3, 3), (1, 2, 2)),
  ("half_the_space_even", (2, 3, 8, 6, 4), (1, 3, 3), (1, 2, 2)),
  ("half_of_all", (1, 6, 8, 4, 2), (3, 3, 3), (2, 2, 2)),
  ("half_the_frames", (2, 7, 3, 4, 2), (3, 1, 1), (2, 1, 1)),
  ("different_strides", (2, 7, 9, 8, 3), (3, 3, 3), (3, 1, 2)),
  ("pointwise_strided", (2, 4, 7, 6, 3), (1, 1, 1), (2, 2, 2)),
  ("one_frame", (3, 1, 4, 5, 2), (3, 3, 3), (1, 1, 1)),
  ("one_frame_over_frames", (3, 1, 4, 5, 2), (3, 1, 1), (1, 1, 1)),
  ("fewer_frames_than_taps", (2, 2, 4, 5, 3), (5, 3, 3), (1, 1, 1)),
  ("smaller_than_kernel", (2, 3, 2, 1, 3), (1, 3, 3), (1, 1, 1)),
  # 15 frames of 32 x 32 outputs: the gradient runs over five chunks of three.
  ("several_chunks", (3, 5, 64, 63, 2), (1, 3, 3), (1, 2, 2)),
  # One frame alone has more rows than a chunk should.
  ("large_frames", (1, 2, 65, 66, 2), (1, 3, 3), (1, 1, 1)),
]


PADDED = [
  # Name, input, kernel, strides, pads.
  ("half_of_all", (2, 6, 7, 5, 3), (4, 4, 4), (2, 2, 2), ((1, 1), (1, 1), (1, 1))),
  ("uneven", (1, 5, 6, 7, 2), (4, 3, 2), (1, 2, 3), ((2, 1), (0, 2), (1, 0))),
  ("none", (2, 5, 6, 7, 3), (3, 2, 4), (1, 1, 1), ((0, 0), (0, 0), (0, 0))),
  ("frames_alone", (2, 5, 3, 4, 2), (4, 1, 1), (2, 1, 1), ((2, 1), (0, 0), (0, 0))),
  ("wide", (2, 3, 4, 5, 2), (3, 1, 1), (1, 1, 1), ((1, 1), (1, 0), (0, 2))),
  ("far_out", (2, 2, 4, 5, 3), (2, 3, 3), (1, 1, 1), ((3, 2), (1, 1), (1, 1))),
]
TRANSPOSED = [
  # Input, kernel, strides, padding, output padding.
  ((2, 3, 4, 5, 6), (4, 4, 4), (2, 2, 2), (1, 1, 1), (0, 0, 0)),
  ((2, 2, 4, 3, 6), (3, 4, 5), (1, 2, 3), (0, 1, 2), (0, 1, 2)),
  ((1, 4, 3, 2, 6), (2, 3, 1), (3, 1, 2), (1, 2, 0), (2, 0, 1)),
  ((2, 4, 5, 6), (4, 3), (2, 1), (3, 0), (1, 0)),
]


def by_numpy(x, kernel, strides, pads, mode="constant"):
  """A convolution as a sum over taps, in float64; for videos and images."""
  x = np.pad(np.asarray(x, np.float64), ((0, 0), *pads, (0, 0)), mode=mode)
  size = kernel.shape[:-2]
  out = [(n - k) // s + 1 for n, k, s in
         zip(x.shape[1:-1], size, strides, strict=True)]  # fmt: skip
  total = 0.0
  for tap in np.ndindex(*size):
    seen = (slice(t, t + (n - 1) * s + 1, s) for t, n, s in
            zip(tap, out, strides, strict=True))  # fmt: skip
    total = total + x[:, *seen] @ np.asarray(kernel[tap], np.float64)
  return total


def transposed_by_numpy(x, kernel, strides, padding, further):
  """A scaled copy of the kernel for each value; the ends are cut off afterwards."""
  x, kernel = (np.asarray(a, np.float64) for a in (x, kernel))
  sizes = list(zip(x.shape[1:-1], kernel.shape[:-2], strides, further, strict=True))
  whole = np.zeros((x.shape[0], *((n - 1) * s + k + more for n, k, s, more in sizes),
                    kernel.shape[-1]))  # fmt: skip
  for place in np.ndindex(*x.shape[1:-1]):
    there = (slice(i * s, i * s + k) for i, (_, k, s, _) in
             zip(place, sizes, strict=True))  # fmt: skip
    whole[:, *there] += np.tensordot(x[:, *place], kernel, axes=(1, kernel.ndim - 2))
  return whole[:, *(slice(p, n - p) for n, p in
                    zip(whole.shape[1:-1], padding, strict=True))]  # fmt: skip


def direct(x, kernel, strides):
  return jax.lax.conv_general_dilated(
    x, kernel, strides, "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
  )


@functools.partial(jax.jit, static_argnums=(0, 3))
def value_and_gradients(fn, x, kernel, strides):
  """The output y, and both gradients of the sum of y * y / 2."""
  y, vjp = jax.vjp(lambda x, kernel: fn(x, kernel, strides), x, kernel)
  return y, *vjp(y)


def normals(*shapes):
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]


class ConvolveTest(parameterized.TestCase):
  @parameterized.named_parameters(*CASES)
  def test_value_and_both_gradients_are_those_of_xla(self, shape, size, strides):
    x, kernel = normals(shape, (*size, shape[-1], 3))
    ours = value_and_gradients(conv.convolve, x, kernel, strides)
    theirs = value_and_gradients(direct, x, kernel, strides)
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)
    for got, expected in zip(*jax.device_get((ours, theirs)), strict=True):
      scale = np.max(np.abs(expected))
      np.testing.assert_allclose(got / scale, expected / scale, atol=3e-6)

  @parameterized.named_parameters(*PADDED)
  def test_with_any_padding_too(self, shape, size, strides, pads):
    x, kernel = normals(shape, (*size, shape[-1], 4))
    fn = functools.partial(conv.convolve, pads=pads)
    got = value_and_gradients(fn, x, kernel, strides)
    expected = by_numpy(x, kernel, strides, pads)
    np.testing.assert_allclose(got[0], expected, atol=1e-4)

    def xla(x, kernel, strides):
      numbers = ("NDHWC", "DHWIO", "NDHWC")
      return jax.lax.conv_general_dilated(x, kernel, strides, pads,
                                          dimension_numbers=numbers)  # fmt: skip

    theirs = value_and_gradients(xla, x, kernel, strides)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, theirs)
    for a, b in zip(*jax.device_get((got, theirs)), strict=True):
      scale = np.max(np.abs(b))
      np.testing.assert_allclose(a / scale, b / scale, atol=3e-6)

  def test_the_gradient_is_the_slope_of_the_value(self):
    # Bilinear in both arguments, so central differences are exact at any step.
    x, kernel = normals((1, 4, 5, 3, 2), (3, 3, 3, 2, 3))
    fn = jax.jit(lambda x, kernel: conv.convolve(x, kernel, (1, 2, 1)))
    jax.test_util.check_grads(
      fn, (x, kernel), order=1, modes=["rev"], eps=1.0, atol=1e-3, rtol=1e-4
    )

  def test_bfloat16_stays_and_weights_are_summed_in_float32(self):
    # Over 1280 places a sum kept in bfloat16 would be off by tens of percent.
    x, kernel = normals((2, 10, 8, 8, 3), (1, 3, 3, 3, 4))
    x = 1.0 + 0.1 * x
    halves = [a.astype(jnp.bfloat16) for a in (x, kernel)]
    got = value_and_gradients(conv.convolve, *halves, (1, 1, 1))
    whole = [a.astype(jnp.float32) for a in halves]
    y, vjp = jax.vjp(lambda *a: direct(*a, (1, 1, 1)), *whole)
    expected = y, *vjp(y)
    for a, b in zip(*jax.device_get((got, expected)), strict=True):
      self.assertEqual(a.dtype, jnp.bfloat16)
      scale = np.max(np.abs(b))
      np.testing.assert_allclose(a.astype(np.float32) / scale, b / scale, atol=0.02)

  @parameterized.parameters((3, 3, 3), (3, 1, 1))
  @pytest.mark.mesh
  def test_a_batch_over_eight_devices_gives_the_same(self, *size):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    x, kernel = normals((16, 3, 4, 5, 2), (*size, 2, 3))
    alone = value_and_gradients(conv.convolve, x, kernel, (1, 1, 1))
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    kernel = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
    spread = value_and_gradients(conv.convolve, x, kernel, (1, 1, 1))
    for array in spread[:2]:  # Nothing is gathered on the way.
      self.assertEqual({s.data.shape[0] for s in array.addressable_shards}, {2})
    chex.assert_trees_all_close(alone, spread, rtol=1e-5, atol=1e-4)


class LoweredTest(parameterized.TestCase):
  def text(self, fn, platform, size=(3, 3, 3)):
    x, kernel = normals((2, 4, 5, 6, 3), (*size, 3, 7))
    traced = jax.jit(fn).trace(x, kernel)
    return traced.lower(lowering_platforms=(platform,)).as_text()

  @parameterized.product(
    platform=("cuda", "tpu"), size=((3, 3, 3), (1, 3, 3), (3, 1, 1))
  )
  def test_accelerators_get_one_convolution_over_three_axes(self, platform, size):
    text = self.text(conv.convolve, platform, size)
    self.assertLen(re.findall(r"stablehlo\.convolution", text), 1)
    self.assertIn("[b, 0, 1, 2, f]x[0, 1, 2, i, o]->[b, 0, 1, 2, f]", text)
    self.assertNotRegex(text, r"stablehlo\.(while|dot_general)")

  def test_accelerators_get_one_convolution_for_each_gradient(self):
    def gradients(x, kernel):
      y, vjp = jax.vjp(conv.convolve, x, kernel)
      return vjp(y)  # Uses y, so that the forward pass is counted as well.

    text = self.text(gradients, "cuda")
    self.assertLen(re.findall(r"stablehlo\.convolution", text), 3)
    self.assertNotRegex(text, r"stablehlo\.(while|dot_general)")

  @parameterized.parameters("cuda", "tpu")
  def test_accelerators_get_one_transposed_convolution(self, platform):
    pads = ((1, 1),) * 3
    fn = lambda x, kernel: conv.convolve_transpose(x, kernel, (1, 2, 2), pads)
    text = self.text(fn, platform)
    self.assertLen(re.findall(r"stablehlo\.convolution", text), 1)
    self.assertRegex(text, r"lhs_dilate = \[1, 2, 2\]")
    self.assertNotIn("lhs_dilate = [1, 2, 2]", self.text(fn, "cpu"))

  def test_a_cpu_gets_convolutions_over_two_axes_alone(self):
    text = self.text(conv.convolve, "cpu")
    self.assertLen(re.findall(r"stablehlo\.convolution", text), 3)
    self.assertNotIn("[b, 0, 1, 2, f]", text)


class ConvTransposeTest(parameterized.TestCase):
  @parameterized.parameters(*TRANSPOSED)
  def test_it_is_a_sum_of_scaled_kernels(self, shape, size, strides, padding, further):
    x, kernel, bias = normals(shape, (*size, 6, 3), (3,))
    layer = conv.ConvTranspose(3, size, strides, padding, further)
    got = jax.jit(layer.apply)({"params": {"kernel": kernel, "bias": bias}}, x)
    expected = transposed_by_numpy(x, kernel, strides, padding, further)
    np.testing.assert_allclose(got, expected + np.asarray(bias), atol=1e-4)

  @parameterized.parameters(*TRANSPOSED[:3])
  def test_the_gradient_is_the_slope(self, shape, size, strides, padding, further):
    # Bilinear in input and kernel, so central differences are exact at any step.
    x, kernel = normals(shape, (*size, 6, 3))
    pads = tuple((p, p - more) for p, more in zip(padding, further, strict=True))
    fn = jax.jit(lambda x, kernel: conv.convolve_transpose(x, kernel, strides, pads))
    jax.test_util.check_grads(
      fn, (x, kernel), order=1, modes=["rev"], eps=1.0, atol=1e-3, rtol=1e-3
    )

  @parameterized.parameters(*TRANSPOSED[:3])
  def test_accelerators_compute_the_same(self, shape, size, strides, padding, further):
    del further
    x, kernel = normals(shape, (*size, 6, 3))
    window = conv._Window(strides, tuple((p, p) for p in padding))
    got = jax.jit(conv._adjoint, static_argnums=2)(x, kernel, window)
    expected = transposed_by_numpy(x, kernel, strides, padding, (0, 0, 0))
    np.testing.assert_allclose(got, expected, atol=1e-4)

  @parameterized.named_parameters(*PADDED)
  def test_it_is_the_adjoint_of_the_convolution(self, shape, size, strides, pads):
    # <conv(x), y> = <x, conv_t(y)>, where no stride leaves values of x unseen.
    kernel, y = normals((*size, shape[-1], 4), (2, 5, 4, 3, 4))
    backward = conv.convolve_transpose(y, kernel.swapaxes(-1, -2), strides, pads)
    (x,) = normals(backward.shape)
    forward = conv.convolve(x, kernel, strides, pads)
    self.assertEqual(forward.shape, y.shape)
    np.testing.assert_allclose(
      np.vdot(forward, y), np.vdot(x, backward), rtol=1e-4, atol=1e-2
    )

  @parameterized.parameters(((2, 2, 2),), ((1, 2, 2),))
  def test_with_the_edges_of_lvdm_sizes_are_multiplied_by_the_stride(self, strides):
    # Pads of k - s, the larger half first, and PyTorch's padding of k - 1.
    (x,) = normals((1, 3, 4, 5, 6))
    pads = tuple((-((s - 4) // 2), (4 - s) // 2) for s in strides)
    layer = conv.ConvTranspose(2, (4, 4, 4), strides, padding=(3, 3, 3))
    run = lambda x: conv.pad_edges(x, pads)
    y, variables = layer.init_with_output(jax.random.key(0), run(x))
    expected = tuple(n * s for n, s in zip((3, 4, 5), strides, strict=True))
    self.assertEqual(y.shape, (1, *expected, 2))
    # Constant pixels stay constant up to the edges, but for the places in a stride.
    y = layer.apply(variables, run(jnp.ones_like(x)))
    for axis, stride in enumerate(strides, start=1):
      moved = jnp.roll(y, stride, axis)
      np.testing.assert_allclose(moved, y, atol=1e-5)

  def test_more_than_a_stride_cannot_be_added(self):
    layer = conv.ConvTranspose(2, (3, 3), (2, 1), output_padding=(1, 1))
    with self.assertRaisesRegex(UserError, r"output_padding=\(1, 1\).*\(2, 1\)"):
      layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))


class ConvTest(parameterized.TestCase):
  @parameterized.named_parameters(*PADDED)
  def test_edges_are_repeated(self, shape, size, strides, pads):
    x, kernel, bias = normals(shape, (*size, shape[-1], 5), (5,))
    layer = conv.Conv(5, size, strides, padding="edge", pads=pads)
    got = jax.jit(layer.apply)({"params": {"kernel": kernel, "bias": bias}}, x)
    expected = by_numpy(x, kernel, strides, pads, mode="edge")
    np.testing.assert_allclose(got, expected + np.asarray(bias), atol=1e-4)

  def test_a_constant_image_with_edges_stays_constant(self):
    layer = conv.Conv(5, (4, 3), (2, 1), padding="edge")
    y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 6, 5, 3)))
    self.assertEqual(y.shape, (2, 3, 5, 5))
    expected = variables["params"]["kernel"].sum((0, 1, 2))
    np.testing.assert_allclose(y, jnp.broadcast_to(expected, y.shape), atol=1e-5)

  @parameterized.parameters(
    (dict(padding="wrap"), "Conv.padding is 'wrap'; known: zeros, edge"),
    (dict(strides=(2,)), r"Conv.strides=\(2,\): expected 2, one per kernel size"),
    (dict(pads=[(1, 1)]), r"Conv.pads=\(\(1, 1\),\): expected 2 pairs"),
  )
  def test_impossible_fields_are_named(self, fields, message):
    with self.assertRaisesRegex(UserError, message):
      conv.Conv(3, (3, 3), **fields).init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))

  @parameterized.parameters(((3, 3), None), ((3, 1), (2, 1)), ((3, 3), (2, 2)))
  def test_an_image_is_convolved_over_two_axes(self, size, strides):
    x, kernel, bias = normals((2, 7, 6, 3), (*size, 3, 5), (5,))
    layer = conv.Conv(5, size, strides)
    got = jax.jit(layer.apply)({"params": {"kernel": kernel, "bias": bias}}, x)
    dimensions = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(
      x, kernel, strides or (1, 1), "SAME", dimension_numbers=dimensions
    )
    np.testing.assert_allclose(got, expected + bias, atol=1e-5)

  def test_a_video_is_convolved_over_three_axes(self):
    x, kernel, bias = normals((2, 4, 7, 6, 3), (3, 3, 1, 3, 5), (5,))
    layer = conv.Conv(5, (3, 3, 1), (1, 2, 1))
    got = jax.jit(layer.apply)({"params": {"kernel": kernel, "bias": bias}}, x)
    expected = direct(x, kernel, (1, 2, 1)) + bias
    np.testing.assert_allclose(got, expected, atol=1e-5)

  def test_parameters_are_float32_and_the_computation_has_its_dtype(self):
    (x,) = normals((2, 4, 3, 5))
    layer = conv.Conv(6, (3, 3), dtype=jnp.dtype("bfloat16"))
    y, variables = jax.jit(layer.init_with_output)(jax.random.key(0), x)
    self.assertEqual(y.dtype, jnp.bfloat16)
    for leaf in jax.tree.leaves(variables):
      self.assertEqual(leaf.dtype, jnp.float32)
    exact = jax.jit(conv.Conv(6, (3, 3)).apply)(variables, x)
    self.assertEqual(exact.dtype, jnp.float32)
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.05)

  def test_fresh_weights_keep_the_size_of_what_they_see(self):
    (x,) = normals((2, 3, 9, 9, 8))
    y, variables = jax.jit(conv.Conv(64, (3, 3, 3)).init_with_output)(
      jax.random.key(0), x
    )
    # Variance 1 / (taps * channels) of each weight: unit variance inside the edges.
    np.testing.assert_allclose(np.std(y[:, 1:-1, 1:-1, 1:-1]), 1.0, atol=0.1)
    np.testing.assert_array_equal(variables["params"]["bias"], np.zeros(64))


if __name__ == "__main__":
  absltest.main()
