"""LaMD's autoencoder as a stage: its losses recomputed."""

import functools

from absl.testing import absltest
import jax
import numpy as np
import pytest
import tiny_config
from tiny_lamd import BATCH, KEY, VIDEO, autoencoder, vae

from lamd_jax.systems import autoencoder as autoencoder_lib
from lamd_jax.systems import stage as stage_lib
from lamd_jax.systems import table
from lamd_jax.systems.pixels import from_uint8
from lamd_jax.types import UserError


class MCDVAEStageTest(absltest.TestCase):
  def test_the_loss_is_l1_plus_weighted_kl_per_value_of_the_latent(self):
    stage, params = autoencoder()
    stage = stage.replace(losses=autoencoder_lib.Losses(kl_weight=0.7))
    loss, metrics = jax.jit(functools.partial(stage.loss, train=True))(
      params, BATCH, KEY
    )
    decoded, posterior = vae("__call__")(from_uint8(BATCH["video"]), KEY)
    mean, logvar = (np.asarray(x, np.float64) for x in posterior)
    l1 = np.abs(np.asarray(decoded, np.float64) - (VIDEO / 127.5 - 1.0)).mean()
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1.0 - logvar)  # b h w d
    np.testing.assert_allclose(loss, l1 + 0.7 * kl.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["l1"], l1, rtol=1e-4)
    np.testing.assert_allclose(metrics["kl_per_latent_value"], kl.mean(), rtol=1e-4)

  def test_a_sample_decodes_the_mean_of_the_posterior(self):
    stage, params = autoencoder()
    video = from_uint8(BATCH["video"])
    content = vae("encode_content")(video[:, 0])
    expected = vae("decode")(vae("encode_motion")(video).mean, content)
    sample = jax.jit(stage.sample)(params, BATCH, KEY)
    np.testing.assert_allclose(sample, expected, atol=1e-3)


class AdversaryTest(absltest.TestCase):
  def stage(self, **adversary):
    config = tiny_config.get_config()
    config.mcd_vae.adversary = dict(
      start=2, weight=0.5, model=dict(channels=(4, 4), frame_strides=(2,))
    )
    config.mcd_vae.adversary.update(adversary)
    return table.make_stage(config, "mcd_vae", {})

  def test_a_weight_of_0_is_no_adversary(self):
    self.assertIsInstance(self.stage(), stage_lib.AdversarialStage)
    self.assertNotIsInstance(self.stage(weight=0.0), stage_lib.AdversarialStage)

  def test_strides_must_fit_the_layers(self):
    with self.assertRaisesRegex(UserError, "frame_strides has 2 numbers; expected 1"):
      self.stage(model=dict(channels=(4, 4), frame_strides=(2, 2)))

  @pytest.mark.slow
  def test_before_the_start_its_gradient_is_that_of_the_loss(self):
    stage, params = self.stage(), autoencoder()[1]
    critic = stage.init_critic(KEY, BATCH)

    @jax.jit
    def both(step):
      own = stage.gradients(params, critic, BATCH, KEY, step)
      loss_fn = functools.partial(stage.loss, train=True)
      return own, jax.value_and_grad(loss_fn, has_aux=True)(params, BATCH, KEY)

    (loss, _, grads, decoded), ((expected_loss, _), expected) = both(1)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    expected = vae("__call__")(from_uint8(BATCH["video"]), KEY)[0]
    np.testing.assert_allclose(decoded, expected, atol=1e-4)
    # From the start on, it is another.
    (_, metrics, changed, _), _ = both(2)
    self.assertGreater(metrics["lambda"], 0.0)
    by = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), grads, changed)
    self.assertGreater(max(jax.tree.leaves(by)), 1e-3)

  def test_the_discriminator_learns_to_tell_clips_from_reconstructions(self):
    stage, params = self.stage(), autoencoder()[1]
    critic = stage.init_critic(KEY, BATCH)
    decoded = jax.jit(stage.sample)(params, BATCH, KEY)
    step = jax.jit(jax.value_and_grad(stage.critic_loss, has_aux=True))
    (before, _), _ = step(critic, BATCH, decoded)
    for _ in range(30):
      (after, metrics), grads = step(critic, BATCH, decoded)
      critic = jax.tree.map(lambda p, g: p - 0.05 * g, critic, grads)
    self.assertLess(after, 0.5 * before)
    self.assertGreater(metrics["logits_real"], metrics["logits_fake"])


if __name__ == "__main__":
  absltest.main()
