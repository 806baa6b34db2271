"""Resizing against values known by hand, JAX's own, PyTorch's and TensorFlow 1's.

The reference was written by tests/benchmarks/feature_networks_reference.py.
"""

import pathlib

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.metrics import resize

REFERENCE = pathlib.Path(__file__).with_name("resize_reference.npz")
RULES = ("half_pixel", "tf1")


def row(values, width, rule):
  """A picture of one row."""
  x = jnp.asarray(values, jnp.float32)[None, :, None]
  return resize.bilinear(x, (1, width), rule)[0, :, 0]


class ResizeTest(parameterized.TestCase):
  @parameterized.parameters(
    # New pixels at -1/4, 1/4, 3/4, 5/4; beyond the ends there are the ends.
    ("half_pixel", [0, 8], 4, [0, 2, 6, 8]),
    # At 0, 1/2, 1, 3/2.
    ("tf1", [0, 8], 4, [0, 4, 8, 8]),
    # At 1/4, 7/4, 13/4, 19/4.
    ("half_pixel", [0, 4, 8, 80, 8, 0], 4, [1, 7, 62, 2]),
    # At 0, 3/2, 3, 9/2.
    ("tf1", [0, 4, 8, 80, 8, 0], 4, [0, 6, 80, 4]),
  )
  def test_values_known_by_hand(self, rule, old, width, expected):
    np.testing.assert_allclose(row(old, width, rule), expected, atol=1e-5)

  @parameterized.product(rule=RULES, size=((3, 11), (13, 5), (12, 8)))
  def test_it_agrees_with_the_libraries_that_made_the_rules(self, rule, size):
    with np.load(REFERENCE) as reference:
      expected = reference[f"{rule} {size[0]}x{size[1]}"]
      y = resize.bilinear(jnp.asarray(reference["x"]), size, rule)
    np.testing.assert_allclose(y, expected, atol=1e-5)

  @parameterized.parameters((7, 2), (3, 12), (10, 10))
  def test_half_pixels_are_those_of_jax(self, *size):
    x = jax.random.normal(jax.random.key(0), (2, 1, 5, 6, 3))
    expected = jax.image.resize(x, (2, 1, *size, 3), "bilinear", antialias=False)
    y = resize.bilinear(x, size, "half_pixel")
    np.testing.assert_allclose(y, expected, atol=1e-5)

  @parameterized.parameters(*RULES)
  def test_its_own_size_changes_nothing(self, rule):
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    np.testing.assert_array_equal(resize.bilinear(x, (5, 6), rule), x)

  @parameterized.parameters(*RULES)
  def test_one_colour_stays_that_colour(self, rule):
    y = resize.bilinear(jnp.full((4, 6, 1), 200.0), (299, 7), rule)
    np.testing.assert_allclose(y, 200.0, rtol=1e-6)


if __name__ == "__main__":
  absltest.main()
