"""Motion taken, edited and given: against the stage itself, and by hand."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from tiny_lamd import BATCH, KEY, autoencoder, vae

from lamd_jax.systems.lamd import motion as lamd_motion
from lamd_jax.systems.pixels import from_uint8
from lamd_jax.types import UserError

CLIPS = from_uint8(BATCH["video"])  # Two, of 3 frames of 8x8.


@functools.cache
def bound(function):
  """One of the module's functions, for the tiny network, compiled."""
  stage, params = autoencoder()
  return jax.jit(functools.partial(function, stage.model, params))


def encoded():
  return bound(lamd_motion.encode_motion)(CLIPS)


def stills():
  return bound(lamd_motion.encode_still)(CLIPS[:, 0])


def decoded(z, image=CLIPS[:, 0]):
  return np.asarray(bound(lamd_motion.decode_motion)(z, image))


def distance(a, b):
  """Largest difference of two videos, of each example."""
  return np.abs(a - b).max(axis=(1, 2, 3, 4))


class TransferTest(parameterized.TestCase):
  def test_motion_given_back_to_its_own_first_frame_is_the_reconstruction(self):
    stage, params = autoencoder()
    expected = np.asarray(jax.jit(stage.sample)(params, BATCH, KEY))
    np.testing.assert_allclose(decoded(encoded()), expected, atol=1e-4)
    # In whatever order the clips are.
    turned = decoded(encoded()[::-1], CLIPS[::-1, 0])
    np.testing.assert_allclose(turned[::-1], expected, atol=1e-4)

  def test_a_video_has_the_motion_and_the_picture_that_it_was_given(self):
    z = encoded()
    own, other_motion = decoded(z), decoded(z[::-1])
    other_picture = decoded(z, CLIPS[::-1, 0])
    self.assertGreater(distance(own, other_motion).min(), 0.01)
    self.assertGreater(distance(own, other_picture).min(), 0.01)
    np.testing.assert_allclose(other_motion[::-1], other_picture, atol=1e-4)

  def test_a_video_looks_at_its_own_motion_and_picture_only(self):
    z, image = encoded(), CLIPS[:, 0]
    others = decoded(z.at[1].add(1.0), image.at[1].multiply(-1.0))
    by = distance(others, decoded(z))
    self.assertLess(by[0], 1e-5)
    self.assertGreater(by[1], 0.01)

  def test_all_frames_make_the_motion(self):
    for frame in range(CLIPS.shape[1]):
      changed = bound(lamd_motion.encode_motion)(CLIPS.at[:, frame].multiply(-1.0))
      self.assertGreater(np.abs(changed - encoded()).max(axis=(1, 2, 3)).min(), 1e-3)

  def test_motion_is_the_mean_of_the_posterior_before_norm(self):
    posterior = vae("encode_motion")(CLIPS)
    np.testing.assert_allclose(encoded(), posterior.mean, atol=1e-5)
    self.assertGreater(np.abs(np.std(encoded(), axis=(1, 2, 3)) - 1.0).min(), 0.01)

  @parameterized.parameters(
    ((2, 4, 4, 3), (2, 16, 16, 3), "4x4 is for pictures of 8x8, not of 16x16"),
    ((2, 4, 5, 3), (2, 8, 8, 3), "4x5 is for pictures of 8x10, not of 8x8"),
    ((2, 4, 4, 3), (2, 9, 9, 3), "4x4 is for pictures of 8x8, not of 9x9"),
    ((3, 4, 4, 3), (2, 8, 8, 3), "3 motions for 2 pictures"),
  )
  def test_motion_that_does_not_fit_the_picture_is_refused(self, z, image, message):
    stage, params = autoencoder()
    with self.assertRaisesRegex(UserError, message):
      lamd_motion.decode_motion(stage.model, params, jnp.zeros(z), jnp.zeros(image))

  def test_a_clip_of_another_length_is_refused(self):
    stage, params = autoencoder()
    with self.assertRaisesRegex(UserError, "of 2 frames; this model's clips have 3"):
      lamd_motion.encode_motion(stage.model, params, CLIPS[:, :2])


class EditTest(parameterized.TestCase):
  def test_a_mix_begins_and_ends_with_its_motions_and_is_straight_between(self):
    a, b = encoded()[:1], encoded()[1:]
    np.testing.assert_array_equal(lamd_motion.interpolate(a, b, 0.0), a)
    np.testing.assert_array_equal(lamd_motion.interpolate(a, b, 1.0), b)
    np.testing.assert_allclose(
      lamd_motion.interpolate(a, b, 0.5), (a + b) / 2, atol=1e-6
    )
    half = lamd_motion.interpolate(a, b, 0.5)
    quarter = lamd_motion.interpolate(a, half, 0.5)
    np.testing.assert_allclose(lamd_motion.interpolate(a, b, 0.25), quarter, atol=1e-6)
    np.testing.assert_allclose(
      lamd_motion.interpolate(a, b, 0.3), lamd_motion.interpolate(b, a, 0.7), atol=1e-6
    )

  def test_strength_is_the_distance_from_the_still(self):
    z, still = encoded(), stills()
    np.testing.assert_array_equal(lamd_motion.scale(z, still, 0.0), still)
    np.testing.assert_array_equal(lamd_motion.scale(z, still, 1.0), z)
    twice = np.asarray(still, np.float64) + 2.0 * (np.float64(z) - np.float64(still))
    np.testing.assert_allclose(lamd_motion.scale(z, still, 2.0), twice, atol=1e-5)
    back = lamd_motion.scale(lamd_motion.scale(z, still, 2.0), still, 0.5)
    np.testing.assert_allclose(back, z, atol=1e-5)

  def test_the_still_is_the_motion_of_one_frame_repeated(self):
    repeated = jnp.broadcast_to(CLIPS[:, :1], CLIPS.shape)
    expected = bound(lamd_motion.encode_motion)(repeated)
    np.testing.assert_allclose(stills(), expected, atol=1e-5)
    self.assertGreater(np.abs(stills() - encoded()).max(axis=(1, 2, 3)).min(), 1e-3)
    # It is not 0, from which strength could be measured without it.
    self.assertGreater(np.abs(stills()).max(axis=(1, 2, 3)).min(), 0.1)

  def test_norm_forgets_a_factor_but_not_a_strength(self):
    z = encoded()
    np.testing.assert_allclose(decoded(3.0 * z + 0.5), decoded(z), atol=1e-3)
    stronger = decoded(lamd_motion.scale(z, stills(), 3.0))
    self.assertGreater(distance(stronger, decoded(z)).min(), 0.01)


if __name__ == "__main__":
  absltest.main()
