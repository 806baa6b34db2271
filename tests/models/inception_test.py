"""Inception beside pytorch-fid's, with random weights in its layout.

The reference was written by tests/benchmarks/feature_networks_reference.py.
"""

import functools
import pathlib

from absl.testing import absltest
import jax
import numpy as np
import random_weights

from lamd_jax.models import inception
from lamd_jax.types import UserError

REFERENCE = pathlib.Path(__file__).with_name("inception_reference.npz")


@functools.cache
def reference():
  with np.load(REFERENCE) as file:
    return dict(file)


@functools.cache
def arrays():
  return random_weights.random_weights(reference()["shapes"])


apply = jax.jit(inception.Inception().apply)


@functools.cache
def images_and_outputs():
  x = np.random.default_rng(0).uniform(-1, 1, (2, 107, 139, 3)).astype(np.float32)
  return x, jax.device_get(apply(params(), x))


@functools.cache
def params():
  return inception.from_pytorch_fid(arrays())


class InceptionTest(absltest.TestCase):
  def test_features_and_logits_are_those_of_the_original(self):
    # The last maps are 2 x 3, so that maximum and mean, rows and columns differ.
    _, y = images_and_outputs()
    for name, given in y._asdict().items():
      expected = reference()[name]
      error = np.abs(given - expected).max() / np.abs(expected).max()
      self.assertLess(error, 1e-5, name)

  def test_examples_do_not_see_each_other(self):
    x, y = images_and_outputs()
    moved = jax.device_get(apply(params(), np.stack([x[0], -x[1]])))
    np.testing.assert_allclose(moved.features[0], y.features[0], rtol=1e-5)
    self.assertGreater(np.abs(moved.features[1] - y.features[1]).max(), 0.01)

  def test_a_missing_array_is_named(self):
    name = "Mixed_6c.branch7x7dbl_4.bn.running_mean"
    some = {k: v for k, v in arrays().items() if k != name}
    with self.assertRaisesRegex(UserError, f"{name} is missing among .*pytorch-fid"):
      inception.from_pytorch_fid(some)

  def test_the_inception_of_torchvision_is_refused(self):
    # Its names and shapes are the same but for the classes.
    torchvision = arrays() | {"fc.weight": np.zeros((1000, 2048), np.float32)}
    with self.assertRaisesRegex(
      UserError, r"fc has a kernel of \(2048, 1000\), expected \(2048, 1008\)"
    ):
      inception.from_pytorch_fid(torchvision)


if __name__ == "__main__":
  absltest.main()
