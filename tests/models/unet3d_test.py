"""The space-time U-Net: who sees whom, the embedding, the sizes of the paper."""

import functools

from absl.testing import absltest, parameterized
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.models.unet3d import UNet3D, joint_mask
from lamd_jax.types import UserError

FRAMES, IMAGES = 3, 2
TINY = UNet3D(
  4,
  (1, 2),
  num_res_blocks=1,
  attention_factors=(2,),
  head_channels=4,
  embedding_channels=6,
  num_embedding_layers=2,
  max_frames=4,
)


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


X = normal(2, FRAMES + IMAGES, 4, 6, 3)
LOGSNR = 3.0 * normal(2, FRAMES + IMAGES, seed=1)
COND = normal(2, FRAMES + IMAGES, 6, seed=2)


def shapes_of(module, x=X, logsnr=LOGSNR[:, 0], cond=None, **kwargs):
  init = functools.partial(module.init_with_output, num_images=IMAGES)
  init = functools.partial(init, **kwargs)
  return jax.eval_shape(init, jax.random.key(0), x, logsnr, cond)


@functools.cache
def filled():
  """Normal numbers for every parameter, so that no branch is zero."""
  _, variables = shapes_of(TINY)
  rng = np.random.default_rng(3)

  def fill(s):  # Every layer's output about as large as its input.
    std = np.prod(s.shape[:-1]) ** -0.5 if len(s.shape) > 1 else 0.5
    return jnp.float32(rng.normal(0.0, std, s.shape))

  return jax.tree.map(fill, variables)


@functools.partial(jax.jit, static_argnames="num_images")
def apply(variables, x, logsnr, cond, num_images):
  return TINY.apply(variables, x, logsnr, cond, num_images=num_images)


def joint(variables=None, x=X, logsnr=LOGSNR, cond=COND):
  """The video and the images together: a prediction for each frame."""
  y = apply(filled() if variables is None else variables, x, logsnr, cond, IMAGES)
  return np.asarray(y)


def changed(**kwargs):
  """By how much the output changes, for each frame of each example."""
  return np.abs(joint(**kwargs) - joint()).max((2, 3, 4))


class MaskTest(parameterized.TestCase):
  def test_by_hand(self):
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(joint_mask(2, 2), np.array(expected, bool))

  @parameterized.parameters(3, 4)
  def test_an_image_changes_itself_alone(self, frame):
    by = changed(x=X.at[0, frame].multiply(-1.5))
    self.assertGreater(by[0, frame], 0.01)
    by[0, frame] = 0.0
    self.assertLess(by.max(), 1e-6)

  @parameterized.parameters(0, 1, 2)
  def test_a_frame_of_the_video_changes_all_of_it_and_no_image(self, frame):
    by = changed(x=X.at[1, frame].multiply(-1.5))
    self.assertGreater(by[1, :FRAMES].min(), 1e-3)
    self.assertLess(by[1, FRAMES:].max(), 1e-6)
    self.assertLess(by[0].max(), 1e-6)

  def test_the_video_is_what_it_is_without_images(self):
    part = X[:, :FRAMES], LOGSNR[:, :FRAMES], COND[:, :FRAMES]
    alone = apply(filled(), *part, 0)
    np.testing.assert_allclose(joint()[:, :FRAMES], alone, atol=1e-6)

  def test_an_image_is_what_it_is_as_a_clip_of_one_frame(self):
    for frame in range(FRAMES, FRAMES + IMAGES):
      part = np.s_[:, frame : frame + 1]
      alone = apply(filled(), X[part], LOGSNR[part], COND[part], 0)
      np.testing.assert_allclose(joint()[part], alone, atol=1e-6)

  def test_frames_meet_in_temporal_attention_alone(self):
    params = dict(filled()["params"])
    for name in params:
      if name.endswith("temporal_attention"):
        params[name] = params[name] | {
          "out": jax.tree.map(jnp.zeros_like, params[name]["out"])
        }
    y = joint({"params": params})
    for frame in range(FRAMES):
      moved = joint({"params": params}, x=X.at[:, frame].multiply(-1.5))
      by = np.abs(moved - y).max((0, 2, 3, 4))
      self.assertGreater(by[frame], 0.01)
      self.assertLess(np.delete(by, frame).max(), 1e-6)

  def test_the_order_of_frames_matters_to_a_video(self):
    order = np.array([1, 0, 2, 3, 4])
    shuffled = joint(x=X[:, order], logsnr=LOGSNR[:, order], cond=COND[:, order])
    by = np.abs(shuffled[:, order] - joint()).max((0, 2, 3, 4))
    self.assertGreater(by[:FRAMES].min(), 1e-3)
    self.assertLess(by[FRAMES:].max(), 1e-6)


class EmbeddingTest(parameterized.TestCase):
  def test_a_level_of_the_example_is_that_of_all_its_frames(self):
    logsnr, cond = LOGSNR[:, 0], COND[:, 0]
    frames = X.shape[1]
    expected = joint(
      logsnr=jnp.repeat(logsnr[:, None], frames, axis=1),
      cond=jnp.repeat(cond[:, None], frames, axis=1),
    )
    np.testing.assert_allclose(joint(logsnr=logsnr, cond=cond), expected, atol=1e-6)

  def test_the_null_condition_is_none(self):
    logsnr = LOGSNR[:, 0]
    none = joint(logsnr=logsnr, cond=None)
    np.testing.assert_array_equal(joint(logsnr=logsnr, cond=0.0 * COND[:, 0]), none)
    self.assertGreater(np.abs(joint(logsnr=logsnr, cond=COND[:, 0]) - none).max(), 0.01)

  def test_an_image_has_its_own_level_and_condition(self):
    for kwargs in (
      dict(logsnr=LOGSNR.at[0, 3].add(1.0)),
      dict(cond=COND.at[0, 3].multiply(-1.0)),
    ):
      by = changed(**kwargs)
      self.assertGreater(by[0, 3], 1e-3)
      by[0, 3] = 0.0
      self.assertLess(by.max(), 1e-6)

  def test_a_level_of_the_video_reaches_every_one_of_its_frames(self):
    by = changed(logsnr=LOGSNR.at[1, 0].add(1.0))
    self.assertGreater(by[1, :FRAMES].min(), 1e-4)
    self.assertLess(by[1, FRAMES:].max(), 1e-6)

  @parameterized.parameters(1, 2, 4)
  def test_the_perceptron_has_as_many_layers_as_asked_for(self, layers):
    _, variables = shapes_of(TINY.clone(num_embedding_layers=layers))
    names = {name for name in variables["params"] if name.startswith("embed")}
    self.assertEqual(names, {f"embed_{i}" for i in range(layers)})


class NetworkTest(parameterized.TestCase):
  def test_a_fresh_network_predicts_zero(self):
    @jax.jit
    def fresh_last():
      variables = TINY.init(jax.random.key(0), X, LOGSNR, COND, num_images=IMAGES)
      return variables["params"]["conv_out"]

    y = joint({"params": {**filled()["params"], "conv_out": fresh_last()}})
    np.testing.assert_array_equal(y, np.zeros(X.shape))

  def test_every_parameter_and_every_input_has_a_gradient(self):
    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2, 3))
    def gradient(variables, x, logsnr, cond):
      y = TINY.apply(variables, x, logsnr, cond, num_images=IMAGES)
      return jnp.sum(y * normal(*X.shape, seed=4))

    grads = gradient(filled(), X, LOGSNR, COND)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
      name = jax.tree_util.keystr(path)
      largest = np.abs(leaf).max()
      if name.endswith("['key']['bias']"):
        # The same number added to all keys changes no softmax.
        self.assertLess(largest, 1e-4, name)
      else:
        self.assertGreater(largest, 1e-3, name)

  @parameterized.parameters(
    ("down_1_0", "up_1_0", 8),
    ("downsample_0", "up_1_1", 4),
    ("down_0_0", "up_0_0", 4),
    ("conv_in", "up_0_1", 4),
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
    difference = joint({"params": moved}) - joint({"params": params})
    self.assertGreater(np.abs(difference).max((2, 3, 4)).min(), 1e-3)

  @parameterized.parameters(((),), ((1,),), ((2,),), ((1, 2),))
  def test_pairs_of_attention_are_where_asked_for_and_in_the_middle(self, factors):
    _, variables = shapes_of(TINY.clone(attention_factors=factors))
    blocks = {"mid"}
    for factor in factors:
      level = factor - 1
      blocks |= {f"down_{level}_0", f"up_{level}_0", f"up_{level}_1"}
    expected = {
      f"{b}_{kind}_attention" for b in blocks for kind in ("spatial", "temporal")
    }
    found = {name for name in variables["params"] if name.endswith("attention")}
    self.assertEqual(found, expected)

  def test_heads_have_the_width_asked_for_and_tables_the_longest_distance(self):
    _, variables = shapes_of(TINY)
    layer = variables["params"]["down_1_0_temporal_attention"]
    self.assertEqual(layer["query"]["kernel"].shape, (8, 2, 4))
    self.assertEqual(layer["relative_keys"].shape, (7, 4))
    layer = variables["params"]["down_1_0_spatial_attention"]["attention"]
    self.assertEqual(layer["query"]["kernel"].shape, (8, 2, 4))

  def test_heads_may_be_as_many_on_every_level(self):
    module = TINY.clone(num_heads=2, attention_factors=(1, 2))
    params = shapes_of(module)[1]["params"]
    for level, width in ((0, 4), (1, 8)):
      layer = params[f"down_{level}_0_temporal_attention"]
      self.assertEqual(layer["query"]["kernel"].shape, (width, 2, width // 2))
      layer = params[f"down_{level}_0_spatial_attention"]["attention"]
      self.assertEqual(layer["query"]["kernel"].shape, (width, 2, width // 2))

  def test_an_added_embedding_has_half_the_numbers(self):
    for scale_shift, width in ((True, 16), (False, 8)):
      _, variables = shapes_of(TINY.clone(scale_shift=scale_shift))
      kernel = variables["params"]["down_1_0"]["embedding"]["kernel"]
      self.assertEqual(kernel.shape, (6, width))

  def test_dropout_is_for_training_alone(self):
    def shape(rate, train):
      unet = TINY.clone(dropout_rate=rate)
      call = functools.partial(unet.apply, num_images=IMAGES, train=train)
      return jax.eval_shape(call, filled(), X, LOGSNR, COND).shape

    self.assertEqual(shape(0.5, train=False), X.shape)
    self.assertEqual(shape(0.0, train=True), X.shape)
    with self.assertRaises(flax.errors.InvalidRngError):  # It asks for a key.
      shape(0.5, train=True)

  def test_in_bfloat16_it_is_about_the_same(self):
    unet = TINY.clone(dtype=jnp.dtype("bfloat16"))
    y, variables = shapes_of(unet)
    self.assertEqual((y.shape, y.dtype), (X.shape, jnp.float32))
    for leaf in jax.tree.leaves(variables):
      self.assertEqual(leaf.dtype, jnp.float32)
    got = jax.jit(functools.partial(unet.apply, num_images=IMAGES))(
      filled(), X, LOGSNR, COND
    )
    error = np.sqrt(np.mean((got - joint()) ** 2) / np.mean(joint() ** 2))
    self.assertBetween(error, 1e-4, 0.1)


class SizeTest(parameterized.TestCase):
  # Estimates made before this network: the paper prints no counts. They assume the
  # recommended blocks, so equal counts say that widths, blocks and skips are as meant.
  @parameterized.named_parameters(
    ("ucf101", {}, 1.17e9),
    ("kinetics", dict(num_embedding_layers=2), 1.17e9),
    (
      "bair",
      dict(
        model_channels=128,
        channel_mults=(1, 2, 3, 4),
        num_res_blocks=3,
        num_embedding_layers=2,
      ),
      149e6,
    ),
    ("text_small", dict(model_channels=128), 307e6),
    (
      "text_9x128x128",
      dict(
        model_channels=128,
        channel_mults=(1, 2, 4, 8, 16),
        attention_factors=(4, 8, 16),
        head_channels=128,
        max_frames=9,
      ),
      1.17e9,
    ),
    ("development", dict(model_channels=64, embedding_channels=256), 73e6),
    # By hand 18 M, two digits; this is 18.33 M.
    (
      "small",
      dict(model_channels=32, embedding_channels=128, head_channels=32),
      18.3e6,
    ),
  )
  def test_it_has_the_size_estimated_for_the_paper(self, kwargs, expected):
    x = jnp.zeros((1, IMAGES + 1, 32, 32, 3))
    _, variables = shapes_of(UNet3D(**kwargs), x, jnp.zeros(1))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    self.assertAlmostEqual(count / expected, 1.0, delta=0.01)


class UserErrorTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(x=X[:, :, :3]), "2 levels.*divisible by 2, given 3x6"),
    (dict(num_images=-1), "num_images=-1: expected 0 to 5 of 5 frames"),
    (dict(num_images=6), "num_images=6: expected 0 to 5 of 5 frames"),
    (dict(num_images=0), "a video of 5 frames is longer than max_frames=4"),
    (dict(cond=COND[:, 0, :5]), r"cond has the shape \(2, 5\); expected \(2, 6\)"),
  )
  def test_impossible_sizes_are_named(self, kwargs, message):
    with self.assertRaisesRegex(UserError, message):
      shapes_of(TINY, **kwargs)

  @parameterized.parameters(
    (dict(head_channels=5), "head_channels=5 does not divide the 8"),
    (dict(attention_factors=(2, 4)), r"attention_factors has \[4\].* factors \[1, 2\]"),
  )
  def test_impossible_networks_are_named(self, fields, message):
    with self.assertRaisesRegex(UserError, message):
      shapes_of(TINY.clone(**fields))

  @parameterized.parameters(
    (LOGSNR[:1], None, r"logsnr has the shape \(1, 5\); expected \(2,\).*\(2, 5\)"),
    (LOGSNR[0], None, r"logsnr has the shape \(5,\); expected \(2,\).*\(2, 5\)"),
    (LOGSNR, COND[:, :3], r"cond has the shape \(2, 3, 6\); expected.*\(2, 5, 6\)"),
  )
  def test_levels_and_conditions_of_others_are_refused(self, logsnr, cond, message):
    with self.assertRaisesRegex(UserError, message):  # Before annotations are checked.
      TINY._check(X, logsnr, cond, IMAGES)

  def test_images_alone_are_fine(self):
    y, _ = shapes_of(TINY, num_images=5)
    self.assertEqual(y.shape, X.shape)


if __name__ == "__main__":
  absltest.main()
