"""The table of systems: every name in it is a stage, every other name an error."""

from absl.testing import absltest, parameterized
import jax
import tiny_config
import tiny_vdm

from lamd_jax.systems import stage as stage_lib
from lamd_jax.systems import table
from lamd_jax.types import UserError


class StageTest(parameterized.TestCase):
  @parameterized.parameters("mcd_vae", "dmg")
  def test_what_is_made_is_a_stage_and_a_tree_of_frozen_parameters(self, name):
    parts = {"mcd_vae": stage_lib.Part({"kernel": jax.numpy.ones(3)})}
    stage = table.make_stage(tiny_config.get_config(), name, parts)
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
    ("sample.eta", 1.5, "sample.eta=1.5: expected a number from 0 to 1"),
    ("compute_dtype", "half", "'half'; known: float32, bfloat16"),
    ("run.remat", "blocks", "remat='blocks'; known: none, elementwise, block"),
  )
  def test_an_impossible_value_is_named_with_what_is_possible(self, key, value, text):
    config = tiny_config.get_config()
    config.update_from_flattened_dict({key: value})
    with self.assertRaisesRegex(UserError, text):
      table.make_stage(config, "dmg", {"mcd_vae": stage_lib.Part({})})

  @parameterized.parameters(
    (("vae",), "config.stages has 'vae'; lamd has mcd_vae, dmg"),
    (("dmg",), "'dmg' without 'mcd_vae' before it"),
    (("dmg", "mcd_vae"), "'dmg' without 'mcd_vae' before it"),
    ((), "config.stages is empty; name the stages to train"),
  )
  def test_stages_that_cannot_be_trained_in_that_order_are_named(self, stages, text):
    config = tiny_config.get_config()
    config.stages = stages
    for make in (
      table.find_system,
      lambda config: table.make_stage(config, "dmg", {"mcd_vae": stage_lib.Part({})}),
      lambda config: table.bare_stage(config, "dmg"),
    ):
      with self.assertRaisesRegex(UserError, text):
        make(config)

  def test_every_stage_is_made_of_the_parts_that_it_says_it_needs(self):
    for name, system in table.SYSTEMS.items():
      self.assertEqual(system.name, name)
      config = {"lamd": tiny_config, "vdm": tiny_vdm}[name].get_config()
      self.assertEqual(tuple(config.stages), tuple(system.stages))
      for number, (stage, spec) in enumerate(system.stages.items()):
        self.assertLess({*spec.needs}, {*list(system.stages)[: number + 1]})
        parts = {need: stage_lib.Part(need) for need in spec.needs}
        # Each part is found among the leaves, and nothing else is.
        self.assertEqual(
          jax.tree.leaves(table.make_stage(config, stage, parts)), [*spec.needs]
        )
        table.bare_stage(config, stage).protocol()

  def test_what_a_stage_gives_follows_from_what_it_is_given(self):
    for name, module in (("lamd", tiny_config), ("vdm", tiny_vdm)):
      config = module.get_config()
      for stage, spec in table.SYSTEMS[name].stages.items():
        sees_all = (
          table.bare_stage(config, stage).given_frames == config.data.num_frames
        )
        self.assertEqual(spec.output, "reconstruction" if sees_all else "sample")

  def test_a_network_of_the_loss_is_a_part_without_being_needed(self):
    config = tiny_config.get_config()
    parts = {"perceptual": stage_lib.Part({"kernel": 3})}
    stage = table.make_stage(config, "mcd_vae", parts)
    self.assertEqual(stage.perceptual_params, {"kernel": 3})


if __name__ == "__main__":
  absltest.main()
