"""LaMD's autoencoder as a stage: its losses recomputed."""

import functools

from absl.testing import absltest
import jax
import numpy as np
from tiny_lamd import BATCH, KEY, VIDEO, autoencoder, vae

from lamd_jax.systems import autoencoder as autoencoder_lib
from lamd_jax.systems.pixels import from_uint8


class MCDVAEStageTest(absltest.TestCase):
  def test_the_loss_is_l1_plus_weighted_kl_per_pixel_value(self):
    stage, params = autoencoder()
    stage = stage.replace(losses=autoencoder_lib.Losses(kl_weight=0.7))
    loss, metrics = jax.jit(functools.partial(stage.loss, train=True))(
      params, BATCH, KEY
    )
    decoded, posterior = vae("__call__")(from_uint8(BATCH["video"]), KEY)
    mean, logvar = (np.asarray(x, np.float64) for x in posterior)
    l1 = np.abs(np.asarray(decoded, np.float64) - (VIDEO / 127.5 - 1.0)).mean()
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1.0 - logvar)  # b h w d
    per_pixel = kl.sum() / 2 / (3 * 8 * 8 * 3)  # Two clips of L H W 3 values.
    np.testing.assert_allclose(loss, l1 + 0.7 * per_pixel, rtol=1e-4)
    np.testing.assert_allclose(metrics["l1"], l1, rtol=1e-4)
    np.testing.assert_allclose(metrics["kl_per_latent_value"], kl.mean(), rtol=1e-4)

  def test_a_sample_decodes_the_mean_of_the_posterior(self):
    stage, params = autoencoder()
    video = from_uint8(BATCH["video"])
    content = vae("encode_content")(video[:, 0])
    expected = vae("decode")(vae("encode_motion")(video).mean, content)
    sample = jax.jit(stage.sample)(params, BATCH, KEY)
    np.testing.assert_allclose(sample, expected, atol=1e-3)


if __name__ == "__main__":
  absltest.main()
