"""Checkpoints: equal to the last bit, and used only when they are whole."""

import errno
import os
import shutil
from unittest import mock

from absl.testing import absltest, parameterized
from checkpoint_folder import FolderTestCase, abstract_state, make_state, shardings
import chex
import jax
import orbax.checkpoint as ocp
import pytest

from lamd_jax.training import checkpoint
from lamd_jax.types import UserError


def refused(error):
  """Replaces an orbax method by one that fails."""
  return mock.Mock(side_effect=error)


def chained(error, cause):
  error.__cause__ = cause
  return error


class CheckpointTest(FolderTestCase):
  def test_an_empty_folder_has_nothing_to_restore(self):
    self.assertIsNone(self.restore())
    self.assertIsNone(checkpoint.latest_step(self.folder))
    self.assertIsNone(checkpoint.latest_step(self.folder / "missing"))

  @pytest.mark.mesh
  def test_the_newest_step_comes_back_bit_for_bit_on_the_given_devices(self):
    self.save(1, 2, 3)
    restored = self.restore()
    self.assert_is_step(restored, 3)
    self.assertEqual(shardings(restored[0]), shardings(abstract_state()))

  def test_only_the_newest_steps_stay(self):
    self.save(1, 2, 3, 4)
    self.assertEqual(self.names(), ["3", "4"])
    self.assertEqual(checkpoint.latest_step(self.folder), 4)

  def test_saving_does_not_see_what_happens_to_the_state_afterwards(self):
    spoil = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    with checkpoint.open_manager(self.folder) as manager:
      state = make_state(5)
      checkpoint.save(manager, 5, state, {"seconds": 1.25})
      spoil(state)
    self.assert_is_step(self.restore(), 5)

  @pytest.mark.mesh
  def test_averaged_parameters_alone_can_be_read(self):
    self.save(1, 2)
    abstract = abstract_state().ema_params
    params, meta = checkpoint.restore_ema_params(self.folder, abstract)
    chex.assert_trees_all_equal(params, make_state(2).ema_params)
    self.assertEqual(shardings(params), shardings(abstract))
    self.assertEqual(meta, {"seconds": 0.5})

  def test_arrays_that_another_version_did_not_have_are_named(self):
    self.save(1, 2)
    abstract = abstract_state().ema_params
    grown = {**abstract, "later": {"bias": next(iter(jax.tree.leaves(abstract)))}}
    message = "no later/bias .1 arrays .* another version"
    with self.assertRaisesRegex(UserError, message):
      checkpoint.restore_ema_params(self.folder, grown)

  def test_averaged_parameters_of_an_untrained_stage_say_what_to_do(self):
    with self.assertRaisesRegex(UserError, f"no checkpoint in {self.folder}.*train"):
      checkpoint.restore_ema_params(self.folder, abstract_state().ema_params)
    self.assertFalse(self.folder.exists())


class CheapTest(FolderTestCase):
  def setUp(self):
    super().setUp()
    with checkpoint.open_manager(self.folder, keep_best="psnr") as manager:
      for step, psnr in ((1, 9.0), (2, 3.0)):
        scalars = {"psnr": psnr}
        meta = {"step": step, "seconds": step / 4}
        checkpoint.save(manager, step, make_state(step), meta, scalars)

  def test_meta_and_latest_step_are_there_when_the_arrays_are_gone(self):
    for step in "12":
      shutil.rmtree(self.folder / step / "state")
    self.assertEqual(checkpoint.latest_step(self.folder), 2)
    meta = [{"step": step, "seconds": step / 4} for step in (1, 2)]
    self.assertEqual(checkpoint.read_meta(self.folder), (2, meta[1]))
    self.assertEqual(checkpoint.read_meta(self.folder, best="psnr"), (1, meta[0]))
    self.assertEqual(checkpoint.read_meta(self.folder, best="-psnr"), (2, meta[1]))

  def test_they_open_no_manager_and_wait_for_nobody(self):
    with (
      mock.patch.object(checkpoint, "Manager", refused(AssertionError("opened"))),
      mock.patch.object(
        ocp.multihost, "sync_global_processes", refused(AssertionError("waited"))
      ),
    ):
      self.assertEqual(checkpoint.latest_step(self.folder), 2)
      self.assertEqual(checkpoint.read_meta(self.folder)[0], 2)
      self.assertEqual(checkpoint.read_meta(self.folder, best="psnr")[0], 1)

  def test_meta_of_an_untrained_stage_says_what_to_do(self):
    with self.assertRaisesRegex(UserError, "no checkpoint in missing: train this"):
      checkpoint.read_meta("missing")


class FullDiskTest(FolderTestCase):
  @parameterized.product(
    error=(
      OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
      OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
      ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device [28]"),
      chained(RuntimeError("commit failed"), OSError(errno.ENOSPC, "x")),
      ExceptionGroup("commits", [KeyError("k"), OSError(errno.ENOSPC, "x")]),
    ),
    method=("save", "wait_until_finished"),
  )
  def test_it_is_a_message_and_earlier_checkpoints_stay(self, error, method):
    self.save(1)
    with (
      checkpoint.open_manager(self.folder) as manager,
      mock.patch.object(manager, method, refused(error)),
      self.assertRaisesRegex(UserError, f"disk is full.*{self.folder}.*intact"),
    ):
      checkpoint.save(manager, 2, make_state(2), {})
      checkpoint.finish(manager)
    with (
      mock.patch.object(ocp.CheckpointManager, "close", refused(error)),
      self.assertRaisesRegex(UserError, "disk is full"),
      checkpoint.open_manager(self.folder),
    ):
      pass
    self.assert_is_step(self.restore(), 1)

  def test_other_errors_stay_what_they_are(self):
    with (
      checkpoint.open_manager(self.folder) as manager,
      mock.patch.object(manager, "save", refused(OSError(errno.EACCES, "denied"))),
      self.assertRaises(PermissionError),
    ):
      checkpoint.save(manager, 1, make_state(1), {})


if __name__ == "__main__":
  absltest.main()
