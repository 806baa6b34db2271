"""MCD-VAE: what the latent is, what the decoder sees, and the paper's size."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.models.mcd_vae import MCDVAE, Content, GrowFrames, normalize
from lamd_jax.models.posterior import LOGVAR_RANGE
from lamd_jax.types import UserError

TINY = MCDVAE(
  num_frames=5,
  motion_channels=3,
  content_channels=6,
  encoder_channels=(4, 8),
  motion_encoder_channels=(4, 8),
  decoder_channels=(4, 8),
  encoder_blocks=1,
  decoder_blocks=(1, 1),
  kernels=((1, 3, 3), (3, 1, 1)),
)
B, F, H, W = 2, 5, 8, 12


def normal(*shape, seed=0, scale=1.0):
  values = np.random.default_rng(seed).normal(0.0, scale, shape)
  return jnp.asarray(values, jnp.float32)


VIDEO, Z = normal(B, F, H, W, 3, scale=0.5), normal(B, H // 2, W // 2, 3, seed=1)


def filled(variables, seed=2):
  """Normal numbers for every parameter, zero at first or not."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda s: jnp.float32(rng.normal(0.0, 0.3, s.shape)), variables)


@functools.cache
def tiny_variables():
  key = jax.random.key(0)
  return filled(jax.eval_shape(TINY.init, key, VIDEO, key))


@functools.cache
def run(method):
  return jax.jit(functools.partial(TINY.apply, tiny_variables(), method=method))


def shapes_at(num_frames, side=16, **fields):
  """Shapes of the parameters, the latent and the decoded video; computes nothing."""
  model = TINY.clone(num_frames=num_frames, **fields)
  video = jnp.zeros((2, num_frames, side, 2 * side, 3))
  key = jax.random.key(0)
  (decoded, posterior), variables = jax.eval_shape(
    model.init_with_output, key, video, key
  )
  return variables["params"], posterior, decoded


class ShapesTest(parameterized.TestCase):
  @parameterized.parameters(2, 3, 5, 10, 16, 32)
  def test_the_latent_has_no_time_and_the_decoder_gives_it_back(self, num_frames):
    _, posterior, decoded = shapes_at(num_frames)
    self.assertEqual(posterior.mean.shape, (2, 8, 16, 3))
    self.assertEqual(posterior.logvar.shape, (2, 8, 16, 3))
    self.assertEqual(decoded.shape, (2, num_frames, 16, 32, 3))

  @parameterized.parameters((16, 4), (10, 3), (40, 5), (5, 3))
  def test_time_that_is_kept_lies_in_the_channels(self, num_frames, latent_frames):
    _, posterior, decoded = shapes_at(num_frames, latent_frames=latent_frames)
    self.assertEqual(posterior.mean.shape, (2, 8, 16, 3 * latent_frames))
    self.assertEqual(decoded.shape, (2, num_frames, 16, 32, 3))

  def test_time_removed_or_kept_takes_as_many_stages(self):
    stages = [
      [x for x in shapes_at(16, latent_frames=n)[0]["motion_encoder"] if "down" in x]
      for n in (1, 4)
    ]
    self.assertLen(stages[0], 4)
    self.assertEqual(*stages)

  def test_a_length_that_halving_does_not_meet_is_refused(self):
    with self.assertRaisesRegex(
      UserError, "latent_frames=4: 10 frames halve to 1, 2, 3"
    ):
      shapes_at(10, latent_frames=4)

  @parameterized.parameters(("norm", "sample, channel"), ("fusion", "concat, modulate"))
  def test_an_unknown_variant_is_named(self, name, known):
    with self.assertRaisesRegex(UserError, f"{name}='batch'; known: {known}"):
      shapes_at(4, **{name: "batch"})

  @parameterized.parameters(2, 3, 10)
  def test_each_further_scale_halves_the_latent(self, num_frames):
    widths = (4, 4, 8)
    _, posterior, decoded = shapes_at(
      num_frames,
      encoder_channels=widths,
      motion_encoder_channels=widths,
      decoder_channels=widths,
      decoder_blocks=(0, 1, 2),
    )
    self.assertEqual(posterior.mean.shape, (2, 4, 8, 3))
    self.assertEqual(decoded.shape, (2, num_frames, 16, 32, 3))

  def test_content_is_at_every_scale_and_on_the_grid_of_the_latent(self):
    content = jax.eval_shape(run("encode_content"), VIDEO[:, 0])
    self.assertEqual(content.deepest.shape, (B, H // 2, W // 2, 6))
    scales = [(B, H, W, 4), (B, H // 2, W // 2, 8)]
    self.assertEqual([s.shape for s in content.scales], scales)

  @parameterized.parameters(
    "motion_encoder_channels", "decoder_channels", "decoder_blocks"
  )
  def test_widths_of_another_length_are_named(self, name):
    with self.assertRaisesRegex(UserError, rf"{name} has 3 .* 2 scales"):
      shapes_at(4, **{name: (1, 4, 8)})

  def test_the_defaults_have_the_size_of_the_paper(self):
    # In millions of parameters; the paper's design, kl-f4 and 3D stages.
    key = jax.random.key(0)
    video = jnp.zeros((1, 16, 64, 64, 3))
    variables = jax.eval_shape(MCDVAE(16).init, key, video, key)
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree)) / 1e6
    sizes = {name: count(tree) for name, tree in variables["params"].items()}
    self.assertBetween(sizes["content_encoder"] / 24.7, 0.9, 1.1)
    self.assertBetween(sizes["motion_encoder"] / 16.0, 0.9, 1.1)
    self.assertBetween(sizes["decoder"] / 30.0, 0.8, 1.1)


class NormTest(absltest.TestCase):
  def test_each_latent_gets_mean_0_and_deviation_1(self):
    z = np.asarray(normalize(Z * jnp.array([0.01, 40.0]).reshape(2, 1, 1, 1) + 3.0))
    np.testing.assert_allclose(z.mean((1, 2, 3)), 0.0, atol=1e-4)
    np.testing.assert_allclose(z.std((1, 2, 3)), 1.0, atol=1e-3)

  def test_scale_and_shift_of_a_latent_are_lost(self):
    np.testing.assert_allclose(normalize(7.0 * Z - 2.0), normalize(Z), atol=1e-5)
    self.assertGreater(np.abs(normalize(-Z) - normalize(Z)).max(), 0.5)

  def test_channels_keep_their_differences(self):
    z = np.asarray(normalize(Z + jnp.array([5.0, 0.0, -5.0])))
    self.assertGreater(z[..., 0].mean() - z[..., 2].mean(), 2.0)

  def test_the_decoder_sees_the_normalized_latent(self):
    content = run("encode_content")(VIDEO[:, 0])
    y = run("decode")(Z, content)
    np.testing.assert_allclose(run("decode")(5.0 * Z + 2.0, content), y, atol=1e-3)


class VariantsTest(absltest.TestCase):
  """Norm over channels, affine Norm, modulation, and time that is kept."""

  def model(self, **fields):
    model = TINY.clone(**fields)
    key = jax.random.key(0)
    variables = filled(jax.eval_shape(model.init, key, VIDEO, key))

    def run(method):
      return jax.jit(functools.partial(model.apply, variables, method=method))

    return run, variables["params"]

  def test_norm_over_channels_makes_each_alike(self):
    z = Z * jnp.array([0.1, 1.0, 9.0]) + jnp.array([5.0, 0.0, -5.0])
    z = np.asarray(normalize(z, "channel"))
    np.testing.assert_allclose(z.mean((1, 2)), 0.0, atol=1e-4)
    np.testing.assert_allclose(z.std((1, 2)), 1.0, atol=1e-3)

  @pytest.mark.slow
  def test_affine_norm_scales_what_the_decoder_sees_but_not_what_is_diffused(self):
    run, params = self.model(norm="affine")
    np.testing.assert_allclose(run("normalize")(Z), normalize(Z), atol=1e-5)
    content = run("encode_content")(VIDEO[:, 0])
    plain = TINY.clone()
    without = {k: v for k, v in params.items() if not k.startswith("norm_")}
    seen = normalize(Z) * params["norm_scale"] + params["norm_shift"]
    # The plain decoder, given what the other one sees, behind Norm.
    decoder = plain.bind({"params": without}).decoder
    expected = run("to_pixels")(decoder(seen, content))
    np.testing.assert_allclose(run("decode")(Z, content), expected, atol=1e-3)

  def test_modulation_scales_and_shifts_place_by_place(self):
    run, _ = self.model(fusion="modulate")
    content = run("encode_content")(VIDEO[:, 0])
    before = np.asarray(run("decode")(Z, content))
    for i, scale in enumerate(content.scales):
      scales = list(content.scales)
      scales[i] = scale.at[0].multiply(-1.0)
      changed = Content(content.deepest, tuple(scales))
      by = np.abs(np.asarray(run("decode")(Z, changed)) - before)
      self.assertGreater(by[0].max((1, 2, 3)).min(), 1e-3)
      np.testing.assert_array_equal(by[1], np.zeros_like(by[1]))
    # Without content the maps are their biases, the same at every place.
    spread = functools.partial(jax.tree.map, jnp.zeros_like)
    run, params = self.model(fusion="modulate", decoder_blocks=(0, 0))
    shift = spread(content)
    flat = np.asarray(run("decode_features")(jnp.zeros_like(Z), shift))
    np.testing.assert_allclose(flat[0], flat[1], atol=1e-5)
    self.assertIn("fuse_content_0", params["decoder"])

  def test_each_kept_step_in_time_is_of_its_frames(self):
    # 16 frames in 4 steps: the middle of a step's frames tells on no far step.
    model = TINY.clone(num_frames=16, latent_frames=4, kernels=((1, 3, 3), (1, 3, 3)))
    video = normal(1, 16, 8, 8, 3)
    variables = filled(
      jax.eval_shape(model.init, jax.random.key(0), video, jax.random.key(0))
    )
    encode = jax.jit(functools.partial(model.apply, variables, method="encode_motion"))
    by = encode(video.at[:, 0].multiply(-1.0)).mean - encode(video).mean
    by = np.abs(np.asarray(by).reshape(4, 4, 4, 3)).max((0, 1, 3))  # h w f d.
    self.assertGreater(by[0], 1e-3)
    self.assertEqual(by[3], 0.0)


class MotionEncoderTest(absltest.TestCase):
  def test_a_fresh_encoder_is_nearly_certain(self):
    key = jax.random.key(0)
    init = functools.partial(TINY.init_with_output, method="encode_motion")
    posterior, _ = jax.jit(init)(key, VIDEO)
    self.assertLess(posterior.logvar.max(), -1.0)
    self.assertGreater(posterior.logvar.min(), LOGVAR_RANGE[0])

  def test_every_frame_of_every_clip_reaches_its_latent_alone(self):
    encode = run("encode_motion")
    before = np.asarray(encode(VIDEO).mean)
    for frame in range(F):
      after = np.asarray(encode(VIDEO.at[0, frame].multiply(-1.0)).mean)
      self.assertGreater(np.abs(after - before)[0].max(), 1e-3, f"frame {frame}")
      np.testing.assert_array_equal(after[1], before[1])

  def test_order_in_time_matters(self):
    encode = run("encode_motion")
    moved = encode(VIDEO[:, ::-1]).mean - encode(VIDEO).mean
    self.assertGreater(np.abs(moved).max((1, 2, 3)).min(), 1e-3)


class DecoderTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.content = run("encode_content")(VIDEO[:, 0])
    self.before = np.asarray(run("decode")(Z, self.content))

  def assert_all_frames_of_clip_0_change(self, z, content):
    by = np.abs(np.asarray(run("decode")(z, content)) - self.before)
    self.assertGreater(by[0].max((1, 2, 3)).min(), 1e-3)
    np.testing.assert_array_equal(by[1], np.zeros_like(by[1]))

  def test_the_latent_reaches_every_frame_of_its_own_clip(self):
    self.assert_all_frames_of_clip_0_change(Z.at[0].multiply(-1.0), self.content)

  def test_the_deepest_content_reaches_every_frame_of_its_own_clip(self):
    deepest = self.content.deepest.at[0].multiply(-1.0)
    self.assert_all_frames_of_clip_0_change(Z, self.content._replace(deepest=deepest))

  def test_the_content_of_each_scale_reaches_every_frame_of_its_own_clip(self):
    for i, scale in enumerate(self.content.scales):
      scales = list(self.content.scales)
      scales[i] = scale.at[0].multiply(-1.0)
      content = Content(self.content.deepest, tuple(scales))
      self.assert_all_frames_of_clip_0_change(Z, content)

  def test_frames_differ_from_each_other(self):
    differences = np.abs(np.diff(self.before, axis=1)).max((0, 2, 3, 4))
    self.assertGreater(differences.min(), 1e-3)

  def test_content_comes_from_the_first_frame_alone(self):
    key = jax.random.key(5)
    decoded, posterior = run("__call__")(VIDEO, key)
    again = run("decode")(posterior.sample(key), self.content)
    np.testing.assert_allclose(decoded, again, atol=1e-4)
    mean = run("encode_motion")(VIDEO).mean
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-4)

  def test_no_norm_spreads_the_finest_content_over_the_frame(self):
    # Two 3x3 convolutions lie between it and the pixels, so a change of one place
    # ends two pixels further; a norm would rescale the whole frame.
    model = TINY.clone(decoder_blocks=(0, 1))
    key = jax.random.key(0)
    variables = filled(jax.eval_shape(model.init, key, VIDEO, key))
    decode = jax.jit(functools.partial(model.apply, variables, method="decode"))
    content = model.apply(variables, VIDEO[:, 0], method="encode_content")
    finest = content.scales[0].at[:, 3, 4].add(1.0)
    changed = content._replace(scales=(finest, *content.scales[1:]))
    moved = np.abs(decode(Z, changed) - decode(Z, content)).max(axis=(0, 1, 4)) > 0
    rows, columns = np.where(moved)
    self.assertEqual((rows.min(), rows.max()), (1, 5))
    self.assertEqual((columns.min(), columns.max()), (2, 6))


class GrowFramesTest(parameterized.TestCase):
  def grow(self, x, num_frames, fill):
    module = GrowFrames(num_frames)
    variables = module.init(jax.random.key(0), x)
    return np.asarray(module.apply(fill(variables), x))

  @parameterized.parameters((1, 2), (3, 5), (3, 6), (2, 3))
  def test_without_its_convolution_it_is_linear_interpolation(self, given, num_frames):
    x = normal(2, given, 2, 3, 4)
    zeros = lambda variables: jax.tree.map(jnp.zeros_like, variables)
    # Each frame in the middle of its interval; the ends are held.
    places = (np.arange(num_frames) + 0.5) * given / num_frames - 0.5
    rows = np.moveaxis(np.asarray(x), 1, -1)
    expected = np.apply_along_axis(
      lambda row: np.interp(places, np.arange(given), row), -1, rows
    )
    y = self.grow(x, num_frames, zeros)
    np.testing.assert_allclose(y, np.moveaxis(expected, -1, 1), atol=1e-6)

  def test_with_it_one_frame_becomes_two_that_differ(self):
    y = self.grow(normal(2, 1, 2, 3, 4), 2, filled)
    self.assertGreater(np.abs(y[:, 0] - y[:, 1]).max(), 0.1)

  def test_as_many_frames_as_there_are_stay_as_they_are(self):
    x = normal(2, 3, 2, 2, 4)
    np.testing.assert_array_equal(GrowFrames(3).apply({}, x), x)


if __name__ == "__main__":
  absltest.main()
