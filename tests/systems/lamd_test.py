"""LaMD's generator: its loss recomputed, and what it may look at."""

import functools
from typing import ClassVar

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from tiny_lamd import BATCH, KEY, VIDEO, generator, vae

from lamd_jax.diffusion import schedules
from lamd_jax.models.dmg import DMG
from lamd_jax.models.mcd_vae import normalize
from lamd_jax.systems.pixels import from_uint8


@functools.cache
def compiled_sample():
  stage, _ = generator()
  return jax.jit(stage.sample)


@functools.cache
def compiled_gradients():
  """Loss of stage 2, and its gradients for the stage and for the parameters."""
  loss = lambda stage, params, batch: stage.loss(params, batch, KEY, train=True)[0]
  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def changed(*, frames):
  """The batch with other values in some frames of both clips."""
  video = VIDEO.copy()
  video[:, frames] = 255 - video[:, frames]
  return {"video": jnp.asarray(video)}


class Says0(DMG):
  """Predicts 0, and remembers what it was asked."""

  asked: ClassVar = []

  def __call__(self, z_t, timestep, content, *, train=False):
    self.asked.append((z_t, timestep, content))
    return jnp.zeros_like(z_t)


class Knows(DMG):
  """Predicts its parameter."""

  def __call__(self, z_t, timestep, content, *, train=False):
    return self.get_variable("params", "z")


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

  def test_a_known_latent_is_normalized_and_decoded(self):
    stage, _ = generator()
    schedule = schedules.make_schedule("cosine")
    stage = stage.replace(model=Knows(), parameterization="x", schedule=schedule)
    z = jnp.asarray(
      np.random.default_rng(3).normal(2.0, 5.0, (2, 4, 4, 3)), jnp.float32
    )
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


if __name__ == "__main__":
  absltest.main()
