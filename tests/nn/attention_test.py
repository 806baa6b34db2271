"""Attention over pixels and frames: symmetries, independence, the formula itself."""

import functools

from absl.testing import absltest, parameterized
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from lamd_jax.nn import attention
from lamd_jax.nn.blocks import Norm
from lamd_jax.nn.remat import call_block
from lamd_jax.types import UserError


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def filled(module, *args):
  """Normal numbers for every parameter, so that no branch is zero."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda s: jnp.float32(rng.normal(0.0, 0.5, s.shape)), shapes)


X, COND = normal(2, 3, 4, 8), normal(2, 5, 6, seed=2)
CASES = [
  ("attention", attention.SpatialAttention(2), ()),
  ("transformer", attention.SpatialTransformer(2), (COND,)),
  ("transformer_alone", attention.SpatialTransformer(2), (None,)),
]


@functools.cache
def filled_apply(name):
  module, args = {case[0]: case[1:] for case in CASES}[name]
  return jax.jit(functools.partial(module.apply, filled(module, X, *args)))


def shuffled_pixels(x, order):
  return x.reshape(x.shape[0], -1, x.shape[-1])[:, order].reshape(x.shape)


# The formulas in float64, one example at a time: tokens are n c.


def standardized(x, p, axis, epsilon):
  x = x - x.mean(axis, keepdims=True)
  x = x / np.sqrt(np.mean(x * x, axis, keepdims=True) + epsilon)
  return x.reshape(x.shape[0], -1) * p["scale"] + p["bias"]


def group_norm(x, p, groups=2, epsilon=1e-6):
  """Groups of channels, over all tokens."""
  x = np.stack(np.split(x, groups, axis=-1), axis=1)  # n groups c/groups
  return standardized(x, p["norm"], axis=(0, 2), epsilon=epsilon)


def layer_norm(x, p, epsilon=1e-6):
  return standardized(x, p, axis=-1, epsilon=epsilon)


def dense(x, p):
  return x @ p["kernel"] + p["bias"]


def attend(x, y, p):
  out = np.array(p["out"]["bias"])
  for head in range(2):
    q, k, v = (
      tokens @ p[name]["kernel"][:, head] + p[name].get("bias", (0.0, 0.0))[head]
      for tokens, name in ((x, "query"), (y, "key"), (y, "value"))
    )
    weights = scipy.special.softmax(q @ k.T / np.sqrt(q.shape[-1]), axis=-1)
    out = out + weights @ v @ p["out"]["kernel"][head]
  return out


def transformer(x, cond, p, groups=2, epsilon=1e-6, norm_epsilon=1e-6):
  h = dense(group_norm(x, p["norm"], groups, epsilon), p["proj_in"])
  normed = layer_norm(h, p["norm_self"], norm_epsilon)
  h = h + attend(normed, normed, p["self_attention"])
  normed = layer_norm(h, p["norm_cross"], norm_epsilon)
  h = h + attend(normed, normed if cond is None else cond, p["cross_attention"])
  normed = layer_norm(h, p["norm_mlp"], norm_epsilon)
  value, gate = np.split(dense(normed, p["mlp_in"]), 2, -1)
  gelu = gate * 0.5 * (1.0 + scipy.special.erf(gate / np.sqrt(2.0)))
  return x + dense(dense(value * gelu, p["mlp_out"]) + h, p["proj_out"])


class AttentionTest(parameterized.TestCase):
  @parameterized.named_parameters(*CASES[:2])
  def test_a_fresh_layer_is_the_identity(self, module, args):
    y, _ = jax.jit(module.init_with_output)(jax.random.key(0), X, *args)
    np.testing.assert_array_equal(y, X)

  @parameterized.named_parameters((case[0], *case) for case in CASES)
  def test_filled_it_is_the_formula(self, name, module, args):
    got = filled_apply(name)(X, *args)
    variables = filled(module, X, *args)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    for i in range(2):
      x = np.asarray(X[i], np.float64).reshape(12, 8)
      if name == "attention":
        normed = group_norm(x, p["norm"])
        expected = x + attend(normed, normed, p["attention"])
      else:
        cond = None if args[0] is None else np.asarray(COND[i], np.float64)
        expected = transformer(x, cond, p)
      scale = np.abs(expected).max()
      np.testing.assert_allclose(
        got[i].reshape(12, 8) / scale, expected / scale, atol=2e-5
      )

  @parameterized.named_parameters((case[0], case[0], case[2]) for case in CASES)
  def test_pixels_have_no_places(self, name, args):
    order = np.random.default_rng(3).permutation(12)
    apply = filled_apply(name)
    y = apply(X, *args)
    self.assertFalse(np.allclose(shuffled_pixels(y, order), y, atol=0.1))
    np.testing.assert_allclose(
      apply(shuffled_pixels(X, order), *args), shuffled_pixels(y, order), atol=2e-3
    )

  @parameterized.named_parameters((case[0], case[0], case[2]) for case in CASES)
  def test_examples_do_not_see_each_other(self, name, args):
    apply = filled_apply(name)
    y, moved = apply(X, *args), apply(X.at[1, 0, 0].add(2.0), *args)
    np.testing.assert_array_equal(y[0], moved[0])
    self.assertGreater(np.abs(y[1, 1:] - moved[1, 1:]).min(-1).max(), 0.01)

  def test_pixels_of_a_video_see_their_own_frame(self):
    video = normal(2, 3, 3, 4, 8, seed=4)
    layer = attention.SpatialAttention(2)
    y = jax.jit(layer.apply)(filled(layer, X), video)
    for frame in range(3):
      alone = filled_apply("attention")(video[:, frame])
      np.testing.assert_allclose(y[:, frame], alone, atol=2e-5)

  def test_heads_are_counted_by_their_width(self):
    self.assertEqual(attention.count_heads(192, 64), 3)
    with self.assertRaisesRegex(UserError, "head_channels=5 does not divide the 16"):
      attention.count_heads(16, 5)

  def test_heads_are_given_by_their_number(self):
    self.assertEqual(attention.count_heads(320, 64, num_heads=8), 8)
    self.assertEqual(attention.count_heads(1280, 64, num_heads=8), 8)
    with self.assertRaisesRegex(UserError, "num_heads=6 does not divide the 320"):
      attention.count_heads(320, 64, num_heads=6)


class ForeignTransformerTest(parameterized.TestCase):
  """Options that the transformers of Stable Diffusion and its descendants need."""

  def test_without_biases_and_with_other_norms_it_is_the_formula(self):
    module = attention.SpatialTransformer(
      2, qkv_bias=False, norm=functools.partial(Norm, groups=4, epsilon=0.7),
      norm_epsilon=0.3,
    )  # fmt: skip
    variables = filled(module, X, COND)
    for name in ("self_attention", "cross_attention"):
      with_bias = {k for k, v in variables["params"][name].items() if "bias" in v}
      self.assertEqual(with_bias, {"out"})
    got = jax.jit(module.apply)(variables, X, COND)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    for i in range(2):
      x, cond = np.asarray(X[i], np.float64).reshape(12, 8), np.float64(COND[i])
      expected = transformer(x, cond, p, 4, epsilon=0.7, norm_epsilon=0.3)
      scale = np.abs(expected).max()
      np.testing.assert_allclose(
        got[i].reshape(12, 8) / scale, expected / scale, atol=2e-5
      )

  def test_the_hook_maps_what_is_projected_out(self):
    # The projection is linear: of 3 tokens + extra it makes 3 times what it made.
    variables = filled(attention.SpatialTransformer(2), X, COND)
    hook = lambda tokens, extra: 3.0 * tokens + extra
    hooked = attention.SpatialTransformer(2, temporal=hook)
    p = variables["params"]["proj_out"]
    extra = normal(2, 12, 8, seed=6)
    got = jax.jit(hooked.apply)(variables, X, COND, None, extra) - X
    plain = filled_apply("transformer")(X, COND) - X - p["bias"]
    expected = 3.0 * plain.reshape(2, 12, 8) + extra @ p["kernel"] + p["bias"]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
      got.reshape(2, 12, 8) / scale, expected / scale, atol=1e-5
    )

  @parameterized.parameters("none", "block")
  def test_a_module_mixes_frames_and_its_parameters_are_the_transformers(self, remat):
    class Net(nn.Module):
      @nn.compact
      def __call__(self, x, cond):
        block = attention.SpatialTransformer(
          2, temporal=MixFrames(3, parent=None), name="block"
        )
        return call_block(block, remat, x, cond, None, cond.mean(1))

    x, cond = normal(3, 2, 4, 8), normal(3, 5, 6, seed=2)  # Three frames of a clip.
    variables = filled(Net(), x, cond)
    params = variables["params"]["block"]
    self.assertEqual(params["temporal"]["out"]["kernel"].shape, (14, 8))
    apply = jax.jit(Net().apply)
    y, moved = apply(variables, x, cond), apply(variables, x.at[1, 0].add(1.0), cond)
    self.assertGreater(np.abs(y - moved)[::2].max(-1).min(), 1e-3)
    loss = lambda v: jnp.square(Net().apply(v, x, cond)).sum()
    grads = jax.jit(jax.grad(loss))(variables)["params"]["block"]["temporal"]
    self.assertGreater(np.abs(grads["out"]["kernel"]).min(), 0.0)


class MixFrames(nn.Module):
  """Adds to each token a projection of the mean of all frames and of a condition."""

  num_frames: int

  @nn.compact
  def __call__(self, tokens, cond):
    mean = tokens.reshape(-1, self.num_frames, *tokens.shape[1:]).mean(1)
    mean = jnp.repeat(mean, self.num_frames, axis=0)
    cond = jnp.broadcast_to(cond[:, None], (*tokens.shape[:2], cond.shape[-1]))
    both = jnp.concatenate([mean, cond], axis=-1)
    return tokens + nn.Dense(tokens.shape[-1], name="out")(both)


VIDEO = normal(2, 5, 2, 3, 8, seed=5)
MASK = np.array(  # Every row different, no two frames alike.
  [[1, 1, 1, 1, 1], [1, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1, 0, 0, 0, 1]],
  dtype=bool,
)


def shaw(x, p, mask, max_frames):
  """Two heads over the frames of one pixel (f c), by loops; equations 3 to 5."""
  f, c = x.shape
  q, k, v = (
    np.einsum("fc,chd->hfd", x, p[n]["kernel"]) + p[n]["bias"][:, None]
    for n in ("query", "key", "value")
  )
  out = np.tile(p["out"]["bias"], (f, 1))
  for head, i in np.ndindex(2, f):
    seen = np.flatnonzero(mask[i])
    far = np.clip(seen - i, 1 - max_frames, max_frames - 1) + max_frames - 1
    logits = [q[head, i] @ (k[head, j] + a) for j, a in
              zip(seen, p["relative_keys"][far], strict=True)]  # fmt: skip
    weights = scipy.special.softmax(np.array(logits) / np.sqrt(c / 2))
    attended = weights @ (v[head, seen] + p["relative_values"][far])
    out[i] += attended @ p["out"]["kernel"][head]
  return out


class TemporalAttentionTest(parameterized.TestCase):
  def test_a_fresh_layer_is_the_identity(self):
    layer = attention.TemporalAttention(2, max_frames=5)
    y, _ = jax.jit(layer.init_with_output)(jax.random.key(0), VIDEO)
    np.testing.assert_array_equal(y, VIDEO)

  @parameterized.parameters((5, None), (3, None), (7, MASK), (2, MASK), (1, MASK))
  def test_filled_it_is_the_formula(self, max_frames, mask):
    layer = attention.TemporalAttention(2, max_frames)
    variables = filled(layer, VIDEO)
    got = jax.jit(layer.apply)(variables, VIDEO, mask)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    x = np.asarray(VIDEO, np.float64).reshape(2, 5, 6, 8)
    normed = np.stack([[group_norm(frame, p["norm"]) for frame in clip] for clip in x])
    expected = x.copy()
    seen = np.ones((5, 5), bool) if mask is None else mask
    for i, pixel in np.ndindex(2, 6):
      expected[i, :, pixel] += shaw(normed[i, :, pixel], p, seen, max_frames)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
      got.reshape(x.shape) / scale, expected / scale, atol=2e-5
    )

  def test_with_a_norm_over_time_pixels_do_not_see_each_other(self):
    norm = functools.partial(Norm, over="time")
    layer = attention.TemporalAttention(2, 5, norm=norm)
    variables = filled(layer, VIDEO)
    apply = jax.jit(layer.apply)
    y, moved = apply(variables, VIDEO), apply(variables, VIDEO.at[0, 1, 0, 2].add(3.0))
    by = np.abs(moved - y).max(-1)  # b f h w
    self.assertGreater(by[0, :, 0, 2].min(), 1e-3)
    by[0, :, 0, 2] = 0.0
    np.testing.assert_array_equal(by, np.zeros_like(by))

  def test_a_short_clip_uses_the_middle_of_the_tables(self):
    long, short = (attention.TemporalAttention(2, frames) for frames in (9, 5))
    variables = filled(long, VIDEO)
    middle = {name: variables["params"][name][4:-4] for name in
              ("relative_keys", "relative_values")}  # fmt: skip
    params = {"params": variables["params"] | middle}
    np.testing.assert_allclose(
      jax.jit(long.apply)(variables, VIDEO),
      jax.jit(short.apply)(params, VIDEO),
      atol=1e-6,
    )

  def test_only_frames_allowed_are_seen(self):
    layer = attention.TemporalAttention(2, max_frames=5)
    apply = jax.jit(functools.partial(layer.apply, filled(layer, VIDEO)))
    y = apply(VIDEO, MASK)
    for frame in range(5):
      moved = apply(VIDEO.at[:, frame].multiply(-1.5).at[:, frame, 0].add(1.0), MASK)
      by = np.abs(moved - y).max((0, 2, 3, 4))
      np.testing.assert_array_equal(by > 1e-3, MASK[:, frame])
      np.testing.assert_array_equal(by[~MASK[:, frame]], 0.0)


class ConditionTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.apply = filled_apply("transformer")
    self.y = self.apply(X, COND)

  def test_the_condition_matters_to_its_own_example(self):
    moved = self.apply(X, COND.at[0, 2].multiply(-2.0))
    np.testing.assert_array_equal(self.y[1], moved[1])
    self.assertGreater(np.abs(self.y[0] - moved[0]).max(-1).min(), 0.01)

  def test_the_order_of_condition_tokens_does_not_matter(self):
    shuffled = self.apply(X, COND[:, np.array([3, 0, 4, 2, 1])])
    np.testing.assert_allclose(shuffled, self.y, atol=2e-3)

  def test_the_same_tokens_twice_are_the_same_condition(self):
    twice = self.apply(X, jnp.concatenate([COND, COND], axis=1))
    np.testing.assert_allclose(twice, self.y, atol=2e-3)

  def test_masked_tokens_are_as_if_they_were_not_there(self):
    mask = jnp.array([[True, False, True, True, False], [False, True, *[False] * 3]])
    y = self.apply(X, COND, mask)
    for i, seen in enumerate(np.asarray(mask)):
      alone = self.apply(X[i : i + 1], COND[i : i + 1, seen])
      np.testing.assert_allclose(y[i], alone[0], atol=2e-3)
      self.assertGreater(np.abs(y[i] - self.y[i]).max(), 0.1)
    moved = jnp.where(mask[..., None], COND, 100.0)
    np.testing.assert_array_equal(self.apply(X, moved, mask), y)
    np.testing.assert_allclose(
      self.apply(X, COND, jnp.ones_like(mask)), self.y, atol=2e-3
    )


class DtypeTest(parameterized.TestCase):
  @parameterized.parameters(
    (attention.SpatialAttention(2, dtype=jnp.dtype("bfloat16")), ()),
    (attention.SpatialTransformer(2, dtype=jnp.dtype("bfloat16")), (COND,)),
    (attention.TemporalAttention(2, 5, dtype=jnp.dtype("bfloat16")), (), VIDEO),
  )
  def test_it_computes_in_its_dtype(self, module, args, x=X):
    x = x.astype(jnp.bfloat16)
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x, *args)
    self.assertEqual(y.dtype, jnp.bfloat16)
    for leaf in jax.tree.leaves(variables):
      self.assertEqual(leaf.dtype, jnp.float32)


if __name__ == "__main__":
  absltest.main()
