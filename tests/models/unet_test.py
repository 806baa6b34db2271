"""The U-Net: shape, independence, use of every input, published sizes."""

import functools
import re

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.models.unet import UNet
from lamd_jax.types import UserError

# Attention in the middle alone: compiling is what these tests wait for.
TINY = UNet(8, (1, 2), num_res_blocks=1, attention_factors=(), head_channels=4)


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


X, STEP, COND = normal(2, 4, 6, 3), jnp.array([3.0, 700.0]), normal(2, 5, 7, seed=1)


def shapes_of(module, x, cond):
  args = jax.random.key(0), x, jnp.zeros(x.shape[:1]), cond
  return jax.eval_shape(module.init_with_output, *args)


@functools.cache
def filled():
  """Normal numbers for every parameter, so that no branch is zero."""
  _, variables = shapes_of(TINY, X, COND)
  rng = np.random.default_rng(2)

  def fill(s):  # Every layer's output about as large as its input.
    std = 2.0 * np.prod(s.shape[:-1]) ** -0.5 if len(s.shape) > 1 else 0.5
    return jnp.float32(rng.normal(0.0, std, s.shape))

  return jax.tree.map(fill, variables)


apply = jax.jit(TINY.apply)


def changed(variables=None, x=X, timestep=STEP, cond=COND):
  """By how much the output changes, for each example."""
  moved = apply(variables or filled(), x, timestep, cond)
  moved, y = jax.device_get((moved, apply(filled(), X, STEP, COND)))
  return np.abs(moved - y).max((1, 2, 3))


class UNetTest(parameterized.TestCase):
  def test_heads_may_be_as_many_on_every_level(self):
    module = TINY.clone(num_heads=4, attention_factors=(1, 2))
    params = shapes_of(module, X, COND)[1]["params"]
    for name, width in (("down_0_0", 8), ("down_1_0", 16), ("mid", 16)):
      layer = params[f"{name}_attention"]["cross_attention"]
      self.assertEqual(layer["query"]["kernel"].shape, (width, 4, width // 4))

  def test_a_fresh_network_predicts_zero(self):
    @jax.jit
    def fresh_last():
      variables = TINY.init(jax.random.key(0), X, STEP, COND)
      return variables["params"]["conv_out"]

    params = {**filled()["params"], "conv_out": fresh_last()}
    y = apply({"params": params}, X, STEP, COND)
    np.testing.assert_array_equal(y, np.zeros(X.shape))

  def test_the_noise_level_matters_to_its_own_example(self):
    by = changed(timestep=STEP.at[0].set(4.0))
    self.assertGreater(by[0], 0.01)
    self.assertEqual(by[1], 0.0)

  def test_the_condition_matters_to_its_own_example(self):
    by = changed(cond=COND.at[1, 2].multiply(-2.0))
    self.assertGreater(by[1], 0.01)
    self.assertEqual(by[0], 0.0)

  def test_masked_tokens_of_the_condition_do_not_matter(self):
    mask = jnp.array([[True] * 5, [True, True, False, True, False]])
    y, moved, seen = (
      apply(filled(), X, STEP, cond, mask)
      for cond in (COND, COND.at[1, 2].multiply(-2.0), COND.at[1, 3].multiply(-2.0))
    )
    np.testing.assert_array_equal(moved, y)
    self.assertGreater(np.abs(seen[1] - y[1]).max(), 0.01)

  def test_examples_do_not_see_each_other(self):
    by = changed(x=X.at[0, 3, 5].add(1.0))
    self.assertGreater(by[0], 0.01)
    self.assertEqual(by[1], 0.0)

  def test_every_pixel_sees_every_other(self):
    moved = apply(filled(), X.at[:, 0, 0].add(3.0), STEP, COND)
    by = np.abs(moved - apply(filled(), X, STEP, COND)).max(-1)
    self.assertGreater(by.min(), 1e-4)

  def test_every_parameter_matters(self):
    paths, tree = jax.tree.flatten_with_path(filled())
    leaves = [leaf for _, leaf in paths]
    for i, (path, leaf) in enumerate(paths):
      name = jax.tree_util.keystr(path)
      if name.endswith("['key']['bias']"):
        continue  # The same number added to all keys changes no softmax.
      moved = np.asarray(leaf) * (
        1.0 + np.random.default_rng(i).normal(size=leaf.shape)
      )
      by = changed(tree.unflatten([*leaves[:i], np.float32(moved), *leaves[i + 1 :]]))
      self.assertGreater(by.min(), 1e-4, name)  # Rounding is 1e-6.

  @parameterized.parameters(
    ("down_1_0", "up_1_0", 16),
    ("downsample_0", "up_1_1", 8),
    ("down_0_0", "up_0_0", 8),
    ("conv_in", "up_0_1", 8),
  )
  def test_every_layer_of_the_way_down_reaches_its_mirror(self, down, up, channels):
    # The mirror is made blind to all but the last channels, its skip connection, and
    # no later skip connection has seen this layer.
    params = filled()["params"]
    blind = {
      name: layer | {"kernel": layer["kernel"].at[..., :-channels, :].set(0)}
      for name, layer in params[up].items()
      if name in ("conv_0", "skip")
    }
    params = {**params, up: {**params[up], **blind}}
    moved = {**params, down: jax.tree.map(lambda leaf: -leaf, params[down])}
    y, y_moved = (
      jax.device_get(apply({"params": p}, X, STEP, COND)) for p in (params, moved)
    )
    self.assertGreater(np.abs(y_moved - y).max((1, 2, 3)).min(), 0.01)

  def test_by_latent_diffusions_counting_it_has_its_size(self):
    # Published for ImageNet: "DiffusionWrapper has 400.92 M params". Its
    # projections to queries, keys and values have no bias; those here have.
    unet = UNet(192, (1, 2, 3, 5), 2, (2, 4, 8), head_channels=192)
    _, variables = shapes_of(unet, jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 1, 512)))
    count = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
      if not re.search(r"(query|key|value)'\]\['bias'", jax.tree_util.keystr(path)):
        count += leaf.size
    self.assertEqual(round(count / 1e6, 2), 400.92)

  @parameterized.parameters((5, 8, "5x8"), (8, 6, "8x6"))
  def test_a_size_that_cannot_be_halved_says_what_can(self, height, width, given):
    unet = UNet(8, (1, 2, 2), head_channels=4)
    with self.assertRaisesRegex(UserError, f"3 levels.*divisible by 4, given {given}"):
      shapes_of(unet, jnp.zeros((1, height, width, 3)), None)

  def test_heads_that_do_not_fit_say_so(self):
    with self.assertRaisesRegex(UserError, "head_channels=5 does not divide the 16"):
      shapes_of(UNet(8, (1, 2), 1, (2,), head_channels=5), X, None)

  @parameterized.parameters(((1,),), ((2,),))
  def test_attention_is_at_the_factors_asked_for_and_in_the_middle(self, factors):
    _, variables = shapes_of(UNet(8, (1, 2), 1, factors, head_channels=4), X, None)
    names = {"mid_attention"}
    for factor in factors:
      level = factor - 1
      names |= {f"down_{level}_0_attention"}
      names |= {f"up_{level}_{i}_attention" for i in (0, 1)}
    found = {name for name in variables["params"] if name.endswith("attention")}
    self.assertEqual(found, names)

  def test_the_output_is_float32_whatever_the_computation(self):
    unet = TINY.clone(dtype=jnp.dtype("bfloat16"))
    y, variables = shapes_of(unet, X, COND)
    self.assertEqual((y.shape, y.dtype), (X.shape, jnp.float32))
    for leaf in jax.tree.leaves(variables):
      self.assertEqual(leaf.dtype, jnp.float32)


if __name__ == "__main__":
  absltest.main()
