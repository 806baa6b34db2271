"""LaMD's motion generator: the places of the content, and the paper's size."""

import functools
import re

from absl.testing import absltest, parameterized
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.models.conditioning import Tokens
from lamd_jax.models.dmg import DMG
from lamd_jax.models.unet import UNet
from lamd_jax.models.word_encoder import WordEncoder
from lamd_jax.nn.embeddings import grid_positions
from lamd_jax.types import UserError

# Attention in the middle alone: compiling is what these tests wait for.
TINY = DMG(8, (1,), 1, (), head_channels=4, context_channels=12)


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


Z, STEP, CONTENT = normal(2, 4, 6, 3), jnp.array([3.0, 700.0]), normal(2, 4, 6, 5)
MASK = jnp.array([[True, True, False, True, False], [True] * 5])
COND = Tokens(normal(2, 5, 12, seed=3), MASK)


def shapes_of(module, z=Z, content=CONTENT):
  args = jax.random.key(0), z, jnp.zeros(z.shape[:1]), content
  return jax.eval_shape(module.init_with_output, *args)


def variables_of(module):
  """Shapes of all parameters, those of the condition included."""

  def run(module):
    words = jnp.zeros((1, 38), jnp.int32)
    cond = None if module.condition is None else module.read_condition(words)
    z, content = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 8, 8, 512))
    return module(z, jnp.zeros(1), content, cond)

  init = functools.partial(module.init, method=run)
  return jax.eval_shape(init, jax.random.key(0))


@functools.cache
def filled(module=TINY):
  """Normal numbers for every parameter, so that no branch is zero."""
  _, variables = shapes_of(module)
  rng = np.random.default_rng(2)
  return jax.tree.map(lambda s: jnp.float32(rng.normal(0.0, 0.8, s.shape)), variables)


apply = jax.jit(TINY.apply)


def changed(z=Z, timestep=STEP, content=CONTENT):
  """By how much the output changes, for each example."""
  y = apply(filled(), Z, STEP, CONTENT)
  y, moved = jax.device_get((y, apply(filled(), z, timestep, content)))
  return np.abs(moved - y).max((1, 2, 3))


def seen_by_the_unet(module, *args):
  """Returns the inputs of a DMG's U-Net: the image, the tokens and their mask."""
  seen = []

  def keep(next_fn, args, kwargs, context):
    if isinstance(context.module, UNet) and context.method_name == "__call__":
      x, _, tokens, mask = args
      seen.extend((x, tokens, mask))
      return x[..., :3]
    return next_fn(*args, **kwargs)

  variables = filled(module)
  with nn.intercept_methods(keep):
    module.apply(variables, *args)
  return seen


def standardized(tokens, p):
  tokens = np.asarray(tokens) - np.mean(tokens, -1, keepdims=True)
  return tokens / tokens.std(-1, keepdims=True) * p["scale"] + p["bias"]


def dense(x, p):
  return np.asarray(x) @ p["kernel"] + p["bias"]


class DMGTest(parameterized.TestCase):
  @parameterized.parameters(((1, 2), (3, 2)), ((1, 2), (1, 4)), ((0, 5), (3, 1)))
  def test_two_places_of_the_content_cannot_be_swapped(self, a, b):
    # Attention to tokens does not know their order; their positions say it.
    swapped = CONTENT.at[:, *a].set(CONTENT[:, *b]).at[:, *b].set(CONTENT[:, *a])
    self.assertGreater(changed(content=swapped).min(), 0.001)

  def test_every_place_of_the_content_matters(self):
    for row, column in np.ndindex(4, 6):
      by = changed(content=CONTENT.at[:, row, column].multiply(-2.0))
      self.assertGreater(by.min(), 0.001)

  @parameterized.parameters(
    dict(z=Z.at[0, 3, 5].add(1.0)),
    dict(timestep=STEP.at[0].set(4.0)),
    dict(content=CONTENT.at[0, 1, 2].add(1.0)),
  )
  def test_an_example_depends_on_its_own_inputs_alone(self, **inputs):
    by = changed(**inputs)
    self.assertGreater(by[0], 0.001)
    self.assertEqual(by[1], 0.0)

  def test_the_u_net_sees_projected_content_with_positions_normalized(self):
    x, tokens, mask = seen_by_the_unet(TINY, Z, STEP, CONTENT)
    p = jax.device_get(filled()["params"])
    expected = dense(CONTENT.reshape(2, 24, 5), p["content"]) + grid_positions(4, 6, 12)
    np.testing.assert_allclose(tokens, standardized(expected, p["norm"]), atol=1e-4)
    np.testing.assert_array_equal(x, Z)
    self.assertIsNone(mask)

  def test_tokens_of_a_condition_stand_beside_those_of_the_content(self):
    _, alone, _ = seen_by_the_unet(TINY, Z, STEP, CONTENT)
    _, tokens, mask = seen_by_the_unet(TINY, Z, STEP, CONTENT, COND)
    np.testing.assert_array_equal(tokens[:, :24], alone)
    expected = standardized(COND.values, jax.device_get(filled()["params"]["norm"]))
    np.testing.assert_allclose(tokens[:, 24:], expected, atol=1e-4)
    np.testing.assert_array_equal(mask[:, :24], np.ones((2, 24), bool))
    np.testing.assert_array_equal(mask[:, 24:], MASK)

  def test_a_condition_that_is_all_masked_is_none(self):
    y = apply(filled(), Z, STEP, CONTENT)
    dropped = Tokens(COND.values, MASK.at[1].set(False))
    given = apply(filled(), Z, STEP, CONTENT, dropped)
    np.testing.assert_allclose(given[1], y[1], atol=2e-5)
    self.assertGreater(np.abs(given[0] - y[0]).max(), 0.001)

  def test_a_condition_is_of_its_own_example_and_its_padding_nothing(self):
    y = apply(filled(), Z, STEP, CONTENT, COND)
    values = COND.values.at[0, 3].multiply(-2.0)
    moved = apply(filled(), Z, STEP, CONTENT, Tokens(values, MASK))
    self.assertGreater(np.abs(moved[0] - y[0]).max(), 0.001)
    np.testing.assert_array_equal(moved[1], y[1])
    values = jnp.where(MASK[..., None], COND.values, 100.0)
    moved = apply(filled(), Z, STEP, CONTENT, Tokens(values, MASK))
    np.testing.assert_array_equal(moved, y)

  def test_pooled_content_is_a_token_for_each_square(self):
    pooled = TINY.clone(context_pool=2)
    _, tokens, _ = seen_by_the_unet(pooled, Z, STEP, CONTENT)
    means = np.zeros((2, 6, 5))
    for row, column in np.ndindex(2, 3):
      square = CONTENT[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
      means[:, 3 * row + column] = square.mean((1, 2))
    p = jax.device_get(filled(pooled)["params"])
    expected = dense(means, p["content"]) + grid_positions(2, 3, 12)
    np.testing.assert_allclose(tokens, standardized(expected, p["norm"]), atol=1e-4)
    with self.assertRaisesRegex(UserError, "context_pool=3 does not divide the 4x6"):
      shapes_of(TINY.clone(context_pool=3))

  def test_content_goes_in_beside_the_latent_if_asked_for(self):
    hybrid = TINY.clone(concat_channels=2)
    x, *_ = seen_by_the_unet(hybrid, Z, STEP, CONTENT)
    p = filled(hybrid)["params"]["concat"]
    np.testing.assert_array_equal(x[..., :3], Z)
    np.testing.assert_allclose(x[..., 3:], dense(CONTENT, p), atol=1e-5)
    y, _ = shapes_of(hybrid)
    self.assertEqual(y.shape, Z.shape)

  def test_the_output_is_float32_whatever_the_computation(self):
    y, variables = shapes_of(TINY.clone(dtype=jnp.dtype("bfloat16")))
    self.assertEqual((y.shape, y.dtype), (Z.shape, jnp.float32))
    for leaf in jax.tree.leaves(variables):
      self.assertEqual(leaf.dtype, jnp.float32)

  @parameterized.parameters(
    (dict(), 336.2),
    (dict(condition=WordEncoder(50, 512)), 342.9),
    (dict(model_channels=128, channel_mults=(1, 2, 4)), 101.7),
    (dict(model_channels=64, channel_mults=(1, 2, 4)), 26.9),
  )
  def test_sizes_are_those_of_the_documentation(self, fields, millions):
    variables = variables_of(DMG(**fields))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    self.assertEqual(round(count / 1e6, 1), millions)

  def test_it_is_the_nearest_of_latent_diffusions_family_to_the_papers_size(self):
    # By that family's counting: its U-Net, without the projection of the content, has
    # no biases in projections to queries, keys and values. The paper says 340 M.
    count = {"unet": 0, "condition": 0}
    variables = variables_of(DMG(condition=WordEncoder(50, 512)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
      name = jax.tree_util.keystr(path)
      bias = re.search(r"(query|key|value)'\]\['bias'", name)
      if path[0].key in count and not (bias and path[0].key == "unet"):
        count[path[0].key] += leaf.size
    millions = {name: round(number / 1e6, 1) for name, number in count.items()}
    self.assertEqual(millions, {"unet": 335.9, "condition": 6.6})


if __name__ == "__main__":
  absltest.main()
