"""The work folder: whose it is, and that a mistake changes nothing in it."""

import errno
import json
import os
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
import jax
import tiny_config

from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.experiment.run import make_run
from lamd_jax.files import writing
from lamd_jax.types import UserError


def snapshot(folder):
  """Bytes and times of all files."""
  return {
    path.relative_to(folder): (path.stat().st_mtime_ns, path.read_bytes())
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


class WorkdirTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    temporary = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = temporary / "runs" / "one"
    self.config = tiny_config.get_config()

  def test_a_new_folder_says_whose_it_is_and_where_it_was_made(self):
    self.assertFalse(workdir_lib.is_begun(self.folder))
    workdir_lib.open_workdir(make_run(self.config, self.folder))
    self.assertTrue(workdir_lib.is_begun(self.folder))
    config = json.loads((self.folder / "config.json").read_text())
    self.assertEqual(config["mcd_vae"]["train"]["steps"], 4)
    self.assertEqual(config["stages"], ["mcd_vae", "dmg"])
    environment = json.loads((self.folder / "environment.json").read_text())
    self.assertEqual(environment["jax"], jax.__version__)
    self.assertEqual(environment["num_devices"], jax.device_count())
    self.assertIn("git_revision", environment)
    names = {path.name for path in self.folder.iterdir()}
    self.assertEqual(names, {"config.json", "environment.json"})

  def test_the_same_configuration_may_come_back_and_the_first_run_is_kept(self):
    workdir_lib.open_workdir(make_run(self.config, self.folder))
    before = snapshot(self.folder)[pathlib.Path("environment.json")]
    workdir_lib.open_workdir(make_run(tiny_config.get_config(), self.folder))
    workdir_lib.check_workdir(make_run(tiny_config.get_config(), self.folder))
    self.assertEqual(snapshot(self.folder)[pathlib.Path("environment.json")], before)

  def test_another_configuration_is_told_every_key_and_changes_nothing(self):
    workdir_lib.open_workdir(make_run(self.config, self.folder))
    before = snapshot(self.folder)
    other = tiny_config.get_config()
    other.seed = 4
    other.mcd_vae.model.encoder_channels = (4, 16)
    del other.data.num_train
    for function in (workdir_lib.open_workdir, workdir_lib.check_workdir):
      with self.assertRaises(UserError) as caught:
        function(make_run(other, self.folder))
      message = str(caught.exception)
      self.assertIn("seed (there 3, now 4)", message)
      self.assertIn(
        "mcd_vae.model.encoder_channels (there [4, 8], now [4, 16])", message
      )
      self.assertIn("data.num_train (there 20, now absent)", message)
      self.assertNotIn("\n", message)
      self.assertEqual(message.count(" now "), 3)
    self.assertEqual(snapshot(self.folder), before)

  def test_how_to_sample_and_measure_may_change(self):
    workdir_lib.open_workdir(make_run(self.config, self.folder))
    other = tiny_config.get_config()
    other.sample.num_steps, other.evaluate.num_clips = 2, 1
    workdir_lib.open_workdir(make_run(other, self.folder))
    config = json.loads((self.folder / "config.json").read_text())
    self.assertEqual(config["sample"]["num_steps"], 2)

  def test_a_file_is_no_folder(self):
    self.folder.parent.mkdir()
    self.folder.write_text("mine")
    with self.assertRaisesRegex(UserError, "is a file; expected a folder"):
      workdir_lib.open_workdir(make_run(self.config, self.folder))
    with self.assertRaisesRegex(UserError, "cannot write .*Not a directory"):
      workdir_lib.open_workdir(make_run(self.config, self.folder / "below"))
    self.assertEqual(self.folder.read_text(), "mine")

  def test_a_folder_without_training_says_what_to_do(self):
    with self.assertRaisesRegex(UserError, "no config.json: .* --mode=train"):
      workdir_lib.check_workdir(make_run(self.config, self.folder))

  def test_a_damaged_file_is_named(self):
    workdir_lib.open_workdir(make_run(self.config, self.folder))
    (self.folder / "config.json").write_text('{"seed": ')
    with self.assertRaisesRegex(UserError, "config.json is damaged"):
      workdir_lib.open_workdir(make_run(self.config, self.folder))

  def test_a_full_disk_leaves_the_file_as_it_was(self):
    workdir_lib.open_workdir(make_run(self.config, self.folder))
    before = (self.folder / "config.json").read_text()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
      mock.patch.object(os, "replace", side_effect=full),
      self.assertRaisesRegex(UserError, "the disk is full"),
    ):
      writing.write_json(self.folder / "config.json", {})
    self.assertEqual((self.folder / "config.json").read_text(), before)


if __name__ == "__main__":
  absltest.main()
