"""Damaged checkpoints: noticed, passed over for an older one, set aside."""

import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

from absl import logging
from absl.testing import absltest
from checkpoint_folder import FolderTestCase, abstract_state, cut, make_state
import chex
import jax.numpy as jnp
import pytest

from lamd_jax.training import checkpoint, damage
from lamd_jax.types import UserError


class FirstWholeTest(absltest.TestCase):
  def read(self, *whole):
    """Reads steps, of which some are whole; returns the result and the steps read."""
    tried = []

    def read_fn(step):
      tried.append(step)
      if step not in whole:
        raise ValueError(f"step {step} is cut off\nand more lines")
      return str(step)

    with self.assertLogs("absl") as logs:
      logging.info("There may be none.")
      found = damage.first_whole("folder", [9, 7, 5, 3], read_fn)
    return found, tried, logs.output[1:]

  def test_the_first_that_can_be_read_is_the_last_that_is_tried(self):
    found, tried, logs = self.read(5, 3)
    self.assertEqual(found, ("5", [9, 7]))
    self.assertEqual(tried, [9, 7, 5])
    self.assertLen(logs, 1)
    self.assertIn("step 9, 7 in folder cannot be read", logs[0])
    self.assertIn("(ValueError: step 9 is cut off); using step 5", logs[0])

  def test_a_whole_step_is_used_without_a_word(self):
    found, tried, logs = self.read(9)
    self.assertEqual((found, tried, logs), (("9", []), [9], []))

  def test_no_steps_are_no_error(self):
    self.assertIsNone(damage.first_whole("folder", [], self.fail))

  def test_the_error_names_the_root_cause(self):
    def read_fn(step):
      try:
        raise OSError(f"disk {step}:\nand more lines")
      except OSError as e:
        raise RuntimeError("restoring failed") from e

    with self.assertRaisesRegex(UserError, r"\(step 4: OSError: disk 4\); restore"):
      damage.first_whole("folder", [4, 2], read_fn)


class DamageTest(FolderTestCase):
  def cut_newest(self):
    for path in (self.folder / "2" / "state").rglob("*"):
      if path.is_file():
        cut(path)

  @pytest.mark.slow
  def test_any_file_cut_in_half_is_noticed_or_harmless(self):
    self.save(1, 2)
    whole = self.folder.with_name("whole")
    shutil.copytree(self.folder, whole)
    fallbacks = 0
    for path in sorted((whole / "2").rglob("*")):
      if path.is_dir():
        continue
      shutil.rmtree(self.folder)
      shutil.copytree(whole, self.folder)
      cut(self.folder / path.relative_to(whole))
      with self.subTest(str(path.relative_to(whole))):
        restored = self.restore()
        self.assert_is_step(restored, int(restored[0].step))
        fallbacks += int(restored[0].step) == 1
    self.assertGreaterEqual(fallbacks, 5)

  def test_a_damaged_step_is_named_once_and_an_older_one_used(self):
    self.save(1, 2)
    self.cut_newest()
    with self.assertLogs("absl", "WARNING") as logs:
      self.assert_is_step(self.restore(), 1)
    self.assertLen(logs.output, 1)
    self.assertRegex(logs.output[0], f"step 2 in {self.folder} .*using step 1")

  def test_a_damaged_step_can_be_saved_again(self):
    self.save(1, 2)
    self.cut_newest()
    with (
      self.assertLogs("absl", "WARNING"),
      checkpoint.open_manager(self.folder) as manager,
    ):
      checkpoint.restore_latest(manager, abstract_state())
      self.assertEqual(self.names(), ["1", "2.damaged"])
      checkpoint.save(manager, 2, make_state(2), {"seconds": 0.5})
    self.assert_is_step(self.restore(), 2)
    self.assertEqual(checkpoint.latest_step(self.folder), 2)

  def test_only_the_last_damaged_copy_of_a_step_is_kept(self):
    for content in ("first", "second"):
      (self.folder / "2").mkdir(parents=True)
      (self.folder / "2" / "file").write_text(content)
      damage.set_aside(self.folder, [2])
    self.assertEqual(self.names(), ["2.damaged"])
    self.assertEqual((self.folder / "2.damaged" / "file").read_text(), "second")

  def test_damaged_meta_is_passed_over_and_nothing_changes(self):
    self.save(1, 2)
    cut(self.folder / "2" / "meta" / "metadata")
    with self.assertLogs("absl", "WARNING") as logs:
      self.assertEqual(checkpoint.read_meta(self.folder), (1, {"seconds": 0.25}))
    self.assertLen(logs.output, 1)
    self.assertEqual(self.names(), ["1", "2"])

  def test_averaged_parameters_come_from_a_whole_step_and_change_nothing(self):
    self.save(1, 2)
    self.cut_newest()
    with self.assertLogs("absl", "WARNING"):
      params, _ = checkpoint.restore_ema_params(
        self.folder, abstract_state().ema_params
      )
    chex.assert_trees_all_equal(params, make_state(1).ema_params)
    self.assertEqual(self.names(), ["1", "2"])

  def test_when_nothing_is_whole_the_error_names_the_folder(self):
    self.save(2)
    self.cut_newest()
    with self.assertRaisesRegex(UserError, f"{self.folder} .*step 2.*move that folder"):
      self.restore()
    self.assertEqual(self.names(), ["2"])

  def test_other_shapes_are_an_error_that_leaves_the_checkpoints_alone(self):
    self.save(1, 2)
    other = abstract_state().replace(params={"kernel": jnp.zeros((7, 5))})
    with (
      checkpoint.open_manager(self.folder) as manager,
      self.assertRaisesRegex(UserError, str(self.folder)),
    ):
      checkpoint.restore_latest(manager, other)
    self.assertEqual(self.names(), ["1", "2"])

  def test_a_half_written_step_is_ignored_removed_and_written_again(self):
    self.save(1, 2)
    half = self.folder / "3.orbax-checkpoint-tmp"
    shutil.copytree(self.folder / "2" / "state", half / "state.orbax-checkpoint-tmp")
    cut(half / "state.orbax-checkpoint-tmp" / "manifest.ocdbt")
    (self.folder / "9.orbax-checkpoint-tmp").mkdir()  # Not to be written again.
    self.assertEqual(checkpoint.latest_step(self.folder), 2)
    with checkpoint.open_manager(self.folder) as manager:
      self.assert_is_step(checkpoint.restore_latest(manager, abstract_state()), 2)
      checkpoint.save(manager, 3, make_state(3), {"seconds": 0.75})
    self.assert_is_step(self.restore(), 3)
    self.assertEqual(self.names(), ["2", "3"])

  @pytest.mark.process
  def test_a_process_killed_while_it_writes_leaves_the_step_before(self):
    code = """
      import os, signal, sys, time
      import orbax.checkpoint as ocp
      sys.path.insert(0, sys.argv[2])
      import checkpoint_folder
      from lamd_jax.training import checkpoint

      real = ocp.JsonCheckpointHandler.async_save
      async def die(self, directory, *args, **kwargs):
        if "4" in str(directory).split("/")[-2]:
          time.sleep(0.2)  # The arrays are being written meanwhile.
          os.kill(os.getpid(), signal.SIGKILL)
        return await real(self, directory, *args, **kwargs)
      ocp.JsonCheckpointHandler.async_save = die

      with checkpoint.open_manager(sys.argv[1]) as manager:
        for step in (3, 4):
          state = checkpoint_folder.make_state(step)
          checkpoint.save(manager, step, state, {"seconds": step / 4})
    """
    root = pathlib.Path(__file__).parents[2]
    helpers = str(root / "tests" / "helpers")
    done = subprocess.run(
      [
        sys.executable,
        "-c",
        textwrap.dedent(code),
        str(self.folder),
        helpers,
      ],
      cwd=root,
      capture_output=True,
      text=True,
    )
    self.assertEqual(done.returncode, -signal.SIGKILL, done.stderr)
    self.assertTrue([name for name in self.names() if "tmp" in name])
    self.assert_is_step(self.restore(), 3)
    self.save(4)
    self.assert_is_step(self.restore(), 4)
    self.assertEqual(self.names(), ["3", "4"])


class QuietTest(FolderTestCase):
  def test_orbax_does_not_print_what_is_raised_anyway(self):
    full = ValueError("No space left on device")
    logger = logging
    with checkpoint.open_manager(self.folder):
      with self.assertNoLogs("absl"):
        logger.error("commit", exc_info=full)
      with self.assertLogs("absl"):
        logger.error("commit", exc_info=KeyError("k"))
    with self.assertLogs("absl"):
      logger.error("commit", exc_info=full)


if __name__ == "__main__":
  absltest.main()
