"""The table of systems: every name in it is a stage, every other name an error."""

from absl.testing import absltest, parameterized
import jax
import tiny_config

from lamd_jax.systems import stage as stage_lib
from lamd_jax.systems import table
from lamd_jax.types import UserError


class StageTest(parameterized.TestCase):
  @parameterized.parameters("mcd_vae", "dmg")
  def test_what_is_made_is_a_stage_and_a_tree_of_earlier_parameters(self, name):
    params = {"mcd_vae": {"kernel": jax.numpy.ones(3)}}
    stage = table.make_stage(tiny_config.get_config(), name, params)
    self.assertIsInstance(stage, stage_lib.Stage)
    self.assertLen(jax.tree.leaves(stage), int(name == "dmg"))

  @parameterized.parameters(
    ("system", "ladm", "'ladm'; known: lamd"),
    ("mcd_vae.model.motion_chanels", 3, "did you mean mcd_vae.model.motion_channels"),
    ("dmg.model.head_chanels", 3, "did you mean dmg.model.head_channels"),
    ("dmg.diffusion.schedule", "cosin", "'cosin'; known: cosine, cosine_beta, linear"),
    ("dmg.diffusion.parameterization", "e", "'e'; known: x, eps, v"),
    ("dmg.model.context_channels", 6, "does not divide by 4; nearest: 8"),
    ("dmg.model.channel_mults", (1, 1, 1, 2), "=8 does not divide by 16.* nearest: 16"),
    ("data.resolution", 11, "resolution=11 does not divide .* 2 .* nearest: 1[02]"),
    ("data.num_frames", 1, "num_frames=1: a video needs at least 2"),
    ("sample.num_steps", 1001, "num_steps=1001: .* 1 to 1000 steps"),
    ("sample.eta", 1.5, "sample.eta=1.5: expected 0 to 1"),
    ("compute_dtype", "half", "'half'; known: float32, bfloat16"),
    ("run.remat", "blocks", "remat='blocks'; known: none, elementwise, block"),
  )
  def test_an_impossible_value_is_named_with_what_is_possible(self, key, value, text):
    config = tiny_config.get_config()
    config.update_from_flattened_dict({key: value})
    with self.assertRaisesRegex(UserError, text):
      table.make_stage(config, "dmg", {"mcd_vae": {}})

  def test_an_unknown_stage_lists_those_of_the_system(self):
    with self.assertRaisesRegex(UserError, "'vae'; lamd has mcd_vae, dmg"):
      table.make_stage(tiny_config.get_config(), "vae", {})

  def test_the_generator_needs_the_autoencoder_before_it(self):
    with self.assertRaisesRegex(UserError, "'dmg' without 'mcd_vae' before it"):
      table.make_stage(tiny_config.get_config(), "dmg", {})


if __name__ == "__main__":
  absltest.main()
