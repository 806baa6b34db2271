"""The walk of a U-Net: which blocks run in which order, on what."""

from typing import ClassVar

from absl.testing import absltest, parameterized
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.models.levels import Levels, walk
from lamd_jax.types import UserError

LEVELS = Levels(2, (1, 3, 2), num_res_blocks=1, attention_factors=(2,))
# Ho et al. 2020, by hand: each block, its channels in and out, its height.
BLOCKS = [
  ("down_0_0", 2, 2, 8),
  ("down_1_0", 2, 6, 4),
  ("down_2_0", 6, 4, 2),
  ("mid_0", 4, 4, 2),
  ("mid_1", 4, 4, 2),
  ("up_2_0", 4 + 4, 4, 2),  # With the block of this level,
  ("up_2_1", 4 + 6, 4, 2),  # then with the downsampling to it.
  ("up_1_0", 4 + 6, 6, 4),
  ("up_1_1", 6 + 2, 6, 4),
  ("up_0_0", 6 + 2, 2, 8),
  ("up_0_1", 2 + 2, 2, 8),  # With the first convolution.
]
ATTENDED = ["down_1_0", "mid", "up_1_0", "up_1_1"]


class Net(nn.Module):
  """Blocks without parameters that note what they are asked for."""

  ran: ClassVar = []
  attended: ClassVar = []

  @nn.compact
  def __call__(self, x):
    def residual(h, channels, name):
      self.ran.append((name, h.shape[-1], channels, h.shape[-3]))
      return jnp.zeros((*h.shape[:-1], channels))

    def attend(h, name):
      self.attended.append(name)
      return h

    return walk(x, LEVELS, residual, attend, out_channels=5, dtype=None)


class WalkTest(parameterized.TestCase):
  @parameterized.parameters(((1, 8, 12, 3),), ((1, 3, 8, 12, 3),))
  def test_the_order_widths_and_sizes_of_blocks(self, shape):
    Net.ran.clear()
    Net.attended.clear()
    y, variables = jax.eval_shape(
      Net().init_with_output, jax.random.key(0), jnp.zeros(shape)
    )
    self.assertEqual(Net.ran, BLOCKS)
    self.assertEqual(Net.attended, ATTENDED)
    self.assertEqual(y.shape, (*shape[:-1], 5))
    lead = (1,) * (len(shape) - 4)
    kernels = {k: v["kernel"].shape for k, v in variables["params"].items()
               if k != "norm_out"}  # fmt: skip
    widths = dict(conv_in=(3, 2), downsample_0=(2, 2), downsample_1=(6, 6),
                  upsample_2=(4, 4), upsample_1=(6, 6), conv_out=(2, 5))  # fmt: skip
    self.assertEqual(kernels, {k: (*lead, 3, 3, *v) for k, v in widths.items()})

  def test_a_fresh_network_gives_zeros_of_float32(self):
    x = jnp.ones((1, 8, 12, 3), jnp.bfloat16)
    y, _ = Net().init_with_output(jax.random.key(0), x)
    self.assertEqual(y.dtype, jnp.float32)
    np.testing.assert_array_equal(y, np.zeros(y.shape))

  def test_sizes_that_do_not_halve_are_refused(self):
    LEVELS.check_size(8, 12)
    with self.assertRaisesRegex(UserError, "3 levels .* divisible by 4, given 8x6"):
      LEVELS.check_size(8, 6)


if __name__ == "__main__":
  absltest.main()
