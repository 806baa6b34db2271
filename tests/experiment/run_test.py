"""A run: keys, clips and folders of its stages."""

import dataclasses
import pathlib
import tempfile

from absl.testing import absltest, parameterized
import jax
import numpy as np
import tiny_config
from tiny_run import tiny_run
import tiny_vdm

from lamd_jax.data import sources
from lamd_jax.experiment import batches, trained
from lamd_jax.experiment.run import make_run
from lamd_jax.systems.table import StageSpec, System
from lamd_jax.types import UserError


def bits(key):
  return jax.random.key_data(key).tolist()


def system(*names, outputs=()):
  """A system of stages that nobody makes."""
  none = lambda config, parts: None
  outputs = outputs or (None,) * len(names)
  stages = {
    name: StageSpec(none, output=output)
    for name, output in zip(names, outputs, strict=True)
  }
  return System("fake", stages, none)


class RunTest(parameterized.TestCase):
  def test_a_key_is_the_seed_and_the_place_of_the_stage_in_its_system(self):
    run = tiny_run()
    root = jax.random.key(3)  # The seed of the configuration.
    self.assertEqual(bits(run.key("mcd_vae")), bits(jax.random.fold_in(root, 0)))
    self.assertEqual(bits(run.key("dmg")), bits(jax.random.fold_in(root, 1)))

  def test_which_stages_are_trained_changes_no_key(self):
    run = dataclasses.replace(tiny_run(), system=system("a", "b", "c"), stages=("c",))
    expected = jax.random.fold_in(jax.random.key(3), 2)
    self.assertEqual(bits(run.key("c")), bits(expected))
    # Nor does where the run is kept.
    there = dataclasses.replace(run, folder=pathlib.Path("elsewhere"))
    self.assertEqual(bits(there.key("c")), bits(expected))

  def test_the_last_stage_that_makes_a_kind_of_video_is_found(self):
    run = tiny_run()
    self.assertEqual(run.with_output("reconstruction"), "mcd_vae")
    self.assertEqual(run.with_output("sample"), "dmg")
    self.assertIsNone(tiny_run(tiny_vdm.get_config()).with_output("reconstruction"))
    outputs = ("sample", "sample", None, "reconstruction", "sample")
    several = system(*"abcde", outputs=outputs)
    run = dataclasses.replace(run, system=several, stages=("a", "b", "c", "d"))
    self.assertEqual(run.with_output("sample"), "b")  # "e" is not trained here.
    self.assertEqual(run.with_output("reconstruction"), "d")

  def test_each_stage_has_a_folder_of_its_own(self):
    run = tiny_run(folder=pathlib.Path("runs") / "one")
    self.assertEqual(run.stage_folder("dmg"), pathlib.Path("runs", "one", "dmg"))
    self.assertNotEqual(run.stage_folder("dmg"), run.stage_folder("mcd_vae"))

  def test_making_one_writes_nothing(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "new"
    run = tiny_run(folder=folder)
    self.assertFalse(folder.exists())
    self.assertEqual(run.stages, ("mcd_vae", "dmg"))
    self.assertEqual(run.system.name, "lamd")
    self.assertEqual(run.mesh.size, jax.device_count())

  @parameterized.parameters(
    ("system", "ladm", "'ladm'; known: lamd"),
    ("stages", ("vae",), "'vae'; lamd has mcd_vae, dmg"),
    ("stages", ("dmg",), "'dmg' without 'mcd_vae'"),
    ("mesh.data", 999, "999"),
  )
  def test_what_cannot_be_run_is_named(self, key, value, message):
    config = tiny_config.get_config()
    config.update_from_flattened_dict({key: value})
    with self.assertRaisesRegex(UserError, message) as caught:
      make_run(config, pathlib.Path())
    self.assertNotIn("\n", str(caught.exception))


class ClipTest(absltest.TestCase):
  """`config.<stage>.clip` over `config.data`."""

  def test_it_reaches_batches_source_and_network_of_that_stage_alone(self):
    config = tiny_config.get_config()
    config.data.frame_stride = 2
    config.mcd_vae.clip = dict(num_frames=4, resolution=16)
    run = tiny_run(config)
    self.assertEqual(run.clip("mcd_vae"), (4, 2, 16))
    self.assertEqual(run.clip("dmg"), (3, 2, 8))
    for stage, shape in (("mcd_vae", (4, 16, 16, 3)), ("dmg", (3, 8, 8, 3))):
      batch = batches.abstract_batch(run, stage, 2)
      self.assertEqual(batch["video"].shape, (2, *shape))
      source = sources.make_source(run.data(stage), "train")
      self.assertEqual(source.num_frames(0), run.clip(stage).span)
      self.assertEqual(source.read(0, 0, *run.clip(stage)[:2]).shape, shape)
      self.assertLen(source, 20)  # All else is that of the data.
    self.assertEqual(trained.make_stage(run, "mcd_vae").given_frames, 4)

  def test_it_changes_what_a_stage_allows(self):
    config = tiny_vdm.get_config()
    config.base.clip = dict(num_frames=2)
    run = tiny_run(config)
    config.sample.overlap = 2  # Of 2 frames; the data have 3.
    with self.assertRaisesRegex(UserError, "overlap=2: expected 1 to 1 of 2 frames"):
      trained.make_stage(run, "base")

  def test_a_smaller_one_is_a_part_of_the_same_videos(self):
    config = tiny_config.get_config()
    whole = sources.make_source(tiny_run(config).data("dmg"), "eval")
    config.dmg.clip = dict(num_frames=2)
    part = sources.make_source(tiny_run(config).data("dmg"), "eval")
    np.testing.assert_array_equal(part.read(1, 0, 2, 1), whole.read(1, 0, 2, 1))


if __name__ == "__main__":
  absltest.main()
