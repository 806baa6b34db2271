"""VDM: joint training with conditions, and what samples may and may not depend on.

In place of the U-Net, which takes long to compile and has tests of its own, there is
a network with the same arguments that mixes the frames of a video and nothing else.
"""

import dataclasses
import functools
import itertools
from unittest import mock

from absl.testing import absltest, parameterized
import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from lamd_jax.diffusion import losses, process
from lamd_jax.models import unet3d
from lamd_jax.systems import pixels, stage, table
from lamd_jax.systems.vdm import base as base_lib
from lamd_jax.types import UserError

B, F, S, N, CLASSES = 2, 4, 4, 3, 5
SAMPLE = dict(
  num_steps=3,
  gamma=0.2,
  langevin_delta=0.1,
  guidance=1.0,
  given_frames=0,
  overlap=2,
  method="reconstruction",
  frames_weight=9.0,
  size_weight=4.0,
  batch_size=B,
)


class Mixer(unet3d.UNet3D):
  """Frames of a video see each other, pixels of a frame too, images themselves."""

  @nn.compact
  def __call__(self, x, logsnr, cond=None, *, num_images=0, train=False):
    b, f, h, w, c = x.shape
    mask = jnp.asarray(unet3d.joint_mask(f - num_images, num_images), jnp.float32)
    flat = x.reshape(b, f, h * w * c)
    mixed = jnp.einsum("fg,bgd->bfd", mask / mask.sum(axis=1, keepdims=True), flat)
    out = nn.Dense(h * w * c)(jnp.concatenate([flat, mixed], axis=-1))
    out += nn.Dense(h * w * c)(nn.tanh(logsnr)[:, None])[:, None]
    if cond is not None:
      cond = cond if cond.ndim == 3 else cond[:, None]
      out += nn.Dense(h * w * c, use_bias=False)(cond)
    elif self.is_initializing():
      nn.Dense(h * w * c, use_bias=False)(jnp.zeros((b, 1, self.embedding_channels)))
    return nn.tanh(out).reshape(x.shape)


def make(kind="class", **kwargs):
  made = make_real(kind, **kwargs)
  small = Mixer(embedding_channels=made.model.embedding_channels, max_frames=F)
  return dataclasses.replace(made, model=small)


def make_real(kind="class", **kwargs):
  config = ml_collections.ConfigDict()
  config.system = "vdm"
  config.stages = ("base",)
  config.compute_dtype = "float32"
  config.run = dict(remat="none")
  config.data = dict(num_frames=F, resolution=S)
  config.condition = dict(kind=kind, dropout=0.3, num_classes=CLASSES)
  config.condition.update(num_tokens=5, text_channels=8)
  config.base = dict(
    model=dict(
      model_channels=4,
      channel_mults=(1,),
      num_res_blocks=1,
      attention_factors=(1,),
      head_channels=4,
      embedding_channels=6,
      num_embedding_layers=2,
      max_frames=F,
    ),
    diffusion=dict(schedule="cosine", parameterization="v"),
  )
  config.sample = SAMPLE | kwargs
  return table.make_stage(config, "base", {})


def batch(seed=0, kind="class"):
  rng = np.random.default_rng(seed)
  found = {
    "video": rng.integers(0, 256, (B, F, S, S, 3), np.uint8),
    "images": rng.integers(0, 256, (B, N, S, S, 3), np.uint8),
  }
  if kind == "class":
    found |= {
      "label": rng.integers(0, CLASSES, B).astype(np.int32),
      "image_label": rng.integers(0, CLASSES, (B, N)).astype(np.int32),
    }
  elif kind == "caption":
    found |= {
      "text": rng.normal(size=(B, 7, 64)).astype(np.float16),
      "text_mask": np.arange(7) < np.array([[3], [7]]),
      "image_text": rng.normal(size=(B, N, 7, 64)).astype(np.float16),
      "image_text_mask": np.ones((B, N, 7), bool),
    }
  return jax.tree.map(jnp.asarray, found)


@functools.cache
def random_params(kind="class"):
  """Zero-initialized parts are filled."""
  made = make(kind)
  params = jax.jit(made.init)(jax.random.key(0), batch(kind=kind))
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  fill = lambda key, x: x + 0.3 * jax.random.normal(key, x.shape)
  return jax.tree.unflatten(
    tree, [fill(k, x) for k, x in zip(keys, leaves, strict=True)]
  )


def network_of_loss(made, params, given, key):
  """The function that the loss calls as its network, and the x that it trains on."""
  seen = {}

  def noting(model_fn, x, loss_key, **kwargs):
    seen.update(model_fn=model_fn, x=x, **kwargs)
    return jnp.zeros(()), {}

  with mock.patch.object(losses, "denoising_loss", noting):
    made.loss(params, given, key, train=False)
  return seen


class LossTest(parameterized.TestCase):
  def test_images_are_trained_as_further_frames(self):
    made, given = make_real(), batch()
    key = jax.random.key(3)
    # A fresh network predicts 0, so the loss is the mean square of what it should.
    params = jax.jit(made.init)(jax.random.key(0), given)
    run = jax.jit(functools.partial(made.loss, train=True))
    found, metrics = run(params, given, key)
    loss_key, *_ = jax.random.split(key, 3)
    x = jnp.concatenate(
      [pixels.from_uint8(given["video"]), pixels.from_uint8(given["images"])], axis=1
    )
    expected, _ = losses.denoising_loss(
      lambda x_t, logsnr: jnp.zeros_like(x_t),
      x,
      loss_key,
      schedule=made.schedule,
      parameterization="v",
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    self.assertEqual(set(metrics), {"loss_low_noise", "loss_high_noise"})

  @parameterized.parameters("class", "caption")
  def test_each_frame_has_the_condition_of_its_own(self, kind):
    made = dataclasses.replace(make(kind), cond_dropout=0.0)
    params, given, key = random_params(kind), batch(kind=kind), jax.random.key(0)

    def output(given):
      seen = network_of_loss(made, params, given, key)
      return np.asarray(seen["model_fn"](seen["x"], jnp.zeros(B)))

    before = output(given)
    self.assertEqual(before.shape, (B, F + N, S, S, 3))
    name = {"class": "label", "caption": "text"}[kind]
    change = lambda x: (x + 1) % CLASSES if kind == "class" else -x
    moved = output(given | {name: given[name].at[0].set(change(given[name][0]))})
    differs = np.abs(moved - before).max(axis=(2, 3, 4)) > 1e-4
    self.assertEqual(differs.tolist(), [[True] * F + [False] * N, [False] * (F + N)])
    name = f"image_{name}"
    moved = output(given | {name: given[name].at[1, 2].set(change(given[name][1, 2]))})
    differs = np.abs(moved - before).max(axis=(2, 3, 4)) > 1e-4
    expected = np.zeros((B, F + N), bool)
    expected[1, F + 2] = True
    np.testing.assert_array_equal(differs, expected)

  def test_dropped_conditions_are_as_if_there_were_none(self):
    made = dataclasses.replace(make(), cond_dropout=1.0)
    given = batch()
    bare = {"video": given["video"], "images": given["images"]}
    run = jax.jit(functools.partial(made.loss, train=True))
    found = run(random_params(), given, jax.random.key(0))
    expected = run(random_params(), bare, jax.random.key(0))
    chex.assert_trees_all_close(found, expected, rtol=1e-6)

  def test_the_share_of_dropped_conditions(self):
    made = make()
    draws = made._draw_null(jax.random.key(0), 500, 7)
    np.testing.assert_allclose(draws.mean(axis=0), 0.3, atol=0.07)

  def test_without_images_it_is_a_video_model(self):
    made, given = make("none"), batch(kind="none")
    seen = network_of_loss(
      made, random_params("none"), {"video": given["video"]}, jax.random.key(0)
    )
    self.assertEqual(seen["x"].shape, (B, F, S, S, 3))


class SampleTest(parameterized.TestCase):
  def sample(self, given=None, kind="class", key=0, **kwargs):
    made = make(kind, **kwargs)
    given = batch(kind=kind) if given is None else given
    run = jax.jit(made.sample)
    return np.asarray(run(random_params(kind), given, jax.random.key(key)))

  def test_videos_alone_depend_on_key_and_condition_only(self):
    given = batch()
    found = self.sample(given)
    self.assertEqual(found.shape, (B, F, S, S, 3))
    self.assertLessEqual(np.abs(found).max(), 1.0)
    other = given | {"video": 255 - given["video"]}
    np.testing.assert_array_equal(self.sample(other), found)
    self.assertGreater(np.abs(self.sample(given, key=1) - found).max(), 0.1)
    other = given | {
      "label": given["label"].at[0].set((given["label"][0] + 1) % CLASSES)
    }
    moved = np.abs(self.sample(other) - found).max(axis=(1, 2, 3, 4))
    self.assertGreater(moved[0], 1e-3)
    self.assertEqual(moved[1], 0.0)

  def test_given_frames_are_kept_and_tell_the_others(self):
    given = batch(kind="none")
    found = self.sample(given, "none", given_frames=2)
    clean = np.asarray(pixels.from_uint8(given["video"]))
    np.testing.assert_allclose(found[:, :2], clean[:, :2], atol=1e-5)
    later = given | {"video": given["video"].at[:, 2:].set(0)}
    np.testing.assert_array_equal(self.sample(later, "none", given_frames=2), found)
    first = given | {"video": given["video"].at[:, 0].set(0)}
    moved = self.sample(first, "none", given_frames=2)
    self.assertGreater(np.abs(moved - found)[:, 2:].max(), 1e-3)

  def test_the_two_methods_differ_where_something_is_known_only(self):
    given = batch(kind="none")
    both = [
      self.sample(given, "none", method=x) for x in ("reconstruction", "replacement")
    ]
    np.testing.assert_array_equal(*both)
    both = [
      self.sample(given, "none", method=x, given_frames=1)
      for x in ("reconstruction", "replacement")
    ]
    self.assertGreater(np.abs(both[0] - both[1])[:, 1:].max(), 1e-3)

  def test_no_weight_is_replacement(self):
    given = batch(kind="none")
    guided = self.sample(given, "none", given_frames=1, frames_weight=0.0)
    replaced = self.sample(given, "none", given_frames=1, method="replacement")
    np.testing.assert_allclose(guided, replaced, atol=1e-5)

  def test_guidance_of_one_leaves_out_the_null_condition(self):
    made, given = make(guidance=1.0), batch()
    calls = []
    original = base_lib.VDMStage._denoise_fn

    def noting(self, params, cond):
      calls.append(cond is None)
      return original(self, params, cond)

    with mock.patch.object(base_lib.VDMStage, "_denoise_fn", noting):
      jax.eval_shape(made.sample, random_params(), given, jax.random.key(0))
    plain, guided = self.sample(given), self.sample(given, guidance=3.0)
    self.assertGreater(np.abs(plain - guided).max(), 1e-3)
    self.assertIn(False, calls)

  def test_a_low_resolution_of_some_frames(self):
    made, params = make("none"), random_params("none")
    rng = np.random.default_rng(0)
    low = rng.uniform(-1, 1, (B, F, S // 2, S // 2, 3)).astype(np.float32)
    has_low = np.array([True, False, False, True])
    video = np.zeros((B, F, S, S, 3), np.float32)
    run = jax.jit(made.sample_window)
    key = jax.random.key(0)
    found = np.asarray(run(params, {}, key, video, None, low, has_low))
    other = low.copy()
    other[:, 1:3] = 0.5
    np.testing.assert_array_equal(
      np.asarray(run(params, {}, key, video, None, other, has_low)), found
    )
    other = low.copy()
    other[:, 3] *= -1
    moved = np.asarray(run(params, {}, key, video, None, other, has_low))
    self.assertGreater(np.abs(moved - found)[:, 3].max(), 1e-2)

  def test_a_perfect_model_gives_the_low_resolution_it_was_shown(self):
    # Pixels of an independent normal distribution: the denoiser is known, and at w_r
    # = factor^2 the last step sets the mean of each square to what it should be.
    made = make("none", num_steps=64, langevin_delta=0.0, gamma=0.0)

    def exact(self, params, cond):
      def denoise_fn(x_t, logsnr):
        alpha, sigma = process.alpha_sigma(logsnr, x_t.ndim)
        gain = alpha * 0.09 / (alpha**2 * 0.09 + sigma**2)
        return process.convert(gain * x_t, x_t, logsnr, "x")

      return denoise_fn

    rng = np.random.default_rng(0)
    low = rng.uniform(-0.3, 0.3, (B, F, S // 2, S // 2, 3)).astype(np.float32)
    with mock.patch.object(base_lib.VDMStage, "_denoise_fn", exact):
      video = jnp.zeros((B, F, S, S, 3))
      found = made.sample_window(
        {}, {}, jax.random.key(0), video, None, jnp.asarray(low)
      )
    squares = found.reshape(B, F, S // 2, 2, S // 2, 2, 3).mean(axis=(3, 5))
    np.testing.assert_allclose(squares, low, atol=0.02)
    self.assertGreater(float(jnp.std(found)), 0.2)

  @parameterized.parameters((0.0, 0.0), (0.7, 0.0), (0.0, 0.1), (0.4, 0.25))
  def test_a_sample_is_the_chain_of_the_paper(self, gamma, delta):
    # The network predicts a tenth of what it sees as clean data, so the chain of Ho et
    # al. 2022, section 2, is a recursion in numbers; in float64, with the same noise.
    made = make("none", num_steps=3, gamma=gamma, langevin_delta=delta)
    tenth = lambda self, params, cond: (
      lambda x_t, logsnr: process.convert(0.1 * x_t, x_t, logsnr, "x")
    )
    key = jax.random.key(5)
    video = jnp.zeros((B, F, S, S, 3))
    with mock.patch.object(base_lib.VDMStage, "_denoise_fn", tenth):
      found = made.sample_window({}, {}, key, video)

    draw = lambda key: np.asarray(jax.random.normal(key, video.shape), np.float64)
    clipped = lambda x_t: np.clip(0.1 * x_t, -1.0, 1.0)
    init_key, steps_key, _ = jax.random.split(key, 3)
    levels = np.asarray(made.schedule.sampling_grid(3), np.float64)
    squares = 1.0 / (1.0 + np.exp(-levels))  # alpha^2
    squares[-1] = 1.0
    x_t = draw(init_key)
    for i, (t, s) in enumerate(itertools.pairwise(squares)):
      step_key = jax.random.fold_in(steps_key, i)
      if delta:
        noise_key, step_key = jax.random.split(step_key)
        eps = (x_t - np.sqrt(t) * clipped(x_t)) / np.sqrt(1 - t)
        noise = draw(noise_key)
        x_t = x_t + np.sqrt(1 - t) * (np.sqrt(delta) * noise - 0.5 * delta * eps)
      beta = 1 - t / s  # Ho et al. 2020, equations 6 and 7.
      mean = np.sqrt(s) * beta / (1 - t) * clipped(x_t)
      mean = mean + np.sqrt(1 - beta) * (1 - s) / (1 - t) * x_t
      # Between the variance of the posterior and beta, in logarithms.
      low, high = beta * (1 - s) / (1 - t), beta
      std = np.sqrt(low ** (1 - gamma) * high**gamma) if s < 1 else 0.0
      x_t = mean + std * draw(step_key)
    np.testing.assert_allclose(found, x_t, atol=2e-3)


class ConfigTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(given_frames=4), "given_frames=4 of 4: expected 0 to 3"),
    (dict(gamma=1.5), "gamma=1.5: expected a number from 0 to 1"),
    (dict(overlap=0), "overlap=0: expected a whole number from 1"),
    (dict(size_weight=-1.0), "size_weight=-1.0: expected a .*number from 0 to"),
    (dict(num_step=5), "num_step means nothing .*did you mean sample.num_steps"),
  )
  def test_impossible_values(self, values, message):
    with self.assertRaisesRegex(UserError, message):
      make(**values)

  def test_an_unknown_condition(self):
    with self.assertRaisesRegex(UserError, "'clas'; known: none, class, caption"):
      make("clas")

  def test_it_is_a_stage_of_windows_and_says_how_it_samples(self):
    made = make(given_frames=1)
    self.assertIsInstance(made, stage.WindowStage)
    self.assertEqual((made.given_frames, made.overlap), (1, 2))
    said = made.protocol()
    self.assertEqual(said["sampler"], "ancestral, gamma 0.2, Langevin delta 0.1")
    self.assertEqual(said["sampling_steps"], 3)
    self.assertIn("reconstruction 9", said["guidance"])


if __name__ == "__main__":
  absltest.main()
