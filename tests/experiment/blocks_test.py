"""The whole configuration: every mistake in it is one line that names the place."""

import math
import pathlib

from absl.testing import absltest, parameterized
import ml_collections
import numpy as np
import tiny_config
import tiny_vdm

from lamd_jax.data import sources
from lamd_jax.experiment import blocks
from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import check
from lamd_jax.systems import table
from lamd_jax.types import UserError

MODULES = {"lamd": tiny_config, "vdm": tiny_vdm}
WRONG = (
  *(None, True, -1, 2**64, 10**300, math.nan, math.inf, 1j, b"x", object()),
  *("", "x" * 5000, "a\0b", "two\nlines", (), (-1, 1, 1), ("a",), [[]], {}, {"a": 1}),
  *(np.zeros(3), np.float32("nan"), ml_collections.ConfigDict({"b": 2})),
)


def config_of(name):
  """A tiny configuration of a system, with every block there is."""
  config = MODULES[name].get_config()
  config.augment = dict(flip=False)
  config.images = dict(num=2, source=dict(name="shapes", num_train=9))
  config.condition = dict(kind="class", dropout=0.1, num_classes=5)
  config[config.stages[0]].clip = dict(num_frames=3)
  return config


def places(node, path=()):
  """Yields the path of every value and block."""
  for key in list(node):
    yield (*path, key)
    if isinstance(node[key], ml_collections.ConfigDict):
      yield from places(node[key], (*path, key))


def block_at(config, path):
  for key in path[:-1]:
    config = config[key]
  return config


def check_changed(name, path, change):
  """Checks a configuration after a change of one place; returns the error, if any."""
  config = config_of(name)
  node = block_at(config, path)
  with node.ignore_type():
    change(node, path[-1])
  try:
    blocks.check_config(config)
  except UserError as e:
    return str(e)
  return None


class CheckConfigTest(parameterized.TestCase):
  @parameterized.parameters(*MODULES)
  def test_what_is_right_is_accepted(self, name):
    blocks.check_config(MODULES[name].get_config())
    blocks.check_config(config_of(name))
    as_json = ml_collections.ConfigDict(config_of(name).to_dict())
    blocks.check_config(as_json)

  @parameterized.parameters(
    ("diffusion.paramterization", "eps", "did you mean dmg.diffusion.parameterization"),
    ("condition.droput", 0.1, "condition.droput means .* mean condition.dropout"),
    ("sede", 3, "config.sede means nothing .* did you mean config.seed[?]"),
    ("evaluate.metrix", (), "evaluate.metrix means .* did you mean evaluate.metrics"),
    ("run.remta", "none", "run.remta means .* did you mean run.remat"),
    ("mesh.dta", 1, "mesh.dta means .* did you mean mesh.data"),
    ("augment.filp", True, "did you mean augment.flip"),
    ("images.nmu", 1, "did you mean images.num"),
    ("images.source.num_trian", 1, "did you mean images.source.num_train"),
    ("dmg.train.step", 1, "did you mean dmg.train.steps"),
    ("dmg.traim", {}, "did you mean dmg.train"),
    ("mcd_vae.clip.num_frame", 3, "did you mean mcd_vae.clip.num_frames"),
    ("mcd_vae.adversary.model.chanels", (), "mcd_vae.adversary.model.channels"),
  )
  def test_a_typo_names_the_nearest_key(self, key, value, message):
    config = config_of("lamd")
    config.update_from_flattened_dict({})
    *path, last = (f"dmg.{key}" if key.startswith("diffusion") else key).split(".")
    block_at(config, (*path, last))[last] = value
    with self.assertRaisesRegex(UserError, message):
      blocks.check_config(config)

  @parameterized.parameters(
    ("mcd_vae.loss.kl_weight", math.nan, "mcd_vae.loss.kl_weight=nan: expected a num"),
    ("mcd_vae.model.decoder_blocks", (-1, 1, 1), r"blocks=.-1, 1, 1.: expected a tup"),
    ("seed", 2**64, "config.seed=18446744073709551616: expected .* 4,294,967,295"),
    ("data.num_frames", 10**11, "data.num_frames=100000000000: expected"),
    ("data.resolution", 10**6, "data.resolution=1000000: expected"),
    ("dmg.train.b2", 1.0, "dmg.train.b2=1.0: expected a number from 0 to"),
    ("dmg.train.learning_rate", 0.0, "learning_rate=0.0: expected a number from 1e-12"),
    ("dmg.train.batch_size", True, "dmg.train.batch_size=True: expected a whole"),
    ("sample.guidance", math.inf, "sample.guidance=inf: expected a number from -10,0"),
    ("sample.checkpoint", "newest", "'newest'; known: latest, best"),
    ("evaluate.num_clips", 0, "evaluate.num_clips=0: expected a whole number from 1"),
    ("evaluate.metrics", ("fdv",), "'fvd'[?]"),
    ("evaluate.weights", "~nobody-x", "there is no user 'nobody-x'"),
    ("condition.kind", "clas", "condition.kind='clas'; known: .* mean 'class'"),
    ("run.on_nonfinite", "stp", "'stp'; known: stop, skip, rollback; did you mean 's"),
    ("stages", None, "config.stages=None: expected a tuple"),
    ("stages", "dmg", "config.stages='dmg': expected a tuple"),
    ("compute_dtype", "float16", "config.compute_dtype='float16'; known: float32"),
    ("system", None, "config.system=None: expected one of lamd, vdm"),
    ("data", 3, "data is 3; expected a block with name"),
    ("data.name", "shape", "data.name='shape'; known: .* did you mean 'shapes'"),
    ("images.source.resolution", 8, "source.resolution means nothing to images.sourc"),
    ("dmg", None, "dmg is None; expected a block with model, diffusion, train, clip"),
    ("dmg.train", "x", "dmg.train is 'x'; expected a block with batch_size"),
  )
  def test_a_wrong_value_is_named_with_what_was_expected(self, key, value, message):
    error = check_changed(
      "lamd", tuple(key.split(".")), lambda node, last: node.__setitem__(last, value)
    )
    self.assertRegex(str(error), message)

  @parameterized.parameters(*MODULES)
  def test_no_value_of_another_kind_is_more_than_one_line(self, name):
    paths = [*places(config_of(name))]
    # Each place gets two of the values; tests/benchmarks/fuzz/configs.py tries all.
    some = [(path, WRONG[(i + j) % len(WRONG)])
            for i, path in enumerate(paths) for j in (0, 11)]  # fmt: skip
    errors = []
    for path, value in some:
      change = lambda node, key, value=value: node.__setitem__(key, value)
      if error := check_changed(name, path, change):
        self.assertTrue(error.isprintable() and len(error) < 900, error)
        self.assertIn(path[0], error)
        errors.append(error)
    # Some texts may hold any text, and some tuples be empty.
    self.assertGreater(len(errors), 0.85 * len(some))

  @parameterized.parameters(*MODULES)
  def test_every_typo_is_found(self, name):
    def misspell(node, key):
      node[f"{key}_"] = node[key]

    for path in places(config_of(name)):
      error = check_changed(name, path, misspell)
      self.assertRegex(error or "", f"{path[-1]}_ means nothing to .*(mean|known)")

  @parameterized.parameters(*MODULES)
  def test_what_is_missing_has_a_default_or_is_named(self, name):
    for path in places(config_of(name)):
      error = check_changed(name, path, lambda node, key: node.__delitem__(key))
      if error is not None:
        self.assertRegex(error, f"{path[-1]} is missing; .* needs")
        continue
      config = config_of(name)
      del block_at(config, path)[path[-1]]
      try:
        check.check(make_run(config, pathlib.Path()))
      except UserError as e:
        # A default may not suit the others, but nothing is looked for in vain.
        self.assertNotIn("does not make a network", str(e))
    for key in ("data", "sample", "evaluate", "mesh", "run", "seed", "stages"):
      error = check_changed(name, (key,), lambda node, key: node.__delitem__(key))
      self.assertRegex(error or "", f"^config.{key} is missing; a configuration needs")

  def test_every_system_and_data_set_says_what_it_takes(self):
    for name in table.SYSTEMS:
      config = config_of(name)
      for source in sources.SOURCES:
        config.data.name = source
        described = blocks.describe(config).fields["data"].annotation
        self.assertIn("num_frames", described.fields)
        self.assertNotIn("split", described.fields)

  def test_the_block_of_a_stage_that_is_not_trained_may_be_missing_but_not_wrong(self):
    config = config_of("lamd")
    config.stages = ("mcd_vae",)
    blocks.check_config(config)
    config.dmg.train.steps = 0
    with self.assertRaisesRegex(UserError, "dmg.train.steps=0"):
      blocks.check_config(config)
    del config.dmg
    blocks.check_config(config)

  def test_no_run_is_made_of_what_is_wrong(self):
    config = config_of("lamd")
    config.sede = 3
    with self.assertRaisesRegex(UserError, "config.sede means nothing"):
      make_run(config, pathlib.Path())


if __name__ == "__main__":
  absltest.main()
