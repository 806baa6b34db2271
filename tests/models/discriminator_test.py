"""The discriminator of videos: what its logits are about."""

import functools
import itertools

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.models.discriminator import VideoDiscriminator

MODULE = VideoDiscriminator(channels=(4, 8, 8), frame_strides=(2, 1))
VIDEO = jax.random.normal(jax.random.key(1), (2, 6, 16, 24, 3))


@functools.cache
def judge():
  shapes = jax.eval_shape(MODULE.init, jax.random.key(0), VIDEO)
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda s: jnp.float32(rng.normal(0, 0.3, s.shape)), shapes)
  return jax.jit(functools.partial(MODULE.apply, params))


class VideoDiscriminatorTest(absltest.TestCase):
  def test_there_is_a_logit_for_each_patch_in_space_and_time(self):
    self.assertEqual(judge()(VIDEO).shape, (2, 3, 4, 6))

  def test_it_sees_every_frame_of_its_own_clip_alone(self):
    before = judge()(VIDEO)
    for frame in range(6):
      by = np.abs(judge()(VIDEO.at[0, frame].multiply(-1.0)) - before)
      self.assertGreater(by[0].max(), 1e-3, f"frame {frame}")
      np.testing.assert_array_equal(by[1], 0.0)

  def test_it_sees_the_order_of_frames(self):
    # A discriminator of single frames would give the same logits in another order.
    still = jnp.broadcast_to(VIDEO[:, :1], VIDEO.shape)
    self.assertGreater(
      np.abs(judge()(VIDEO[:, ::-1]) - judge()(VIDEO)[:, ::-1]).max(), 0.1
    )
    self.assertGreater(np.abs(judge()(still) - judge()(VIDEO)).max(), 0.1)

  def test_the_size_is_that_of_a_3d_patchgan_of_three_layers(self):
    params = jax.eval_shape(
      VideoDiscriminator().init, jax.random.key(0), jnp.zeros((1, 16, 64, 64, 3))
    )["params"]
    # 4^3 taps: 3-64-128-256-512-1 with biases, and two numbers a channel for a norm.
    widths = [3, 64, 128, 256, 512, 1]
    convs = sum(64 * a * b + b for a, b in itertools.pairwise(widths))
    norms = 2 * (128 + 256 + 512)
    self.assertEqual(sum(x.size for x in jax.tree.leaves(params)), convs + norms)


if __name__ == "__main__":
  absltest.main()
