"""Feature maps beside torchvision's.

The reference was written by tests/benchmarks/lpips_reference.py, with random weights;
torchvision 0.28.0 with torch 2.13.0.
"""

import pathlib

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import seeded

from lamd_jax.models import vgg
from lamd_jax.types import UserError

REFERENCE = pathlib.Path(__file__).with_name("lpips_reference.npz")
NETWORKS = {"vgg": vgg.VGG16(), "alex": vgg.AlexNet()}
CASES = (("vgg", (1, 19, 34)), ("alex", (2, 35, 50)))


def sides(network, size):
  """The height of each map."""
  init = lambda x: network.init_with_output(jax.random.key(0), x)[0]
  maps = jax.eval_shape(init, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
  return [y.shape[1] for y in maps]


class FeaturesTest(parameterized.TestCase):
  @parameterized.parameters(*CASES)
  def test_the_five_maps_are_those_of_torchvision(self, name, shape):
    network, reference = NETWORKS[name], np.load(REFERENCE)
    x = (seeded.frame_pairs(3, *shape)[0] / 127.5 - 1.0).astype(np.float32)
    params = vgg.from_torchvision(network, seeded.network_arrays(name))
    maps = jax.jit(network.apply)(params, x)
    self.assertEqual([y.shape[-1] for y in maps], list(seeded.HEADS[name]))
    self.assertEqual(network.channels, seeded.HEADS[name])
    for i, y in enumerate(maps):
      expected = reference[f"{name} map {i}"]
      found = np.asarray(y).reshape(-1)[seeded.positions(y.size)]
      error = np.abs(found - expected).max() / np.abs(expected).max()
      self.assertLess(error, 1e-5, msg=f"map {i}")

  @parameterized.parameters("vgg", "alex")
  def test_the_least_size_leaves_one_pixel_to_the_last_layer(self, name):
    network = NETWORKS[name]
    self.assertEqual(sides(network, network.min_size)[-1], 1)


class FromTorchvisionTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.arrays = seeded.network_arrays("alex")

  def test_the_classifier_is_passed_over(self):
    more = self.arrays | {"classifier.1.weight": np.zeros((4, 3), np.float32)}
    params = vgg.from_torchvision(vgg.AlexNet(), more)["params"]
    self.assertEqual(
      set(params), {f"features_{number}" for number, *_ in seeded.NETWORKS["alex"]}
    )

  @parameterized.parameters("features.0.weight", "features.8.bias")
  def test_a_missing_array_is_named(self, name):
    some = {key: x for key, x in self.arrays.items() if key != name}
    with self.assertRaisesRegex(UserError, f"^{name} is missing; there is: features.*"):
      vgg.from_torchvision(vgg.AlexNet(), some)

  def test_an_empty_file_is_said_to_be_one(self):
    with self.assertRaisesRegex(UserError, "there is: nothing"):
      vgg.from_torchvision(vgg.VGG16(), {})

  def test_weights_of_another_network_are_told_by_their_shape(self):
    message = r"features.0.weight has the shape \(64, 3, 11, 11\), .* \(64, 3, 3, 3\)"
    with self.assertRaisesRegex(UserError, message):
      vgg.from_torchvision(vgg.VGG16(), self.arrays)


if __name__ == "__main__":
  absltest.main()
