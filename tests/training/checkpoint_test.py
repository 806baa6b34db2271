"""Checkpoints: equal to the last bit, and used only when they are whole."""

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from unittest import mock

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from lamd_jax.training import checkpoint, sharding
from lamd_jax.training.state import init_state
from lamd_jax.types import UserError

TX = optax.adam(1e-2)


def make_state(value):
  """A state in which every array depends on `value`."""
  params = {
    "kernel": jax.random.normal(jax.random.key(0), (64, 5)) + value,
    "bias": jnp.full((3,), value, jnp.float32),
  }
  state = init_state(params, TX)
  return state.replace(
    step=jnp.array(value, jnp.int32),
    ema_params=jax.tree.map(lambda x: 0.5 * x, params),
    opt_state=jax.tree.map(lambda x: x + jnp.asarray(value, x.dtype), state.opt_state),
  )


def abstract_state():
  mesh = sharding.make_mesh({"data": 2, "fsdp": 4})
  return sharding.place(mesh, jax.eval_shape(make_state, 0))


def shardings(tree):
  return jax.tree.map(lambda x: x.sharding, tree)


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def refused(error):
  """Replaces an orbax method by one that fails."""
  return mock.Mock(side_effect=error)


def chained(error, cause):
  error.__cause__ = cause
  return error


class FolderTestCase(parameterized.TestCase):
  """A folder of checkpoints."""

  def setUp(self):
    super().setUp()
    temporary = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(temporary) / "checkpoints"

  def save(self, *steps, max_to_keep=2):
    with checkpoint.open_manager(self.folder, max_to_keep=max_to_keep) as manager:
      for step in steps:
        checkpoint.save(manager, step, make_state(step), {"seconds": step / 4})

  def restore(self):
    with checkpoint.open_manager(self.folder) as manager:
      return checkpoint.restore_latest(manager, abstract_state())

  def assert_is_step(self, restored, step):
    state, meta = restored
    chex.assert_trees_all_equal(state, make_state(step))
    self.assertEqual(meta, {"seconds": step / 4})

  def names(self):
    return sorted(path.name for path in self.folder.iterdir())


class CheckpointTest(FolderTestCase):
  def test_an_empty_folder_has_nothing_to_restore(self):
    self.assertIsNone(self.restore())
    self.assertIsNone(checkpoint.latest_step(self.folder))
    self.assertIsNone(checkpoint.latest_step(self.folder / "missing"))

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


class BestTest(FolderTestCase):
  """Which steps stay beside the newest, and what is read of them."""

  def save(self, scalars, keep_best="psnr", every=0, first=1):
    """Saves a step for each value of a scalar, None for none; in a run of its own."""
    options = dict(max_to_keep=2, keep_best=keep_best, every=every)
    with checkpoint.open_manager(self.folder, **options) as manager:
      for step, value in enumerate(scalars, first):
        known = {} if value is None else {"psnr": value, "other": -1.0}
        checkpoint.save(manager, step, make_state(step), {"seconds": step / 4}, known)

  def best(self, keep_best="psnr"):
    abstract = abstract_state().ema_params
    params, meta = checkpoint.restore_ema_params(self.folder, abstract, best=keep_best)
    step = int(4 * meta["seconds"])
    chex.assert_trees_all_equal(params, make_state(step).ema_params)
    self.assertEqual(checkpoint.read_meta(self.folder, best=keep_best), (step, meta))
    return step

  @parameterized.parameters(
    dict(keep_best="psnr", values=(1, 9, 3, 2, 2), kept="245", best=2),
    dict(keep_best="-psnr", values=(1, 9, 3, 2, 2), kept="145", best=1),
    dict(keep_best="psnr", values=(1, 2, 3), kept="23", best=3),
    dict(keep_best="psnr", values=(1, np.nan, np.inf, 0, 0), kept="145", best=1),
  )
  def test_the_best_stays_beside_the_newest(self, keep_best, values, kept, best):
    self.save(map(float, values), keep_best)
    self.assertEqual(self.names(), list(kept))
    self.assertEqual(self.best(keep_best), best)
    self.assertEqual(checkpoint.latest_step(self.folder), len(values))

  def test_it_stays_in_later_runs_until_there_is_a_better_one(self):
    self.save([1.0, 9.0, 3.0])
    self.save([4.0, 5.0], first=4)
    self.assertEqual(self.names(), ["2", "4", "5"])
    self.save([9.5, 1.0, 1.0], first=6)
    self.assertEqual(self.names(), ["6", "7", "8"])
    self.assertEqual(self.best(), 6)

  def test_steps_without_the_scalar_are_not_ranked_and_it_is_said_once(self):
    with self.assertLogs("absl", "WARNING") as logs:
      self.save([2.0, 1.0, None, None, None])
    said = [line for line in logs.output if "keep_best='psnr'" in line]
    self.assertLen(said, 1)
    self.assertIn("step 3 has no such scalar", said[0])
    self.assertEqual(self.best(), 1)

  def test_without_any_it_says_what_to_do(self):
    self.save([None, None], keep_best="")
    for read in (self.best, lambda: checkpoint.read_meta(self.folder, best="psnr")):
      with self.assertRaisesRegex(
        UserError, f"no best .*{self.folder}.*'psnr'.*latest"
      ):
        read()

  def test_a_best_one_that_is_damaged_is_replaced_by_the_second(self):
    self.save([1.0, 9.0, 2.0, 3.0])
    for path in (self.folder / "2" / "state").rglob("*"):
      if path.is_file():
        cut(path)
    with self.assertLogs("absl", "WARNING") as logs:
      params, _ = checkpoint.restore_ema_params(
        self.folder, abstract_state().ema_params, best="psnr"
      )
    self.assertIn("step 2 in", logs.output[0])
    chex.assert_trees_all_equal(params, make_state(4).ema_params)

  def test_scalars_that_are_damaged_do_not_stop_a_run(self):
    self.save([1.0, 9.0, 2.0])
    cut(self.folder / "2" / "metrics" / "metrics")
    self.save([3.0], first=4)
    self.assertEqual(checkpoint.latest_step(self.folder), 4)

  def test_a_rollback_goes_to_a_regular_step_and_later_ones_are_gone(self):
    self.save([None] * 7, keep_best="", every=4)  # 5, 6 and 7 as runs are stopped.
    self.assertEqual(self.names(), ["4", "6", "7"])
    with checkpoint.open_manager(self.folder, every=4) as manager:
      restored = checkpoint.restore_before(manager, abstract_state(), 8, every=4)
      self.assert_is_step(restored, 4)
      self.assertEqual(self.names(), ["4"])
      checkpoint.save(manager, 6, make_state(6), {"seconds": 1.5})
      self.assertIsNone(
        checkpoint.restore_before(manager, abstract_state(), 4, every=4)
      )
    self.assertEqual(self.names(), [])


class DamageTest(FolderTestCase):
  def cut_newest(self):
    for path in (self.folder / "2" / "state").rglob("*"):
      if path.is_file():
        cut(path)

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
    with self.assertRaisesRegex(UserError, f"{self.folder} .*step 2.*delete"):
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

  def test_a_process_killed_while_it_writes_leaves_the_step_before(self):
    code = """
      import os, signal, sys, time
      import orbax.checkpoint as ocp
      sys.path.insert(0, sys.argv[2])
      import checkpoint_test
      from lamd_jax.training import checkpoint

      real = ocp.JsonCheckpointHandler.async_save
      async def die(self, directory, *args, **kwargs):
        if "4" in str(directory).split("/")[-2]:
          time.sleep(0.2)  # The arrays are being written beside this.
          os.kill(os.getpid(), signal.SIGKILL)
        return await real(self, directory, *args, **kwargs)
      ocp.JsonCheckpointHandler.async_save = die

      with checkpoint.open_manager(sys.argv[1]) as manager:
        for step in (3, 4):
          state = checkpoint_test.make_state(step)
          checkpoint.save(manager, step, state, {"seconds": step / 4})
    """
    here = pathlib.Path(__file__).parent
    done = subprocess.run(
      [sys.executable, "-c", textwrap.dedent(code), str(self.folder), str(here)],
      cwd=here.parents[1],
      capture_output=True,
      text=True,
    )
    self.assertEqual(done.returncode, -signal.SIGKILL, done.stderr)
    self.assertTrue([name for name in self.names() if "tmp" in name])
    self.assert_is_step(self.restore(), 3)
    self.save(4)
    self.assert_is_step(self.restore(), 4)
    self.assertEqual(self.names(), ["3", "4"])


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

  def test_orbax_does_not_print_what_is_raised_anyway(self):
    full = ValueError("No space left on device")
    logger = checkpoint.logging
    with checkpoint.open_manager(self.folder):
      with self.assertNoLogs("absl"):
        logger.error("commit", exc_info=full)
      with self.assertLogs("absl"):
        logger.error("commit", exc_info=KeyError("k"))
    with self.assertLogs("absl"):
      logger.error("commit", exc_info=full)


if __name__ == "__main__":
  absltest.main()
