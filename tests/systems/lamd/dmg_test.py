"""LaMD's generator: its loss recomputed, and what it may look at."""

import dataclasses
import functools
from typing import ClassVar
from unittest import mock

from absl.testing import absltest, parameterized
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from tiny_lamd import (
  BATCH,
  CONFIG,
  KEY,
  VIDEO,
  conditional,
  configured,
  generator,
  vae,
)

from lamd_jax.diffusion import samplers, schedules
from lamd_jax.models.conditioning import Tokens
from lamd_jax.models.dmg import DMG
from lamd_jax.models.mcd_vae import normalize
from lamd_jax.systems import table
from lamd_jax.systems.lamd import dmg as dmg_lib
from lamd_jax.systems.pixels import from_uint8
from lamd_jax.systems.stage import Part
from lamd_jax.types import UserError

CLASS = dict(kind="class", num_classes=5)
CONDITIONS = [
  (CLASS, {"label": jnp.array([3, 0], jnp.int32)}),
  (
    dict(kind="caption", encoder="", num_tokens=4, text_channels=6),
    {
      "text": jnp.asarray(np.random.default_rng(4).normal(size=(2, 4, 6)), jnp.float16),
      "text_mask": jnp.array([[True, True, False, False], [True] * 4]),
    },
  ),
  (
    dict(kind="words", vocabulary="shapes", num_words=40),
    {"words": jnp.array([[1, 7, 2, 0, 0], [1, 30, 9, 2, 0]], jnp.int32)},
  ),
]


@functools.cache
def compiled_sample():
  stage, _ = generator()
  return jax.jit(stage.sample)


@functools.cache
def compiled_gradients():
  """Loss of stage 2, and its gradients for the stage and for the parameters."""
  loss = lambda stage, params, batch: stage.loss(params, batch, KEY, train=True)[0]
  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


@jax.jit
def sample_window(stage, params, video, is_known):
  return stage.sample_window(params, {}, KEY, video, is_known)


@jax.jit
def compiled_decode(stage, z, video):
  """The frames of a latent with the content of a video's first one."""
  return stage._decode(z, stage._content(video[:, 0]))


def normal(*, seed, mean=0.0):
  """A latent."""
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(mean, 3.0, (2, 4, 4, 3)), jnp.float32)


def knowing(condition=None, dropout=0.1, **sample):
  """Stage 2 that predicts latents it knows, without noise at the end."""
  condition = condition and condition | {"dropout": dropout}
  config = configured(condition, **sample)
  stage = table.make_stage(config, "dmg", generator_parts())
  model = Knows(condition=stage.model.condition)
  schedule = schedules.make_schedule("cosine")
  return stage.replace(model=model, parameterization="x", schedule=schedule)


def generator_parts():
  return {"mcd_vae": Part(generator()[0].vae_params)}


def changed(*, frames):
  """The batch with other values in some frames of both clips."""
  video = VIDEO.copy()
  video[:, frames] = 255 - video[:, frames]
  return {"video": jnp.asarray(video)}


class Says0(DMG):
  """Predicts 0, and remembers what it was asked."""

  asked: ClassVar = []

  def __call__(self, z_t, timestep, content, cond=None, *, train=False):
    self.asked.append((z_t, timestep, content))
    return jnp.zeros_like(z_t)


class Knows(DMG):
  """Predicts its parameter; under a condition another, with the first token in it."""

  def __call__(self, z_t, timestep, content, cond=None, *, train=False):
    if cond is None:
      return self.get_variable("params", "z")
    token = jnp.where(cond.mask[..., None], cond.values, 0.0)[:, :1, :1]
    return self.get_variable("params", "z_cond") + token[..., None]

  def read_condition(self, values, *, train=False):
    return Tokens(values[:, None, None], jnp.ones((len(values), 1), bool))


class DMGStageTest(parameterized.TestCase):
  def normalized_draw(self, key):
    """The latents that a loss with this key is about."""
    posterior = vae("encode_motion")(from_uint8(BATCH["video"]))
    return normalize(posterior.sample(jax.random.split(key, 3)[0]))

  def test_knowing_the_normalized_draw_is_a_loss_of_0(self):
    stage, _ = generator()
    stage = stage.replace(model=Knows(), parameterization="x")
    params = {"z": self.normalized_draw(KEY)}
    loss = jax.jit(functools.partial(stage.loss, train=True))
    self.assertLess(loss(params, BATCH, KEY)[0], 1e-6)
    # Another step draws another latent from the same posterior.
    self.assertGreater(loss(params, BATCH, jax.random.key(0))[0], 1e-6)

  def test_the_network_sees_the_content_of_the_first_frame(self):
    stage, params = generator()
    stage = stage.replace(model=Says0())

    @jax.jit
    def loss_and_asked(params):
      Says0.asked.clear()
      return stage.loss(params, BATCH, KEY, train=True)[0], Says0.asked[0]

    loss, (z_t, timestep, content) = loss_and_asked(params)
    Says0.asked.clear()
    deepest = vae("encode_content")(from_uint8(BATCH["video"][:, 0])).deepest
    np.testing.assert_allclose(content, deepest, atol=1e-4)
    self.assertTrue(np.all(timestep == np.round(timestep)))
    self.assertBetween(float(timestep.min()), 0, 999)
    # Equation 4 read backwards: what was added is unit noise, and so is the loss.
    abar = np.cumprod(1.0 - np.array(schedules.sqrt_linear_betas()))
    abar = abar[np.int32(timestep)].reshape(-1, 1, 1, 1)
    eps = (z_t - np.sqrt(abar) * self.normalized_draw(KEY)) / np.sqrt(1 - abar)
    np.testing.assert_allclose(loss, np.square(eps).mean(), rtol=1e-3)
    self.assertBetween(float(loss), 0.7, 1.3)

  def test_the_first_frame_changes_the_loss(self):
    stage, params = generator()
    losses = [
      float(compiled_gradients()(stage, params, batch)[0])
      for batch in (BATCH, changed(frames=[0]))
    ]
    self.assertGreater(abs(losses[1] - losses[0]), 1e-4)

  def test_no_gradient_reaches_the_frozen_stage(self):
    stage, params = generator()
    _, (frozen, trained) = compiled_gradients()(stage, params, BATCH)
    self.assertNotEmpty(jax.tree.leaves(frozen))
    for leaf in jax.tree.leaves(frozen):
      np.testing.assert_array_equal(leaf, np.zeros_like(leaf))
    for leaf in jax.tree.leaves(trained):
      self.assertTrue(np.all(np.isfinite(leaf)))
    self.assertGreater(max(np.abs(x).max() for x in jax.tree.leaves(trained)), 0.0)

  @parameterized.parameters(*samplers.SAMPLERS)
  def test_a_known_latent_is_normalized_and_decoded(self, sampler):
    stage = knowing(sampler=sampler)
    z = normal(seed=3, mean=2.0)
    video = jax.jit(stage.sample)({"z": z}, BATCH, KEY)
    content = vae("encode_content")(from_uint8(BATCH["video"][:, 0]))
    expected = vae("decode")(normalize(z), content)
    np.testing.assert_allclose(video, expected, atol=0.01)

  def test_predicting_no_noise_decodes_the_starting_noise(self):
    # Then DDIM only scales it, and Norm takes the scale away.
    stage, params = generator()
    start = jax.random.normal(jax.random.split(KEY)[0], (2, 4, 4, 3))
    content = vae("encode_content")(from_uint8(BATCH["video"][:, 0]))
    video = jax.jit(stage.replace(model=Says0()).sample)(params, BATCH, KEY)
    np.testing.assert_allclose(video, vae("decode")(start, content), atol=1e-3)

  def test_samples_depend_on_the_key_alone(self):
    _, params = generator()
    once, again, other = (
      np.asarray(compiled_sample()(params, BATCH, jax.random.key(seed)))
      for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(once, again)
    self.assertGreater(np.abs(once - other).max((1, 2, 3, 4)).min(), 0.01)

  def test_samples_see_the_first_frame_and_no_other(self):
    _, params = generator()
    sample = compiled_sample()
    before = np.asarray(sample(params, BATCH, KEY))
    np.testing.assert_array_equal(sample(params, changed(frames=[1, 2]), KEY), before)
    by = np.abs(np.asarray(sample(params, changed(frames=[0]), KEY)) - before)
    self.assertGreater(by.max((1, 2, 3, 4)).min(), 0.01)


class ConditionTest(parameterized.TestCase):
  """Class, captions and words beside the first frame."""

  @parameterized.parameters(*CONDITIONS)
  def test_a_condition_is_of_its_own_example(self, condition, given):
    stage, params = conditional(condition, BATCH | given)
    # Two tokens of another caption, a word, a class: of the second example alone.
    other = {
      name: x if x.dtype == bool else x.at[1].set(x[0]) for name, x in given.items()
    }
    sample = jax.jit(stage.sample)
    video, moved, without = (
      np.asarray(sample(params, BATCH | values, KEY)) for values in (given, other, {})
    )
    np.testing.assert_array_equal(moved[0], video[0])
    by = np.abs(moved - video).max((1, 2, 3, 4))
    self.assertGreater(by[1], 1e-4)
    self.assertGreater(np.abs(without - video).max((1, 2, 3, 4)).min(), 1e-4)

  def test_the_share_that_is_dropped_is_the_share_asked_for(self):
    stage = knowing(CLASS, dropout=0.3)
    # The error of the parameter is 0, that of the condition 1 where it is there.
    params = {"z_cond": jnp.zeros(())}
    given = {"video": BATCH["video"], "label": jnp.ones(2)}
    zero = lambda batch, key: (jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 4)))

    @jax.jit
    def losses(keys):
      with mock.patch.object(dmg_lib.DMGStage, "_encode", staticmethod(zero)):
        return jax.lax.map(
          lambda key: stage.loss(params, given, key, train=True)[0], keys
        )

    found = losses(jax.random.split(KEY, 1000))
    np.testing.assert_allclose(found.mean(), 0.7, atol=0.03)
    # Each example by itself: both, one, none of two.
    self.assertEqual(set(np.round(np.asarray(found), 3)), {0.0, 0.5, 1.0})

  @parameterized.parameters(1.0, 3.0)
  def test_guidance_pushes_away_from_what_is_made_without_the_condition(self, scale):
    stage = knowing(CLASS, guidance=scale)
    z, z_cond, label = normal(seed=3), normal(seed=4), jnp.array([0.0, 2.0])
    params = {"z": z, "z_cond": z_cond}
    given = BATCH | {"label": label}
    video = jax.jit(stage.sample)(params, given, KEY)
    guided = z + scale * (z_cond + label[:, None, None, None] - z)
    content = vae("encode_content")(from_uint8(BATCH["video"][:, 0]))
    expected = vae("decode")(guided, content)
    np.testing.assert_allclose(video, expected, atol=0.01)
    # Nobody asked for a class: no condition, no guidance.
    video = jax.jit(stage.sample)(params, BATCH, KEY)
    np.testing.assert_allclose(video, vae("decode")(z, content), atol=0.01)

  def test_dropout_of_the_word_encoder_is_on_in_training_alone(self):
    condition, given = CONDITIONS[-1]
    stage, params = conditional(condition, BATCH | given)
    stage = stage.replace(cond_dropout=0.0)

    @functools.partial(jax.jit, static_argnums=1)
    def size_of_tokens(key, train):
      with mock.patch.object(dmg_lib.losses, "denoising_loss", self.read_tokens):
        return stage.loss(params, BATCH | given, key, train=train)[0]

    a, b = jax.random.split(KEY)
    self.assertEqual(size_of_tokens(a, False), size_of_tokens(b, False))
    self.assertNotAlmostEqual(size_of_tokens(a, True), size_of_tokens(b, True), 3)

  def read_tokens(self, model_fn, x, key, **kwargs):
    """The size of the condition that a network is bound to, in place of its loss."""
    seen = []

    def keep(next_fn, args, kwargs, context):
      if isinstance(context.module, DMG) and context.method_name == "__call__":
        seen.append(args[3].values)
        return args[0]
      return next_fn(*args, **kwargs)

    with nn.intercept_methods(keep):
      model_fn(x, jnp.zeros(len(x)))
    return jnp.square(seen[0]).mean(), {}


class WindowTest(parameterized.TestCase):
  """Windows of longer videos, from the network that is right if latents are noise.

  It predicts v = 0: what it predicts follows the latent, and it compiles at once.
  """

  def setUp(self):
    super().setUp()
    stage, self.params = generator()
    sampling = dataclasses.replace(stage.sampling, num_steps=20)
    self.stage = stage.replace(model=Says0(), parameterization="v", sampling=sampling)
    self.video = from_uint8(BATCH["video"])

  def sample(self, video, known, stage=None):
    return np.asarray(sample_window(stage or self.stage, self.params, video, known))

  def test_from_the_first_frame_alone_it_is_a_sample_with_that_frame(self):
    known = jnp.array([True, False, False])
    got = self.sample(self.video, known)
    expected = jax.jit(self.stage.sample)(self.params, BATCH, KEY)
    np.testing.assert_array_equal(got[:, 0], self.video[:, 0])
    np.testing.assert_allclose(got[:, 1:], expected[:, 1:], atol=1e-4)
    # What stands in unknown frames is nobody's business.
    moved = self.sample(self.video.at[:, 1:].set(7.0), known)
    np.testing.assert_array_equal(moved, got)

  def test_a_shorter_window_is_the_beginning_of_a_whole_one(self):
    got = self.sample(self.video[:, :2], jnp.array([True, False]))
    expected = self.sample(self.video, jnp.array([True, False, False]))
    np.testing.assert_allclose(got, expected[:, :2], atol=1e-5)

  def test_further_known_frames_are_kept_and_met(self):
    known = jnp.array([True, False, True])
    wanted = compiled_decode(self.stage, normal(seed=5), self.video)
    video = self.video.at[:, 2].set(wanted[:, 2])
    got = self.sample(video, known)
    np.testing.assert_array_equal(got[:, [0, 2]], video[:, [0, 2]])
    free = self.sample(video, jnp.array([True, False, False]))

    @jax.jit
    def made(known):
      """Decodes a sample, before known frames are put back."""
      content = self.stage._content(video[:, 0])
      denoise_fn = self.stage._denoise_fn(self.params, {}, content)
      denoise_fn = self.stage._meeting(denoise_fn, content, video, known)
      z = self.stage._draw(denoise_fn, content, KEY, None)
      return self.stage._decode(z, content)

    error = lambda known: np.abs(made(known) - wanted)[:, 2].mean((1, 2, 3))
    far = error(jnp.array([True, False, False]))
    np.testing.assert_array_less(error(known), 0.8 * far)
    weightless = dataclasses.replace(self.stage.sampling, frames_weight=0.0)
    off = self.sample(video, known, self.stage.replace(sampling=weightless))
    np.testing.assert_allclose(off[:, 1], free[:, 1], atol=1e-5)

  def test_of_two_further_frames_each_pulls_half_as_much(self):
    # The guidance is linear in what each frame adds to the error.
    z_t, logsnr = normal(seed=8), jnp.zeros(2)

    @jax.jit
    def shift(known):
      content = self.stage._content(self.video[:, 0])
      denoise_fn = self.stage._denoise_fn(self.params, {}, content)
      guided = self.stage._meeting(denoise_fn, content, self.video, known)
      return guided(z_t, logsnr).x - denoise_fn(z_t, logsnr).x

    one, other, both = (
      np.asarray(shift(jnp.array([True, *later])))
      for later in ([True, False], [False, True], [True, True])
    )
    for alone in (one, other):
      self.assertGreater(np.abs(alone).max(), 1e-3)
    np.testing.assert_allclose(both, 0.5 * (one + other), atol=1e-4)

  def test_it_does_not_upsample(self):
    for is_known, low in (
      (None, self.video[:, :, ::2, ::2]),
      (jnp.array([True] * 3), self.video[:, :, ::2, ::2]),
      (None, None),
    ):
      with self.assertRaisesRegex(UserError, "LaMD .* does not upsample; .*extend"):
        self.stage.sample_window(self.params, {}, KEY, self.video, is_known, low)


class ConfigurationTest(parameterized.TestCase):
  def test_a_configuration_without_the_newer_keys_is_the_papers_sampler(self):
    sampling = generator()[0].sampling
    self.assertEqual((sampling.sampler, sampling.guidance), ("ddim", 1.0))
    self.assertEqual((sampling.num_steps, sampling.overlap), (3, 1))

  def test_the_protocol_says_how_it_samples(self):
    self.assertEqual(generator()[0].protocol()["sampler"], "DDIM, eta 0")
    given = {"label": jnp.zeros(2, jnp.int32)}
    stage, _ = conditional(CLASS, BATCH | given, guidance=2.5, sampler="heun")
    self.assertEqual(
      stage.protocol(),
      {
        "given_frames": "1, as the model decodes it, measured too",
        "sampler": "Heun",
        "sampling_steps": 3,
        "guidance": "classifier-free 2.5",
      },
    )

  @parameterized.parameters(
    (dict(sampler="dimm"), None, "sample.sampler='dimm'; known: ddim, ddpm"),
    (dict(sampler="ddpm", eta=1.0), None, "eta=1.0 is of the sampler 'ddim', not"),
    (dict(eta=1.5), None, "sample.eta=1.5: expected a number from 0 to 1"),
    (dict(guidance=2.0), None, "guidance=2.0 guides .* none .condition.kind."),
    (dict(overlap=0), None, "sample.overlap=0: expected a whole number from 1"),
    (dict(overlap=3), None, "sample.overlap=3: expected 1 to 2 of 3 frames"),
    (
      dict(frames_weight=-1.0),
      None,
      "frames_weight=-1.0: expected a .*number from 0 to",
    ),
    (dict(gidance=2.0), None, "sample.gidance means nothing .* mean sample.guidance"),
    ({}, dict(kind="text"), "condition.kind='text'; known: none, class, caption"),
    ({}, dict(kind="class"), "kind='class' needs condition.num_classes"),
    ({}, dict(kind="words", vocabulary="shapes"), "needs condition.num_words"),
    (
      {},
      CLASS | dict(dropout=2.0),
      "condition.dropout=2.0: expected a number from 0 to 1",
    ),
  )
  def test_what_cannot_be_is_said(self, sample, condition, message):
    config = configured(condition)
    config.sample = dict(CONFIG.sample) | sample
    with self.assertRaisesRegex(UserError, message):
      table.make_stage(config, "dmg", {"mcd_vae": Part(None)})

  def test_a_pool_that_does_not_divide_the_latent_is_named(self):
    config = configured()
    config.dmg.model.context_pool = 3
    with self.assertRaisesRegex(UserError, "context_pool=3: .* divisor of 4"):
      table.make_stage(config, "dmg", {"mcd_vae": Part(None)})


if __name__ == "__main__":
  absltest.main()
