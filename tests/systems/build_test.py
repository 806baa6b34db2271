"""Building from a configuration: what it says is what is built, or an error."""

from absl.testing import absltest
import jax.numpy as jnp
import ml_collections

from lamd_jax.models.dmg import DMG
from lamd_jax.models.mcd_vae import MCDVAE
from lamd_jax.systems.build import build, compute_dtype
from lamd_jax.types import UserError


class BuildTest(absltest.TestCase):
  def test_keys_become_fields_and_lists_tuples(self):
    values = {"kernels": [[1, 3, 3], [3, 1, 1]], "content_channels": 3}
    values = ml_collections.ConfigDict(values)
    model = build(MCDVAE, values, "mcd_vae.model", num_frames=4, dtype=jnp.float32)
    self.assertEqual(model.kernels, ((1, 3, 3), (3, 1, 1)))
    self.assertEqual((model.content_channels, model.dtype), (3, jnp.float32))
    hash(model)  # As a static argument of a compiled function.

  def test_an_unknown_key_names_the_nearest(self):
    message = "dmg.model.chanel_mults means nothing .* dmg.model.channel_mults"
    with self.assertRaisesRegex(UserError, message):
      build(DMG, {"chanel_mults": (1,)}, "dmg.model")

  def test_a_key_like_no_other_lists_the_known_ones(self):
    with self.assertRaisesRegex(UserError, "known: model_channels, .*dropout_rate"):
      build(DMG, {"zzz": 1}, "dmg.model")

  def test_what_the_system_sets_is_no_key(self):
    for key in ("dtype", "parent", "name"):
      with self.assertRaisesRegex(UserError, f"dmg.model.{key} means nothing"):
        build(DMG, {key: None}, "dmg.model", dtype=None)

  def test_an_unknown_dtype_lists_the_known_ones(self):
    config = ml_collections.ConfigDict({"compute_dtype": "float16"})
    with self.assertRaisesRegex(UserError, "'float16'; known: float32, bfloat16"):
      compute_dtype(config)
    config.compute_dtype = "bfloat16"
    self.assertEqual(compute_dtype(config), jnp.bfloat16)


if __name__ == "__main__":
  absltest.main()
