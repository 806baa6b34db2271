"""LaMD's motion generator: the places of the content, and the paper's size."""

import functools

from absl.testing import absltest, parameterized
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.models.dmg import DMG
from lamd_jax.models.unet import UNet
from lamd_jax.nn.embeddings import grid_positions

# Attention in the middle alone: compiling is what these tests wait for.
TINY = DMG(8, (1,), 1, (), head_channels=4, context_channels=12)


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


Z, STEP, CONTENT = normal(2, 4, 6, 3), jnp.array([3.0, 700.0]), normal(2, 4, 6, 5)


def shapes_of(module, z=Z, content=CONTENT):
  args = jax.random.key(0), z, jnp.zeros(z.shape[:1]), content
  return jax.eval_shape(module.init_with_output, *args)


@functools.cache
def filled():
  """Normal numbers for every parameter, so that no branch is zero."""
  _, variables = shapes_of(TINY)
  rng = np.random.default_rng(2)
  return jax.tree.map(lambda s: jnp.float32(rng.normal(0.0, 0.8, s.shape)), variables)


apply = jax.jit(TINY.apply)


def changed(z=Z, timestep=STEP, content=CONTENT):
  """By how much the output changes, for each example."""
  y = apply(filled(), Z, STEP, CONTENT)
  y, moved = jax.device_get((y, apply(filled(), z, timestep, content)))
  return np.abs(moved - y).max((1, 2, 3))


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
    seen = []

    def keep_condition(next_fn, args, kwargs, context):
      if isinstance(context.module, UNet) and context.method_name == "__call__":
        seen.append(args[2])
        return args[0]
      return next_fn(*args, **kwargs)

    with nn.intercept_methods(keep_condition):
      TINY.apply(filled(), Z, STEP, CONTENT)
    p = jax.device_get(filled()["params"])
    tokens = np.asarray(CONTENT).reshape(2, 24, 5) @ p["content"]["kernel"]
    tokens += p["content"]["bias"] + grid_positions(4, 6, 12)
    tokens -= tokens.mean(-1, keepdims=True)
    tokens /= tokens.std(-1, keepdims=True)
    expected = tokens * p["norm"]["scale"] + p["norm"]["bias"]
    np.testing.assert_allclose(seen[0], expected, atol=1e-4)

  def test_the_output_is_float32_whatever_the_computation(self):
    y, variables = shapes_of(TINY.clone(dtype=jnp.dtype("bfloat16")))
    self.assertEqual((y.shape, y.dtype), (Z.shape, jnp.float32))
    for leaf in jax.tree.leaves(variables):
      self.assertEqual(leaf.dtype, jnp.float32)

  @parameterized.parameters(
    # The paper says 340 M; the first is the nearest size of latent diffusion's family.
    (dict(), 336.2),
    (dict(model_channels=128, channel_mults=(1, 2, 4)), 101.7),
    (dict(model_channels=64, channel_mults=(1, 2, 4)), 26.9),
  )
  def test_sizes_are_those_of_the_documentation(self, fields, millions):
    z, content = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 8, 8, 512))
    _, variables = shapes_of(DMG(**fields), z, content)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    self.assertEqual(round(count / 1e6, 1), millions)
    if not fields:
      self.assertAlmostEqual(count / 340e6, 1.0, delta=0.012)


if __name__ == "__main__":
  absltest.main()
