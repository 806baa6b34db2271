"""Which checkpoints stay: the newest, the newest regular one and the best."""

from absl.testing import absltest, parameterized
from checkpoint_folder import FolderTestCase, abstract_state, cut, make_state
import chex
import numpy as np

from lamd_jax.training import checkpoint, retention
from lamd_jax.types import UserError


class ScoreTest(absltest.TestCase):
  def test_steps_are_ranked_best_first_and_ties_newest_first(self):
    scalars = {1: {"a": 5.0}, 2: {"a": 7.0}, 3: {"a": 5.0}, 4: {"b": 9.0}, 5: None}
    self.assertEqual(retention.best_first(scalars, "a"), [2, 3, 1])
    self.assertEqual(retention.best_first(scalars, "-a"), [3, 1, 2])
    self.assertEqual(retention.best_first(scalars, "c"), [])

  def test_infinite_scalars_are_not_ranked(self):
    scalars = {1: {"a": np.inf}, 2: {"a": -np.inf}, 3: {"a": np.nan}, 4: {"a": 0.0}}
    for keep_best in ("a", "-a"):
      self.assertEqual(retention.best_first(scalars, keep_best), [4])


class BestTest(FolderTestCase):
  """Which steps stay in addition to the newest, and which of them is read."""

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


if __name__ == "__main__":
  absltest.main()
