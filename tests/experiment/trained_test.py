"""Trained stages: which are read, which are not, and which checkpoint of each."""

import dataclasses
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import tiny_config
from tiny_run import FPS, random_stages, save_stage, tiny_run, trained_folder
import tiny_vdm

from lamd_jax.experiment import batches, trained
from lamd_jax.systems.lamd import dmg, mcd_vae
from lamd_jax.systems.table import StageSpec, System
from lamd_jax.training import checkpoint
from lamd_jax.types import UserError

STAGES = ("mcd_vae", "dmg")


def nothing_is_read(*names):
  """Fails where arrays or weights are read."""
  return mock.patch.multiple(
    checkpoint, **{x: mock.Mock(side_effect=AssertionError(x)) for x in names}
  )


def shapes(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


class FolderTestCase(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.config = tiny_config.get_config()

  def run_of(self, config=None):
    return tiny_run(config or self.config, self.folder)


class LoadTest(parameterized.TestCase):
  """One folder for all: nothing here writes to it."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.run_ = trained_folder(tiny_config.get_config(), pathlib.Path(folder))

  def test_a_stage_comes_back_with_its_averaged_parameters_and_meta(self):
    run = self.run_
    expected = random_stages(run)
    for name in STAGES:
      found = trained.load(run, name)
      chex.assert_trees_all_equal(found.params, expected[name].params)
      self.assertEqual(found.meta, {"step": 4, "seconds": 1.0, "fps": FPS})
      # On the devices, where a program needs them.
      self.assertEqual(
        {x.sharding.mesh.size for x in jax.tree.leaves(found.params)}, {run.mesh.size}
      )
    chex.assert_trees_all_equal(found.stage.vae_params, expected["mcd_vae"].params)

  def test_only_what_a_stage_needs_is_restored(self):
    run = self.run_
    # Another stage between the two, which nobody needs and nobody has trained.
    stages = {
      "mcd_vae": StageSpec(mcd_vae.make_mcd_vae),
      "other": StageSpec(mcd_vae.make_mcd_vae, needs=("mcd_vae",)),
      "dmg": StageSpec(dmg.make_dmg, needs=("mcd_vae",)),
    }
    run = dataclasses.replace(
      run, system=System("fake", stages, lambda *_: None), stages=tuple(stages)
    )
    restore, read = checkpoint.restore_ema_params, []

    def noting(folder, *args, **kwargs):
      read.append(folder.parent.name)
      return restore(folder, *args, **kwargs)

    with mock.patch.object(checkpoint, "restore_ema_params", noting):
      self.assertEmpty(trained.load_parts(run, "mcd_vae"))
      self.assertEmpty(read)
      self.assertEqual([*trained.load_parts(run, "dmg")], ["mcd_vae"])
      self.assertEqual(read, ["mcd_vae"])
      trained.load(run, "dmg")
      self.assertEqual(read[1:], ["mcd_vae", "dmg"])
      with self.assertRaisesRegex(UserError, "other/checkpoints: train this stage fir"):
        trained.load(run, "other")

  def test_stages_of_a_folder_are_restored_when_looked_up_and_once(self):
    run = self.run_
    with mock.patch.object(trained, "_restore", wraps=trained._restore) as restore:
      stages = trained.TrainedStages(run)
      restore.assert_not_called()
      self.assertIs(stages["mcd_vae"], stages["mcd_vae"])
      restore.assert_called_once_with(run, "mcd_vae", None)
      # The generator holds the arrays that were restored: no second copy of them.
      self.assertIs(stages["dmg"].stage.vae_params, stages["mcd_vae"].params)
      self.assertEqual(restore.call_count, 2)

  def test_a_transfer_needs_no_generator(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    (folder / "mcd_vae").symlink_to(self.run_.stage_folder("mcd_vae"))
    run = dataclasses.replace(self.run_, folder=folder)
    pipeline = trained.make_pipeline(run, trained.TrainedStages(run))
    self.assertEqual(pipeline.reading("transfer", {}).resolution, 8)
    with self.assertRaisesRegex(UserError, "dmg/checkpoints: train this stage first"):
      pipeline.reading("animate", {})

  def test_stages_from_elsewhere_are_put_together_in_the_same_way(self):
    stages = random_stages(self.run_)
    self.assertIs(stages["dmg"].stage.vae_params, stages["mcd_vae"].params)

  def test_what_was_measured_of_a_stage_reaches_those_that_need_it(self):
    given = {}
    keep = lambda config, parts: given.update(parts) or dmg.make_dmg(config, parts)
    spec = StageSpec(keep, needs=("mcd_vae",))
    system = self.run_.system._replace(stages=self.run_.system.stages | {"dmg": spec})
    run = dataclasses.replace(self.run_, system=system)
    vae = random_stages(run)["mcd_vae"]._replace(statistics={"scale": 0.5})
    made = trained.around(run, "dmg", {"mcd_vae": vae}, None, {}, {"shift": 1.0})
    self.assertEqual(given["mcd_vae"].statistics, {"scale": 0.5})
    self.assertEqual(made.statistics, {"shift": 1.0})


class AbstractTest(FolderTestCase):
  @parameterized.parameters("none", "lpips_vgg", "i3d")
  def test_shapes_need_nothing_on_disk(self, perceptual):
    self.config.mcd_vae.loss.perceptual = perceptual
    self.config.data.resolution = 16
    run = self.run_of()
    with (
      nothing_is_read("restore_ema_params", "open_manager", "read_meta"),
      mock.patch.object(trained, "load_perceptual", side_effect=AssertionError),
    ):
      for name in STAGES:
        stage = trained.make_stage(run, name, for_training=True, abstract=True)
        leaves = jax.tree.leaves(stage)
        self.assertTrue(all(isinstance(x, jax.ShapeDtypeStruct) for x in leaves))
        parts = trained.load_parts(run, name, for_training=True, abstract=True)
        expected = {"mcd_vae"} if name == "dmg" else {"perceptual"} - {perceptual}
        if name == "mcd_vae" and perceptual == "none":
          expected = set()
        self.assertEqual({*parts}, expected)
    self.assertEmpty(list(self.folder.iterdir()))

  def test_they_are_those_of_what_training_begins_with(self):
    for config in (self.config, tiny_vdm.get_config()):
      run = self.run_of(config)
      for name, made in random_stages(run).items():
        zeros = {
          key: jnp.zeros(x.shape, x.dtype)
          for key, x in batches.abstract_batch(run, name, 2).items()
        }
        begun = jax.eval_shape(made.stage.init, jax.random.key(0), zeros)
        self.assertEqual(shapes(trained.abstract_params(run, name)), shapes(begun))

  def test_the_network_of_a_loss_has_the_shapes_that_the_loss_needs(self):
    self.config.data.resolution = 16
    for perceptual in ("lpips_vgg", "i3d"):
      self.config.mcd_vae.loss.perceptual = perceptual
      run = self.run_of()
      stage = trained.make_stage(run, "mcd_vae", for_training=True, abstract=True)
      loss = lambda stage, params, batch, key: stage.loss(
        params, batch, key, train=True
      )
      _, metrics = jax.eval_shape(
        loss,
        stage,
        trained.abstract_params(run, "mcd_vae"),
        batches.abstract_batch(run, "mcd_vae", 2),
        jax.eval_shape(jax.random.key, 0),
      )
      self.assertIn(perceptual, metrics)


class IsTrainedTest(FolderTestCase):
  def test_it_reads_no_arrays(self):
    run = self.run_of()
    params = random_stages(run)["mcd_vae"].params
    with nothing_is_read("restore_ema_params", "open_manager"):
      self.assertFalse(trained.is_trained(run, "mcd_vae"))
    save_stage(run, "mcd_vae", params, step=2)
    with nothing_is_read("restore_ema_params", "open_manager"):
      self.assertFalse(trained.is_trained(run, "mcd_vae"))
    save_stage(run, "mcd_vae", params, step=4)
    with nothing_is_read("restore_ema_params", "open_manager"):
      self.assertTrue(trained.is_trained(run, "mcd_vae"))
      self.assertFalse(trained.is_trained(run, "dmg"))
    # More steps are asked for than were made: there is more to train.
    self.config.mcd_vae.train.steps = 5
    self.assertFalse(trained.is_trained(run, "mcd_vae"))

  def test_a_last_checkpoint_that_is_damaged_is_not_enough(self):
    run = self.run_of()
    params = random_stages(run)["mcd_vae"].params
    save_stage(run, "mcd_vae", params, step=2)
    save_stage(run, "mcd_vae", params, step=4)
    self.assertTrue(trained.is_readable(run, "mcd_vae"))
    state = self.folder / "mcd_vae/checkpoints/4/state"
    for path in [x for x in state.rglob("*") if x.is_file()]:
      path.write_bytes(b"")
    self.assertTrue(trained.is_trained(run, "mcd_vae"))
    self.assertFalse(trained.is_readable(run, "mcd_vae"))


class WhichTest(FolderTestCase):
  """Which checkpoint of a stage."""

  def test_the_newest_unless_the_last_stage_is_to_be_the_best(self):
    run = self.run_of()
    self.assertIsNone(trained.best_of(run, "dmg"))
    self.config.sample.checkpoint, self.config.run.keep_best = "best", "-loss"
    self.assertEqual(trained.best_of(run, "dmg"), "-loss")
    # The stage in front was part of the training with its newest parameters.
    self.assertIsNone(trained.best_of(run, "mcd_vae"))

  def test_what_it_cannot_be_is_said(self):
    self.config.sample.checkpoint = "first"
    with self.assertRaisesRegex(UserError, "checkpoint='first'; known: latest, best"):
      trained.best_of(self.run_of(), "dmg")
    self.config.sample.checkpoint = "best"
    with self.assertRaisesRegex(UserError, "'best' needs config.run.keep_best"):
      trained.best_of(self.run_of(), "dmg")

  def test_the_best_is_restored_and_its_meta_is_read(self):
    self.config.stages = ("mcd_vae",)
    self.config.run.keep_best = "loss"
    run = self.run_of()
    first, last = (random_stages(run, seed)["mcd_vae"].params for seed in (1, 2))
    with mock.patch("tiny_run.checkpoint.open_manager", self.keeping):
      save_stage(run, "mcd_vae", first, step=2)  # Its scalar is -2, the largest.
      save_stage(run, "mcd_vae", last, step=4)
    for which, step, params in (("latest", 4, last), ("best", 2, first)):
      self.config.sample.checkpoint = which
      self.assertEqual(trained.read_meta(run, "mcd_vae")[0], step)
      chex.assert_trees_all_equal(trained.load(run, "mcd_vae").params, params)

  def keeping(self, folder, **kwargs):
    return open_manager(folder, **({"keep_best": "loss"} | kwargs))


open_manager = checkpoint.open_manager


class PerceptualTest(FolderTestCase):
  def test_weights_that_are_missing_are_one_line_that_says_what_to_do(self):
    self.config.data.resolution = 16
    self.config.mcd_vae.loss.update(
      perceptual="lpips_vgg", perceptual_weights=str(self.folder)
    )
    with self.assertRaises(UserError) as caught:
      trained.make_stage(self.run_of(), "mcd_vae", for_training=True)
    message = str(caught.exception)
    self.assertStartsWith(message, "mcd_vae.loss.perceptual='lpips_vgg': ")
    self.assertIn(str(self.folder / "vgg16.safetensors"), message)
    self.assertEndsWith(message, "--config.mcd_vae.loss.perceptual=none does without")
    self.assertNotIn("\n", message)
    # To sample, they are not needed.
    self.assertIsNone(trained.make_stage(self.run_of(), "mcd_vae").perceptual_params)

  def test_a_stage_without_such_a_loss_has_none(self):
    self.assertEmpty(trained.load_perceptual(self.run_of(), "dmg"))
    self.assertEmpty(trained.load_perceptual(self.run_of(), "mcd_vae"))


if __name__ == "__main__":
  absltest.main()
