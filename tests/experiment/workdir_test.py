"""The work folder: whose it is, and that a mistake changes nothing in it."""

import errno
import json
import os
import pathlib
import subprocess
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import tiny_config

from lamd_jax import __version__
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


class WorkdirTest(parameterized.TestCase):
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
      self.assertNotIn("delete", message)
    self.assertEqual(snapshot(self.folder), before)

  def test_many_differences_are_one_short_line(self):
    workdir_lib.open_workdir(make_run(self.config, self.folder))
    path = self.folder / "config.json"
    there = json.loads(path.read_text())
    path.write_text(json.dumps(there | {f"key{i}": i for i in range(500)}))
    with self.assertRaisesRegex(UserError, "key0 .*there 0, now absent.* and 490 more"):
      workdir_lib.check_workdir(make_run(self.config, self.folder))

  def test_where_data_lie_is_not_what_a_model_is(self):
    self.config.data = dict(
      name="video_folder", path="clips", num_frames=3, frame_stride=1, resolution=8
    )
    self.config.condition = dict(encoder="minilm", vocabulary="a/words.txt")
    workdir_lib.open_workdir(make_run(self.config, self.folder))
    with self.assertNoLogs("absl"):
      for same in ("clips/", "./clips", os.path.abspath("clips"), "no/../clips"):
        self.config.data.path = same
        workdir_lib.check_workdir(make_run(self.config, self.folder))
    self.config.data.path = "/elsewhere/moved"
    self.config.condition.update(encoder="b/minilm", vocabulary="b/words.txt")
    with self.assertLogs("absl", "WARNING") as logs:
      workdir_lib.check_workdir(make_run(self.config, self.folder))
    self.assertRegex(
      logs.output[0],
      r"data.path \(there clips, now /elsewhere/moved\); what",
    )
    workdir_lib.open_workdir(make_run(self.config, self.folder))
    with self.assertNoLogs("absl"):  # The new place is remembered.
      workdir_lib.open_workdir(make_run(self.config, self.folder))
    self.config.data.path = ""  # As in a configuration whose data are not named.
    workdir_lib.check_workdir(make_run(self.config, self.folder))

  @parameterized.parameters(
    ("encoder", ""), ("vocabulary", "b/others.txt"), ("vocabulary", "shapes")
  )
  def test_another_encoder_or_vocabulary_is_another_model(self, key, value):
    self.config.condition = dict(encoder="minilm", vocabulary="a/words.txt")
    workdir_lib.open_workdir(make_run(self.config, self.folder))
    self.config.condition[key] = value
    with self.assertRaisesRegex(UserError, f"another configuration: condition.{key} "):
      workdir_lib.check_workdir(make_run(self.config, self.folder))

  def test_a_stage_may_be_trained_for_more_steps_not_for_fewer(self):
    workdir_lib.open_workdir(make_run(self.config, self.folder))
    self.config.dmg.train.steps = 6
    with self.assertLogs("absl", "INFO") as logs:
      workdir_lib.open_workdir(make_run(self.config, self.folder))
    self.assertRegex(
      logs.output[0], r"dmg.train.steps \(there 4, now 6\); learning rate"
    )
    self.config.dmg.train.steps = 5
    with self.assertRaisesRegex(UserError, r"more steps: .*steps \(there 6, now 5"):
      workdir_lib.open_workdir(make_run(self.config, self.folder))
    # To sample, nobody has to say for how long it was trained.
    workdir_lib.check_workdir(make_run(self.config, self.folder))

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

  def test_another_run_is_told_that_the_folder_is_in_use(self):
    with workdir_lib.only_writer(self.folder):
      with (
        self.assertRaisesRegex(UserError, f"one is in use by process {os.getpid()} on"),
        workdir_lib.only_writer(self.folder),
      ):
        self.fail()
      # Of several processes, the first takes the lock for all.
      with (
        mock.patch.object(jax, "process_index", return_value=1),
        workdir_lib.only_writer(self.folder),
      ):
        pass
    with (
      mock.patch.object(jax, "process_index", return_value=1),
      mock.patch.object(workdir_lib.processes, "as_first_sees", return_value=False),
      self.assertRaisesRegex(UserError, "could not be locked by the first process"),
      workdir_lib.only_writer(self.folder),
    ):
      self.fail()

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


class RevisionTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())).resolve()
    self.root, self.package = root, root / "lamd_jax"
    self.make(self.package)
    (root / "setup.py").write_text('setup(\n  name="lamd-jax",\n)\n')

  def make(self, package):
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")

  def commit(self):
    """Commits everything; returns the commit as git says it."""
    git = ["git", "-C", str(self.root), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for args in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "a"]):
      subprocess.run([*git, *args], check=True, capture_output=True)
    return subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()

  def test_a_checkout_has_its_commit_and_a_mark_where_it_was_changed(self):
    commit = self.commit()
    self.assertEqual(workdir_lib._git_revision(self.package), commit)
    with mock.patch.dict(os.environ, {"GIT_DIR": "/no/such"}):
      self.assertEqual(workdir_lib._git_revision(self.package), commit)
    (self.package / "__init__.py").write_text("changed")
    self.assertEqual(workdir_lib._git_revision(self.package), commit + "+")

  def test_a_repository_around_an_installed_package_is_not_its_own(self):
    installed = self.root / "venv" / "lib" / "site-packages" / "lamd_jax"
    self.make(installed)
    self.commit()
    self.assertEqual(workdir_lib._git_revision(installed), __version__)

  def test_neither_is_one_that_holds_a_copy_of_it(self):
    (self.root / "setup.py").write_text('setup(name="mine")')
    self.commit()
    self.assertEqual(workdir_lib._git_revision(self.package), __version__)
    (self.root / "setup.py").unlink()
    self.assertEqual(workdir_lib._git_revision(self.package), __version__)

  def test_without_a_repository_there_is_the_version(self):
    self.assertEqual(workdir_lib._git_revision(self.package), __version__)
    (self.root / ".gitignore").write_text("lamd_jax")
    self.commit()  # It is in a repository, but not part of it.
    self.assertEqual(workdir_lib._git_revision(self.package), __version__)


if __name__ == "__main__":
  absltest.main()
