"""Several real processes: one training, one stopping point, one order of examples."""

import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from absl.testing import absltest, parameterized
import numpy as np
import pytest
import real_processes

from lamd_jax.data import media
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.training import checkpoint, examples, processes
from lamd_jax.types import UserError

STEPS = 8


class ArgumentsTest(parameterized.TestCase):
  @parameterized.parameters(
    (("a:1", None, 0), "--num_processes is missing"),
    ((None, 2, None), "--coordinator is missing"),
    (("a:1", 2, None), "--process_id is missing"),
    (("a", 2, 0), "--coordinator=a: expected host:port"),
    ((":8476", 2, 0), "--coordinator=:8476: expected host:port"),
    (("a:70000", 2, 0), "--coordinator=a:70000: expected host:port"),
    (("a:1", 2, 2), "--process_id=2 with --num_processes=2: expected 0 to 1"),
    (("a:1", 2, -1), "--process_id=-1 .* expected 0 to 1"),
    (("a:1", 0, 0), "--num_processes=0: expected at least 1"),
  )
  def test_what_names_no_process_is_said(self, arguments, message):
    with self.assertRaisesRegex(UserError, rf"\A{message}"):
      processes.join(*arguments)

  def test_a_timeout_is_at_least_a_second(self):
    with self.assertRaisesRegex(UserError, "--init_timeout=0: expected at least 1"):
      processes.join("a:1", 2, 0, timeout=0)


class PeerLostTest(absltest.TestCase):
  def chained(self, error):
    try:
      try:
        raise error
      except Exception as e:
        raise RuntimeError("while saving") from e
    except RuntimeError as e:
      return e

  def test_a_broken_collective_is_told_from_an_error_of_ones_own(self):
    lost = ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer")
    unhealthy = RuntimeError("UNAVAILABLE: The following tasks are unhealthy")
    for error in (lost, unhealthy):
      self.assertTrue(processes.is_peer_lost(error))
      self.assertTrue(processes.is_peer_lost(self.chained(error)))
      self.assertTrue(
        processes.is_peer_lost(ExceptionGroup("two", [KeyError(), error]))
      )
    own = ValueError("the step is not finite")
    self.assertFalse(processes.is_peer_lost(self.chained(own)))
    # A mistake of the user is reported as it is.
    self.assertFalse(processes.is_peer_lost(UserError("--coordinator: gloo")))


class AloneTest(absltest.TestCase):
  def test_one_process_is_the_first_and_waits_for_none(self):
    self.assertFalse(processes.are_several())
    self.assertTrue(processes.is_first())
    processes.wait_for_all("nothing")
    for value in (True, False):
      self.assertIs(processes.as_first_sees(value), value)

  @pytest.mark.process
  def test_a_coordinator_that_does_not_answer_is_named_with_the_seconds(self):
    code = (
      "from lamd_jax.training import processes\n"
      "processes.join('127.0.0.1:9', 2, 1, timeout=1)"
    )
    begin = time.monotonic()
    done = subprocess.run(
      [sys.executable, "-c", code],
      cwd=real_processes.ROOT,
      capture_output=True,
      text=True,
      timeout=120,
    )
    self.assertLess(time.monotonic() - begin, 100)
    self.assertEqual(done.returncode, 2)
    *_, line = done.stderr.splitlines()
    self.assertRegex(line, r"\Aerror: --coordinator=127.0.0.1:9: .* within 1 s")


@pytest.mark.process
class TwoProcessesTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    temporary = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.whole, self.parts = temporary / "whole", temporary / "parts"

  def test_two_that_are_stopped_together_are_gone_on_from_by_one(self):
    whole = real_processes.start(self.whole, 1, steps=STEPS)
    launcher = real_processes.launch(self.parts, 2, steps=STEPS)
    real_processes.wait_for_update([launcher], self.parts, 2)
    # One receives the signal, both save.
    real_processes.children(launcher)[1].send_signal(signal.SIGTERM)
    statuses, _ = real_processes.wait([launcher], 300)
    log = real_processes.log(self.parts, 0).read_text()
    self.assertEqual(statuses, [128 + signal.SIGTERM], log)
    self.assertNotIn("launch/local.py:", log)  # All ended alike.
    folder = self.parts / real_processes.STAGE
    stopped = checkpoint.latest_step(folder / workdir_lib.CHECKPOINTS)
    assert stopped is not None
    self.assertBetween(stopped, 2, STEPS - 1)
    said = f"stage mcd_vae saved at step {stopped} of {STEPS}"
    self.assertEqual(log.count(said), 1)
    self.assertEqual(list(examples.read(folder)), [*range(1, stopped + 1)])
    self.assertLen(list(folder.glob("examples_*.jsonl")), 2)

    one = real_processes.start(self.parts, 1, steps=STEPS)
    self.assertEqual(real_processes.wait([*whole, *one], 300)[0], [0, 0])
    self.assertEqual(
      examples.read(folder), examples.read(self.whole / real_processes.STAGE)
    )
    ours, expected = map(real_processes.losses, (self.parts, self.whole))
    self.assertEqual(list(expected), [*range(1, STEPS + 1)])
    np.testing.assert_allclose(
      [ours[step] for step in expected], [*expected.values()], rtol=1e-5
    )

  def test_two_give_a_picture_the_motion_that_one_gives_it(self):
    clip = self.whole.with_name("clip.mp4")
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    media.write_mp4(clip, frames, 8.0)
    alone = real_processes.start(self.whole, 1, steps=1)
    self.assertEqual(real_processes.wait(alone, 300)[0], [0])
    made = self.whole / "transferred"
    files = []
    job = dict(steps=1, mode=["--mode=transfer", f"--motion={clip}", f"--video={clip}"])
    for begin in (
      lambda: [real_processes.launch(self.whole, 2, **job)],
      lambda: real_processes.start(self.whole, 1, **job),
    ):
      statuses, _ = real_processes.wait(begin(), 300)
      log = real_processes.log(self.whole, 0).read_text()
      self.assertEqual(statuses, [0], log)
      self.assertEqual(log.count(".mp4"), 2)  # Printed once: the video and the grid.
      files.append({path.name: path.read_bytes() for path in made.iterdir()})
      shutil.rmtree(made)
    self.assertLen(files[0], 5)  # Each as mp4 and gif, plus an image of all frames.
    self.assertEqual(*files)


if __name__ == "__main__":
  absltest.main()
