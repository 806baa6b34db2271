"""FLOPs: by hand, by XLA, and through all the constructs of a program."""

import functools
from unittest import mock

from absl import logging
from absl.testing import absltest, parameterized
import flax.linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.nn.conv import Conv, convolve
from lamd_jax.training.flops import count_flops, peak


def shaped(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def matmul(a, b):
  return a @ b


A, B = shaped(3, 4), shaped(4, 4)
ONE = 2 * 3 * 4 * 4


def conv(lhs, rhs, strides=(1, 1), padding="SAME", numbers=None, **options):
  return jax.lax.conv_general_dilated(
    lhs,
    rhs,
    strides,
    padding,
    dimension_numbers=numbers or ("NHWC", "HWIO", "NHWC"),
    **options,
  )


class Net(nn.Module):
  """Network with every kind of layer, without a loop."""

  @nn.compact
  def __call__(self, x):
    x = nn.silu(nn.GroupNorm(4)(nn.Conv(32, (3, 3), (2, 2))(x)))
    x = nn.Conv(48, (3, 3), feature_group_count=4)(x)
    x = nn.ConvTranspose(24, (4, 4), (2, 2))(x)
    x = x.reshape(x.shape[0], -1, 24)
    return nn.Dense(40)(nn.MultiHeadDotProductAttention(2)(x))


class FlopsTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("a product", lambda a, b: a @ b, (A, B), 2 * 3 * 4 * 4),
    ("two axes summed over, one of a batch",
     lambda a, b: jnp.einsum("bijk,bjkl->bil", a, b),
     (shaped(5, 2, 3, 4), shaped(5, 3, 4, 7)), 2 * 5 * 2 * 7 * 3 * 4),
    ("an outer product", jnp.outer, (shaped(3), shaped(5)), 0),
    ("no padding", functools.partial(conv, padding="VALID"),
     (shaped(2, 6, 7, 3), shaped(3, 2, 3, 5)), 2 * 2 * 5 * 3 * (4 * 3) * (6 * 2)),
    # The outer two of 3 taps each miss one of n positions: 3 n - 2 meetings.
    ("padding does not count", conv, (shaped(2, 6, 7, 3), shaped(3, 3, 3, 5)),
     2 * 2 * 5 * 3 * (3 * 6 - 2) * (3 * 7 - 2)),
    ("strides", functools.partial(conv, strides=(2, 3), padding="VALID"),
     (shaped(2, 7, 7, 3), shaped(3, 1, 3, 5)), 2 * 2 * 5 * 3 * (3 * 3) * (3 * 1)),
    ("groups see their own channels",
     functools.partial(conv, padding="VALID", feature_group_count=3),
     (shaped(2, 5, 5, 6), shaped(1, 1, 2, 9)), 2 * 2 * 9 * 2 * 25),
    ("a dilated kernel", functools.partial(conv, padding="VALID", rhs_dilation=(2, 1)),
     (shaped(1, 7, 1, 3), shaped(3, 1, 3, 5)), 2 * 5 * 3 * (3 * 3)),
    # Each input entry meets every tap once, and nothing else does.
    ("transposed", lambda x, k: jax.lax.conv_transpose(x, k, (2, 2), "VALID"),
     (shaped(2, 4, 5, 3), shaped(2, 2, 3, 5)), 2 * 2 * 5 * 3 * (4 * 5) * 4),
    ("other layouts", functools.partial(conv, padding="VALID",
                                        numbers=("NCHW", "OIHW", "NHWC")),
     (shaped(2, 3, 6, 7), shaped(5, 3, 3, 2)), 2 * 2 * 5 * 3 * (4 * 3) * (6 * 2)),
  )  # fmt: skip
  def test_by_hand(self, fn, args, expected):
    self.assertEqual(count_flops(fn, *args), expected)

  def test_groups_of_the_batch_by_hand(self):
    fn = functools.partial(conv, padding="VALID", batch_group_count=3)
    # 6 examples in 3 groups of 2; each group computes 3 of the 9 output channels.
    found = count_flops(fn, shaped(6, 5, 5, 4), shaped(1, 1, 4, 9))
    self.assertEqual(found, 2 * 2 * 9 * 4 * 25)

  @parameterized.named_parameters(
    ("jit", jax.jit(matmul), 1),
    ("remat, without a gradient", jax.checkpoint(matmul), 1),
    ("vmap", lambda a, b: jax.vmap(lambda row: row @ b)(a), 1),
    ("scan", lambda a, b: jax.lax.scan(lambda c, _: (c @ b, None), a, None, 7), 7),
    ("a loop of known length",
     lambda a, b: jax.lax.fori_loop(0, 5, lambda i, c: c @ b, a), 5),
    ("the dearest branch",
     lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b @ b, lambda: a @ b), 2),
    ("gradients of both", lambda a, b: jax.grad(
      lambda a, b: jnp.sum(matmul(a, b) ** 2), (0, 1))(a, b), 3),
    ("remat computes again", lambda a, b: jax.value_and_grad(
      jax.checkpoint(lambda a, b: jnp.sum(jnp.sin(a @ b))), (0, 1))(a, b), 4),
    ("custom derivatives", lambda a, b: jax.nn.relu(a @ b), 1),
  )  # fmt: skip
  def test_through(self, fn, times):
    self.assertEqual(count_flops(fn, A, B), times * ONE)

  def test_a_loop_of_unknown_length_is_counted_once_and_said_so(self):
    fn = lambda a, b: jax.lax.while_loop(lambda c: c[0, 0] < 1, lambda c: c @ b, a)
    with mock.patch.object(logging, "warning") as warning:
      self.assertEqual(count_flops(fn, A, B), ONE)
    warning.assert_called_once()

  def test_our_convolution_counts_as_on_an_accelerator(self):
    x, kernel, out = shaped(2, 5, 6, 8, 3), shaped(3, 3, 3, 3, 7), shaped(2, 5, 6, 8, 7)
    one = 2 * 2 * 7 * 3 * (3 * 5 - 2) * (3 * 6 - 2) * (3 * 8 - 2)
    self.assertEqual(count_flops(convolve, x, kernel), one)
    backward = lambda x, kernel, g: jax.vjp(convolve, x, kernel)[1](g)
    self.assertEqual(count_flops(backward, x, kernel, out), 2 * one)

  def test_plain_networks_agree_with_xla(self):
    net, x = Net(), shaped(4, 16, 16, 16)
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    forward = net.apply
    backward = jax.grad(lambda params, x: jnp.mean(net.apply(params, x) ** 2))
    for fn in (forward, backward):
      cost = jax.jit(fn).lower(params, x).compile().cost_analysis()
      ours = count_flops(fn, params, x)
      # The difference is elementwise work.
      self.assertBetween(ours / cost["flops"], 0.94, 1.0)

  def test_bias_and_activation_do_not_count(self):
    x = shaped(1, 4, 4, 3)
    params = jax.eval_shape(Conv(5, (1, 1)).init, jax.random.key(0), x)
    self.assertEqual(count_flops(Conv(5, (1, 1)).apply, params, x), 2 * 16 * 3 * 5)

  @parameterized.parameters(
    ("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("TPU v5", 459e12),
    ("TPU v6 lite", 918e12), ("NVIDIA H200", 989e12), ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA A100-SXM4-80GB", 312e12),
  )  # fmt: skip
  def test_kinds_of_devices_are_told_apart(self, kind, flops):
    found = peak(kind)
    assert found is not None
    self.assertEqual(found.flops, flops)

  def test_a_compiled_function_may_have_options_of_its_compiler(self):
    options = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    self.assertEqual(count_flops(jax.jit(matmul, compiler_options=options), A, B), ONE)

  def test_of_a_cpu_nothing_is_known(self):
    self.assertIsNone(peak("cpu"))


if __name__ == "__main__":
  absltest.main()
