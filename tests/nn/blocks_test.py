"""Norms, residual blocks and changes of resolution."""

import functools
import itertools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.nn import blocks
from lamd_jax.types import UserError

FACTORIZED = ((1, 3, 3), (3, 1, 1))


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def filled(module, *args):
  """Normal numbers for every parameter, so that no branch is zero."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda s: jnp.float32(rng.normal(0.0, 0.5, s.shape)), shapes)


def normalized(x, params, groups=3, epsilon=1e-6):
  """Group norm of each frame in float64, by a loop."""
  x = np.asarray(x, np.float64)
  y = np.empty_like(x)
  for place in np.ndindex(*x.shape[:-3]):
    for group in np.split(np.arange(x.shape[-1]), groups):
      part = x[place][..., group]
      y[place][..., group] = (part - part.mean()) / np.sqrt(part.var() + epsilon)
  return y * np.asarray(params["norm"]["scale"]) + np.asarray(params["norm"]["bias"])


def silu(x):
  x = np.asarray(x, np.float64)
  return x / (1.0 + np.exp(-x))


class NormTest(parameterized.TestCase):
  @parameterized.parameters(
    (1, 1), (3, 1), (4, 1), (6, 1), (7, 1), (8, 2), (12, 3), (16, 4), (20, 5),
    (48, 12), (64, 16), (128, 32), (132, 22), (224, 32), (512, 32), (896, 32),
  )  # fmt: skip
  def test_groups_are_at_most_32_of_at_least_four_channels(self, channels, groups):
    self.assertEqual(blocks.num_groups(channels), groups)

  @parameterized.parameters(((2, 3, 4, 5, 12),), ((2, 4, 5, 12),))
  def test_it_is_the_formula_for_each_frame_and_group(self, shape):
    x = 3.0 + 2.0 * normal(*shape)
    variables = filled(blocks.Norm(), x)
    got = jax.jit(blocks.Norm().apply)(variables, x)
    expected = normalized(x, variables["params"])
    np.testing.assert_allclose(got, expected, atol=2e-5)

  @parameterized.parameters("frame", "clip", "time")
  def test_with_other_fields_it_is_the_formula(self, over):
    x = 3.0 + 2.0 * normal(2, 3, 4, 5, 12)
    norm = blocks.Norm(over, groups=6, epsilon=0.7)
    variables = filled(norm, x)
    got = jax.jit(norm.apply)(variables, x)
    # The same values, arranged so that what shares statistics is a frame.
    if over == "clip":
      frames = x.reshape(2, 12, 5, 12)
    elif over == "time":
      frames = x.transpose(0, 2, 3, 1, 4)[..., None, :]  # b h w f 1 c
    else:
      frames = x
    expected = normalized(frames, variables["params"], groups=6, epsilon=0.7)
    if over == "time":
      expected = expected[..., 0, :].transpose(0, 3, 1, 2, 4)
    np.testing.assert_allclose(got, expected.reshape(x.shape), atol=2e-5)

  def test_an_image_is_a_clip_of_one_frame(self):
    x = normal(2, 4, 5, 12)
    variables = filled(blocks.Norm(), x)
    got = [jax.jit(blocks.Norm(over).apply)(variables, x) for over in ("frame", "clip")]
    np.testing.assert_array_equal(*got)

  @parameterized.parameters(
    (dict(over="space"), "Norm.over is 'space'; known: frame, clip, time"),
    (dict(groups=5), "Norm.groups=5 does not divide 12 channels"),
    (dict(over="time"), "over='time' was given 4 axes"),
  )
  def test_impossible_fields_are_named(self, fields, message):
    with self.assertRaisesRegex(UserError, message):
      jax.eval_shape(blocks.Norm(**fields).init, jax.random.key(0), normal(2, 4, 5, 12))

  def test_a_fresh_norm_gives_mean_zero_and_deviation_one(self):
    x = 3.0 + 2.0 * normal(2, 3, 4, 5, 12)
    y, _ = jax.jit(blocks.Norm().init_with_output)(jax.random.key(0), x)
    grouped = np.asarray(y).reshape(2, 3, 20, 3, 4)
    np.testing.assert_allclose(grouped.mean((2, 4)), np.zeros((2, 3, 3)), atol=1e-5)
    np.testing.assert_allclose(grouped.std((2, 4)), np.ones((2, 3, 3)), atol=1e-5)

  def test_frames_do_not_see_each_other(self):
    x = normal(2, 3, 4, 5, 12)
    variables = filled(blocks.Norm(), x)
    apply = jax.jit(blocks.Norm().apply)
    y, moved = apply(variables, x), apply(variables, x.at[:, 1, 0].add(5.0))
    self.assertFalse(np.allclose(y[:, 1, 1:], moved[:, 1, 1:]))
    np.testing.assert_array_equal(y[:, ::2], moved[:, ::2])

  def test_statistics_of_bfloat16_are_taken_in_float32(self):
    x = (64.0 + normal(1, 16, 17, 12)).astype(jnp.bfloat16)
    variables = filled(blocks.Norm(), x)
    got = jax.jit(blocks.Norm(dtype=jnp.dtype("bfloat16")).apply)(variables, x)
    self.assertEqual(got.dtype, jnp.bfloat16)
    expected = normalized(x.astype(jnp.float32), variables["params"])
    np.testing.assert_allclose(got.astype(jnp.float32), expected, atol=0.05)


class ResBlockTest(parameterized.TestCase):
  @parameterized.parameters(
    (((3, 3), (3, 3)), (2, 4, 5, 12)),
    (FACTORIZED, (2, 3, 4, 5, 12)),
    (((3, 3, 3), (3, 3, 3)), (2, 3, 4, 5, 12)),
  )
  def test_a_fresh_block_is_the_identity(self, kernels, shape):
    x, embedding = normal(*shape), normal(2, 7)
    block = blocks.ResBlock(12, kernels)
    y, _ = jax.jit(block.init_with_output)(jax.random.key(0), x, embedding)
    np.testing.assert_array_equal(y, x)

  def test_a_fresh_block_of_another_width_is_its_skip(self):
    x = normal(2, 3, 4, 5, 12)
    init = jax.jit(blocks.ResBlock(8, FACTORIZED).init_with_output)
    y, variables = init(jax.random.key(0), x)
    kernel = variables["params"]["skip"]["kernel"]
    chex.assert_shape(kernel, (1, 1, 1, 12, 8))
    np.testing.assert_allclose(y, np.asarray(x) @ kernel[0, 0, 0], atol=1e-5)

  @parameterized.parameters(12, 24)
  def test_with_pointwise_kernels_it_is_the_formula(self, features):
    x, embedding = normal(2, 3, 4, 12), normal(2, 5, seed=3)
    block = blocks.ResBlock(features, ((1, 1), (1, 1)))
    shapes = jax.eval_shape(block.init, jax.random.key(0), x, embedding)
    self.assertEqual("skip" in shapes["params"], features != 12)
    # Three groups whatever the width: features of 24 would have six.
    with absltest.mock.patch.object(blocks, "num_groups", lambda _: 3):
      variables = filled(block, x, embedding)
      got = jax.jit(block.apply)(variables, x, embedding)
    p = jax.tree.map(np.asarray, variables["params"])

    def convolved(x, name):
      return x @ p[name]["kernel"][0, 0] + p[name]["bias"]

    h = convolved(silu(normalized(x, p["norm_0"])), "conv_0")
    shift = silu(embedding) @ p["embedding"]["kernel"] + p["embedding"]["bias"]
    h = silu(normalized(h + shift[:, None, None], p["norm_1"]))
    skip = np.asarray(x) if features == 12 else convolved(np.asarray(x), "skip")
    np.testing.assert_allclose(got, skip + convolved(h, "conv_1"), atol=1e-4)

  def test_its_norms_and_padding_may_be_others(self):
    x = 2.0 + normal(2, 4, 5, 12)
    norm = functools.partial(blocks.Norm, groups=6, epsilon=0.7)
    block = blocks.ResBlock(12, ((1, 1), (3, 3)), norm=norm, padding="edge")
    variables = filled(block, x)
    got = jax.jit(block.apply)(variables, x)
    p = jax.tree.map(np.asarray, variables["params"])
    h = silu(normalized(x, p["norm_0"], 6, 0.7))
    h = h @ p["conv_0"]["kernel"][0, 0] + p["conv_0"]["bias"]
    h = silu(normalized(h, p["norm_1"], 6, 0.7))
    h = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    kernel = p["conv_1"]["kernel"]
    y = sum(h[:, i : i + 4, j : j + 5] @ kernel[i, j] for i, j in np.ndindex(3, 3))
    np.testing.assert_allclose(got, x + y + p["conv_1"]["bias"], atol=1e-3)

  @parameterized.product(scale_shift=[False, True], per_frame=[False, True])
  def test_an_embedding_is_of_the_example_or_of_each_frame(
    self, scale_shift, per_frame
  ):
    x, embedding = normal(2, 3, 2, 4, 12), normal(2, 3, 5, seed=3)
    given = embedding if per_frame else embedding[:, 1]
    each = embedding if per_frame else jnp.repeat(embedding[:, 1:2], 3, axis=1)
    block = blocks.ResBlock(12, ((1, 1, 1),) * 2, scale_shift=scale_shift)
    variables = filled(block, x, given)
    got = jax.jit(block.apply)(variables, x, given)
    p = jax.tree.map(np.asarray, variables["params"])

    def convolved(x, name):
      return x @ p[name]["kernel"][0, 0, 0] + p[name]["bias"]

    def through(x):
      return np.asarray(x)[:, :, None, None]  # b f c to b f 1 1 c

    h = convolved(silu(normalized(x, p["norm_0"])), "conv_0")
    from_embedding = silu(each) @ p["embedding"]["kernel"] + p["embedding"]["bias"]
    if scale_shift:
      scale, shift = from_embedding[..., :12], from_embedding[..., 12:]
      h = normalized(h, p["norm_1"]) * (1.0 + through(scale)) + through(shift)
    else:
      h = normalized(h + through(from_embedding), p["norm_1"])
    np.testing.assert_allclose(got, x + convolved(silu(h), "conv_1"), atol=1e-4)

  @parameterized.parameters(
    (((1, 3, 3), (1, 3, 3)), [2]),
    (FACTORIZED, [1, 2, 3]),
    (((3, 3, 3), (3, 1, 1)), [0, 1, 2, 3, 4]),
  )
  def test_a_frame_reaches_as_far_as_kernels_over_frames(self, kernels, reached):
    x = normal(2, 6, 4, 5, 8)
    block = blocks.ResBlock(4, kernels)
    variables = filled(block, x)
    apply = jax.jit(block.apply)
    difference = apply(variables, x) - apply(variables, x.at[1, 2].multiply(-2.0))
    changed = np.abs(difference).max((2, 3, 4)) > 1e-4  # b f
    self.assertFalse(changed[0].any())
    self.assertEqual(list(np.flatnonzero(changed[1])), reached)

  def test_every_example_gets_its_own_embedding(self):
    x = jnp.repeat(normal(1, 3, 4, 5, 8), 2, axis=0)
    embedding = normal(2, 7)
    block = blocks.ResBlock(8, FACTORIZED)
    variables = filled(block, x, embedding)
    y = jax.jit(block.apply)(variables, x, embedding)
    self.assertFalse(np.allclose(y[0], y[1], atol=0.01))

  def test_dropout_is_for_training_alone(self):
    x = normal(2, 3, 4, 8)
    dropping = blocks.ResBlock(8, ((3, 3), (3, 3)), dropout_rate=0.5)
    variables = filled(dropping, x)
    never = blocks.ResBlock(8, ((3, 3), (3, 3)))
    kept = jax.jit(never.apply)(variables, x)
    np.testing.assert_array_equal(jax.jit(dropping.apply)(variables, x), kept)

    @jax.jit
    def trained(seed):
      rngs = {"dropout": jax.random.key(seed)}
      return dropping.apply(variables, x, train=True, rngs=rngs)

    self.assertFalse(np.allclose(trained(0), kept))
    self.assertFalse(np.allclose(trained(0), trained(1)))
    np.testing.assert_array_equal(trained(0), trained(0))

  def test_it_computes_in_its_dtype(self):
    x = normal(2, 3, 4, 5, 8).astype(jnp.bfloat16)
    block = blocks.ResBlock(4, FACTORIZED, dtype=jnp.dtype("bfloat16"))
    embedding = normal(2, 7)
    shapes = jax.eval_shape(block.init_with_output, jax.random.key(0), x, embedding)
    self.assertEqual(shapes[0].dtype, jnp.bfloat16)
    for leaf in jax.tree.leaves(shapes[1]):
      self.assertEqual(leaf.dtype, jnp.float32)


class ResolutionTest(parameterized.TestCase):
  @parameterized.parameters(((2, 3, 4, 5, 6), 2), ((2, 3, 5, 4), 3), ((1, 2, 3, 4), 1))
  def test_pixels_are_repeated_along_height_and_width(self, shape, factor):
    x = normal(*shape)
    expected = np.repeat(np.repeat(x, factor, axis=-3), factor, axis=-2)
    np.testing.assert_array_equal(blocks.upsample_space(x, factor), expected)

  @parameterized.parameters(
    (3, 5), (5, 3), (4, 4), (7, 2), (1, 4), (2, 1), (5, 10), (10, 5), (3, 16)
  )
  def test_frames_are_interpolated_as_by_numpy(self, given, wanted):
    x = np.asarray(normal(2, given, 3, 2, 4))
    interpolate = functools.partial(blocks.interpolate_frames, num_frames=wanted)
    got = jax.jit(interpolate)(x)
    middles = (np.arange(wanted) + 0.5) / wanted  # In a clip that lasts 1.
    known = (np.arange(given) + 0.5) / given
    expected = np.empty((2, wanted, 3, 2, 4))
    for i, j, k, m in np.ndindex(2, 3, 2, 4):
      expected[i, :, j, k, m] = np.interp(middles, known, x[i, :, j, k, m])
    np.testing.assert_allclose(got, expected, atol=1e-5)

  def test_interpolated_frames_keep_their_dtype(self):
    x = normal(1, 3, 2, 2, 1).astype(jnp.bfloat16)
    self.assertEqual(blocks.interpolate_frames(x, 5).dtype, jnp.bfloat16)

  @parameterized.parameters(
    (1, [1]), (2, [1, 2]), (10, [1, 2, 3, 5, 10]), (16, [1, 2, 4, 8, 16]),
    (32, [1, 2, 4, 8, 16, 32]), (40, [1, 2, 3, 5, 10, 20, 40]),
  )  # fmt: skip
  def test_lengths_double(self, num_frames, lengths):
    self.assertEqual(blocks.doubling_lengths(num_frames), lengths)

  def test_lengths_of_any_clip_grow_from_one_and_at_most_double(self):
    for num_frames in range(1, 200):
      lengths = blocks.doubling_lengths(num_frames)
      self.assertEqual((lengths[0], lengths[-1]), (1, num_frames))
      for before, after in itertools.pairwise(lengths):
        self.assertBetween(after, before + 1, 2 * before)


if __name__ == "__main__":
  absltest.main()
