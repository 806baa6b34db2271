"""Pixels: nothing is lost between what is stored and what networks see."""

from absl.testing import absltest
import jax.numpy as jnp
import numpy as np

from lamd_jax.systems import pixels


class PixelsTest(absltest.TestCase):
  def test_all_256_values_come_back(self):
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(
      pixels.to_uint8(pixels.from_uint8(jnp.asarray(values))), values
    )

  def test_black_is_minus_1_and_white_is_1(self):
    ends = pixels.from_uint8(jnp.array([0, 255], jnp.uint8))
    np.testing.assert_array_equal(ends, np.array([-1.0, 1.0], np.float32))

  def test_what_is_outside_is_clipped_and_the_nearest_level_is_taken(self):
    given = jnp.array([-3.0, 5.0, 0.6 / 127.5 - 1.0, 0.4 / 127.5 - 1.0])
    np.testing.assert_array_equal(pixels.to_uint8(given), [0, 255, 1, 0])


if __name__ == "__main__":
  absltest.main()
