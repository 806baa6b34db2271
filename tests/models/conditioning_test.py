"""Conditions: pooling by its formula, padding, and what null means."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from lamd_jax.models import conditioning
from lamd_jax.types import UserError


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def filled(module, *args):
  """Normal numbers for every parameter."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda s: jnp.float32(rng.normal(0.0, 0.5, s.shape)), shapes)


class ClassConditionTest(absltest.TestCase):
  def test_a_label_is_its_row(self):
    module = conditioning.ClassCondition(5, 7)
    labels = jnp.array([[4, 0, 4], [2, 1, 3]])
    variables = filled(module, labels)
    table = variables["params"]["table"]["embedding"]
    np.testing.assert_array_equal(module.apply(variables, labels), table[labels])
    np.testing.assert_array_equal(module.apply(variables, labels[0]), table[labels[0]])

  def test_an_unknown_label_cannot_pass_unseen(self):
    module = conditioning.ClassCondition(5, 7)
    labels = jnp.array([4, 5])
    got = module.apply(filled(module, labels), labels)
    self.assertTrue(np.isfinite(got[0]).all())
    self.assertTrue(np.isnan(got[1]).all())


TOKENS, LENGTHS = normal(3, 6, 8, seed=2), np.array([6, 4, 1])
MASK = np.arange(6) < LENGTHS[:, None]
POOL = conditioning.CaptionCondition(7, head_channels=4)


def pooled(tokens, p):
  """Two heads over the tokens of one caption (n d), in float64."""
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), p)
  a, tokens = p["attention"], np.asarray(tokens, np.float64)
  h = a["out"]["bias"]
  for head in range(2):
    q, k, v = (
      x @ a[name]["kernel"][:, head] + a[name]["bias"][head]
      for x, name in ((p["query"], "query"), (tokens, "key"), (tokens, "value"))
    )
    weights = scipy.special.softmax(k @ q / np.sqrt(4.0))
    h = h + weights @ v @ a["out"]["kernel"][head]
  h = (h - h.mean()) / np.sqrt(h.var() + 1e-6) * p["norm"]["scale"] + p["norm"]["bias"]
  return h @ p["out"]["kernel"] + p["out"]["bias"]


class CaptionConditionTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.variables = filled(POOL, TOKENS, MASK)
    self.apply = jax.jit(POOL.apply)

  def test_it_is_the_formula_over_tokens_alone(self):
    got = self.apply(self.variables, TOKENS, MASK)
    self.assertEqual(got.shape, (3, 7))
    for i, length in enumerate(LENGTHS):
      expected = pooled(TOKENS[i, :length], self.variables["params"])
      np.testing.assert_allclose(got[i], expected, atol=2e-5)

  def test_what_stands_in_the_padding_does_not_matter(self):
    moved = jnp.where(MASK[..., None], TOKENS, 100.0)
    np.testing.assert_array_equal(
      self.apply(self.variables, moved, MASK), self.apply(self.variables, TOKENS, MASK)
    )

  def test_an_empty_caption_is_the_null_condition(self):
    empty = MASK & np.array([[True], [False], [True]])
    got = self.apply(self.variables, TOKENS, empty)
    np.testing.assert_array_equal(got[1], np.zeros(7))
    np.testing.assert_array_equal(
      got[::2], self.apply(self.variables, TOKENS, MASK)[::2]
    )

  def test_every_frame_may_have_a_caption_of_its_own(self):
    # Two examples of three frames: captions in another order for the second.
    order = np.array([[0, 1, 2], [2, 0, 1]])
    got = self.apply(self.variables, TOKENS[order], MASK[order])
    expected = self.apply(self.variables, TOKENS, MASK)[order]
    np.testing.assert_allclose(got, expected, atol=1e-5)

  def test_in_bfloat16_it_is_about_the_same(self):
    half = POOL.clone(dtype=jnp.dtype("bfloat16"))
    got = jax.jit(half.apply)(self.variables, TOKENS, MASK)
    self.assertEqual(got.dtype, jnp.float32)
    expected = self.apply(self.variables, TOKENS, MASK)
    np.testing.assert_allclose(got, expected, atol=0.15)

  def test_heads_that_do_not_fit_say_so(self):
    module = conditioning.CaptionCondition(7)
    with self.assertRaisesRegex(UserError, "head_channels=64 does not divide the 8"):
      jax.eval_shape(module.init, jax.random.key(0), TOKENS, MASK)


class TokensTest(absltest.TestCase):
  def test_a_label_is_one_token_its_row(self):
    module = conditioning.ClassToken(5, 7)
    labels = jnp.array([4, 0, 4])
    variables = filled(module, labels)
    values, mask = module.apply(variables, labels)
    table = variables["params"]["table"]["embedding"]
    np.testing.assert_array_equal(values, table[labels][:, None])
    np.testing.assert_array_equal(mask, [[True]] * 3)

  def test_embeddings_of_captions_are_projected_one_by_one(self):
    module = conditioning.CaptionTokens(7)
    tokens = TOKENS.astype(jnp.float16)  # As they are kept.
    variables = filled(module, tokens, jnp.asarray(MASK))
    values, mask = module.apply(variables, tokens, jnp.asarray(MASK))
    p = variables["params"]["out"]
    expected = np.asarray(tokens, np.float32) @ p["kernel"] + p["bias"]
    np.testing.assert_allclose(values, expected, atol=1e-5)
    np.testing.assert_array_equal(mask, MASK)

  def test_what_is_null_is_masked_and_the_rest_stays(self):
    cond = conditioning.Tokens(TOKENS, jnp.asarray(MASK))
    got = conditioning.drop_tokens(cond, jnp.array([False, True, False]))
    np.testing.assert_array_equal(got.mask, MASK & [[True], [False], [True]])
    np.testing.assert_array_equal(got.values, TOKENS)


class DropTest(parameterized.TestCase):
  @parameterized.parameters(
    ((2, 4), (2,)), ((2, 3, 4), (2,)), ((2, 3, 4), (2, 3)), ((2, 4), (2, 3))
  )
  def test_what_is_null_is_zero_and_the_rest_stays(self, cond_shape, null_shape):
    cond = normal(*cond_shape)
    is_null = np.array([[True, False, True], [False, False, True]])
    is_null = is_null if len(null_shape) == 2 else is_null[:, 0]
    got = conditioning.drop(cond, jnp.asarray(is_null))
    has_frames = len(cond_shape) == 3 or len(null_shape) == 2
    self.assertEqual(got.shape, (2, 3, 4) if has_frames else (2, 4))
    for place in np.ndindex(*got.shape[:-1]):
      null = is_null[place[: is_null.ndim]]
      expected = np.zeros(4) if null else cond[place[: cond.ndim - 1]]
      np.testing.assert_array_equal(got[place], expected)

  def test_nothing_is_learned_from_what_is_dropped(self):
    is_null = jnp.array([True, False])
    grad = jax.grad(lambda cond: conditioning.drop(cond, is_null).sum())(normal(2, 4))
    np.testing.assert_array_equal(grad, [[0.0] * 4, [1.0] * 4])


class PerFrameTest(absltest.TestCase):
  def test_the_video_comes_first_and_every_image_has_its_own(self):
    video, images = normal(2, 4), normal(2, 3, 4, seed=1)
    got = conditioning.per_frame(video, images, num_frames=5)
    self.assertEqual(got.shape, (2, 8, 4))
    for frame in range(5):
      np.testing.assert_array_equal(got[:, frame], video)
    np.testing.assert_array_equal(got[:, 5:], images)


if __name__ == "__main__":
  absltest.main()
