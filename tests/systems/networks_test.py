"""Settings of how networks compute: one of the known names, or an error."""

from absl.testing import absltest
import jax.numpy as jnp
import ml_collections

from lamd_jax.systems.networks import compute_dtype, of_computation
from lamd_jax.types import UserError


class NetworksTest(absltest.TestCase):
  def test_an_unknown_dtype_lists_the_known_ones(self):
    with self.assertRaisesRegex(UserError, "'float16'; known: float32, bfloat16"):
      compute_dtype("float16")
    self.assertEqual(compute_dtype("bfloat16"), jnp.bfloat16)

  def test_an_unknown_remat_lists_the_known_ones(self):
    config = {"compute_dtype": "float32", "run": {"remat": "blocks"}}
    config = ml_collections.ConfigDict(config)
    message = "run.remat='blocks'; known: none, elementwise, block"
    with self.assertRaisesRegex(UserError, message):
      of_computation(config)
    config.run.remat = "block"
    self.assertEqual(of_computation(config), {"dtype": jnp.float32, "remat": "block"})


if __name__ == "__main__":
  absltest.main()
