"""The plan: what it adds up, what it tries first, and what it leaves alone."""

import copy
import itertools
import json
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import pytest
import tiny_config
import tiny_lamd

from lamd_jax.experiment import program
from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import plan
from lamd_jax.systems import stage as stage_lib
from lamd_jax.systems import table
from lamd_jax.training import flops

CONFIG = tiny_config.get_config()
NEED = plan.Need(
  *(1, 1, 2, 0, 1, 5, 10), flops=7.0, flops_computed=7.0, bytes_accessed=3.0, devices=8
)


def run_of(config, folder="nowhere"):
  return make_run(config, pathlib.Path(folder))


def held(name, config=CONFIG):
  run = run_of(config)
  return plan.held(program.make_program(run, name, plan.abstract_stage(run, name)))


def size(tree):
  return 4 * sum(x.size for x in jax.tree.leaves(tree))


class Compiler:
  """Stands in for `measure`: a peak by a rule, and what it was asked for."""

  def __init__(self, peak):
    self.peak, self.asked = peak, []

  def __call__(self, run, name):
    config, shards = run.config, run.mesh.shape["fsdp"]
    train = config[name].train
    said = (train.batch_size, train.accumulate, config.run.remat, shards)
    self.asked.append((*said, config.data.num_frames))
    fields = vars(NEED) | {"peak": int(self.peak(*self.asked[-1]))}
    return plan.Need(**fields)


class PlanTest(parameterized.TestCase):
  def test_what_goes_in_is_added_up_from_shapes(self):
    _, params = tiny_lamd.autoencoder()
    stage = table.make_stage(CONFIG, "dmg", {"mcd_vae": stage_lib.Part(params)})
    own = jax.eval_shape(stage.init, tiny_lamd.KEY, tiny_lamd.BATCH)
    found = held("dmg")
    self.assertEqual(found["parameters"], size(own))
    self.assertEqual(found["average"], size(own))
    self.assertEqual(found["frozen"], size(params))
    # Two moments, and counters of updates.
    self.assertBetween(found["optimizer"] - 2 * size(own), 4, 100)
    self.assertEqual(found["batch"], 8 * 3 * 8 * 8 * 3 / jax.device_count())

  def test_a_discriminator_is_trained_too(self):
    config = copy.deepcopy(CONFIG)
    with_critic = held("mcd_vae")
    config.mcd_vae.adversary.weight = 0.0
    without = held("mcd_vae", config)
    stage = plan.abstract_stage(run_of(CONFIG), "mcd_vae")
    assert isinstance(stage, stage_lib.AdversarialStage)
    critic = size(jax.eval_shape(stage.init_critic, tiny_lamd.KEY, tiny_lamd.BATCH))
    self.assertEqual(with_critic["parameters"] - without["parameters"], critic)
    self.assertEqual(with_critic["average"], without["average"])

  def test_parameters_of_a_perceptual_network_are_shapes_alone(self):
    config = copy.deepcopy(CONFIG)
    config.data.resolution = 16
    config.mcd_vae.loss = dict(kl_weight=1e-2, perceptual="lpips_vgg")
    # The 13 convolutions of VGG16, and a weight for each channel of 5 layers.
    widths = (3, 64, 64, 128, 128, *[256] * 3, *[512] * 6)
    vgg = sum(9 * a * b + b for a, b in itertools.pairwise(widths))
    layers = 64 + 128 + 256 + 512 + 512
    self.assertEqual(held("mcd_vae", config)["frozen"], 4 * (vgg + layers))

  @pytest.mark.slow
  def test_the_compiler_is_asked(self):
    need = plan.measure(run_of(CONFIG), "dmg")
    inside = need.parameters + need.average + need.optimizer + need.frozen + need.batch
    self.assertGreaterEqual(need.peak, inside + need.temporaries)
    # Beside it: metrics. The new state is where the old one was.
    self.assertLess(need.peak, inside + need.temporaries + 4096)
    self.assertGreater(need.temporaries, 0)
    self.assertEqual(need.flops, need.flops_computed)
    self.assertGreater(need.flops, 0)

  @pytest.mark.mesh
  def test_the_first_that_fits_is_found_and_no_more_is_compiled(self):
    config = copy.deepcopy(CONFIG)
    config.dmg.train.batch_size = 64  # 8 for each device.
    config.data.num_frames = 16

    def peak(batch, accumulate, remat, fsdp, frames):
      full = 3.0 if remat == "none" else 1.5 if remat == "elementwise" else 0.9
      return 1e6 * full * batch / 64 / accumulate * frames / 16

    compiler = Compiler(peak)
    with mock.patch.object(plan, "measure", compiler):
      found = plan.plan(run_of(config), memory_gb=0.0016)["stages"]["dmg"]
    fits = {k: v and v["changes"] for k, v in found["fits"].items()}
    self.assertEqual(
      fits,
      {
        "accumulate": {"dmg.train.accumulate": 2},
        "remat": {"run.remat": "elementwise"},
        "fsdp": None,
        "all of these": {
          "dmg.train.accumulate": 8, "run.remat": "block",
          "mesh.data": 1, "mesh.fsdp": 8,
        },
        "batch": {"dmg.train.batch_size": 32, "dmg.train.accumulate": 1},
        "frames": {"data.num_frames": 8},
      },
    )  # fmt: skip
    dmg = [x for x in compiler.asked if x[0] != 8]
    self.assertLen(dmg, 1 + 1 + 1 + 3 + 1 + 1 + 1)

  @pytest.mark.slow
  def test_what_goes_in_and_is_too_much_is_not_compiled(self):
    compiler = Compiler(lambda *_: 1e12)
    with mock.patch.object(plan, "measure", compiler):
      found = plan.plan(run_of(CONFIG), memory_gb=1e-6)
    self.assertLen(compiler.asked, len(CONFIG.stages))
    for stage in found["stages"].values():
      self.assertEqual(set(stage["fits"].values()), {None})

  def test_a_plan_writes_one_file_and_only_where_it_is_told_to(self):
    with (
      tempfile.TemporaryDirectory() as temporary,
      mock.patch.object(plan, "measure", Compiler(lambda *_: 1.0)),
    ):
      folder = pathlib.Path(temporary) / "new"
      found = plan.plan(run_of(CONFIG, folder), memory_gb=1.0, writes=True)
      self.assertEqual([x.name for x in folder.iterdir()], ["plan.json"])
      self.assertEqual(json.loads((folder / "plan.json").read_text()), found)
      self.assertNotIn("fits", found["stages"]["dmg"])
      other = run_of(CONFIG, pathlib.Path(temporary) / "other")
      plan.plan(other, memory_gb=1.0)
      self.assertLen(list(pathlib.Path(temporary).iterdir()), 1)

  def test_rematerialisation_is_no_work_of_the_model(self):
    config = copy.deepcopy(CONFIG)

    def found():
      run = run_of(config)
      stage = plan.abstract_stage(run, "dmg")
      training = program.make_program(run, "dmg", stage)
      computed = flops.count_flops(training.step, *training.arguments)
      return program.model_flops(training), computed

    without, computed = found()
    self.assertEqual(without, computed)
    config.run.remat = "block"
    model, computed = found()
    self.assertEqual(model, without)
    self.assertGreater(computed, without)


if __name__ == "__main__":
  absltest.main()
