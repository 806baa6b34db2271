"""Training logs, on disk and on the screen."""

import io
import json
import math
import os
import pathlib
import struct
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import jax.numpy as jnp
import numpy as np
from tensorboardX.proto import event_pb2

from lamd_jax.training import logging
from lamd_jax.types import UserError


class Terminal(io.StringIO):
  def isatty(self):
    return True


def read_events(folder):
  """Reads the records of event files: length, checksum, event, checksum."""
  events = []
  for path in sorted(folder.iterdir()):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
      data = data[16 + length :]
  return events


class LogTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    temporary = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(temporary) / "dmg"
    self.stream = io.StringIO()

  def log(self, **kwargs):
    kwargs = {"total_steps": 6, "log_every": 2, "stream": self.stream, **kwargs}
    return logging.Log(self.folder, **kwargs)

  def train(self, first, last, loss=lambda step: float(step), **kwargs):
    with self.log(start_step=first, **kwargs) as log:
      return [
        log.step(step, {"loss": jnp.array(loss(step)), "grad_norm": jnp.array(0.5)})
        for step in range(first + 1, last + 1)
      ]

  def losses(self):
    return {line["step"]: line["loss"] for line in logging.read_scalars(self.folder)}

  def test_a_line_is_the_mean_since_the_line_before(self):
    returned = self.train(0, 5, total_steps=5)
    self.assertEqual(self.losses(), {2: 1.5, 4: 3.5, 5: 5.0})
    self.assertEqual([x and x["loss"] for x in returned], [None, None, 1.5, None, 5.0])
    line = logging.read_scalars(self.folder / "scalars.jsonl")[0]
    pace = {"steps_per_second", "examples_per_second_per_device", "data_wait"}
    pace |= {"host_memory_gb", "compile_seconds"}
    self.assertEqual(set(line), {"step", "seconds", "loss", "grad_norm"} | pace)

  def test_vectors_are_kept_for_those_who_ask_and_not_recorded(self):
    with self.log() as log:
      for step in (1, 2):
        log.step(step, {"loss": jnp.array(1.0), "grad_norms": jnp.arange(3) * step})
        self.assertEmpty(log.window)
      log.step(3, {"loss": jnp.array(1.0), "grad_norms": jnp.arange(3)})
      self.assertEqual([number for number, _ in log.window], [1, 2])
      np.testing.assert_array_equal(log.window[1][1]["grad_norms"], [0, 2, 4])
    self.assertNotIn("grad_norms", logging.read_scalars(self.folder)[0])

  def test_the_pace_is_arithmetic_of_time_and_work(self):
    now = 100.0
    with (
      mock.patch.object(logging.time, "monotonic", lambda: now),
      mock.patch.object(logging.jax, "device_count", lambda: 8),
      self.log(total_steps=12, log_every=5, batch_size=24) as log,
    ):
      log.work(flops_per_step=6e9, peak_flops=2.5e10)  # Peak of each device.
      for step in range(1, 11):
        with log.waiting():
          now += 0.25  # Waiting for data.
        now += 20.0 if step == 1 else 0.75  # The first update compiles.
        log.step(step, {"loss": jnp.array(1.0)})
    first, second = logging.read_scalars(self.folder)
    self.assertEqual(first["compile_seconds"], 20.0)
    self.assertNotIn("compile_seconds", second)
    self.assertEqual(first["steps_per_second"], 1.0)  # The first update does not count.
    self.assertEqual(second["steps_per_second"], 1.0)
    self.assertEqual(second["data_wait"], 0.25)
    self.assertEqual(second["examples_per_second_per_device"], 3.0)  # 24 on 8.
    self.assertEqual(second["flops_per_second"], 6e9)
    self.assertAlmostEqual(second["mfu"], 0.03)
    lines = self.stream.getvalue().splitlines()
    remarks = "1 steps/s, 3% of the devices' peak, 25% waiting for data, 00:07 left"
    self.assertEndsWith(lines[0], remarks)

  @parameterized.parameters(True, False)
  def test_the_pace_is_that_of_who_is_slower(self, is_device_slower):
    now = 0.0
    device, host = (3.0, 1.0) if is_device_slower else (0.1, 2.0)

    class Metric(float):
      """A metric that is ready once its device has finished its steps in order."""

      def is_ready(self):
        return now >= self.done

      def __array__(self, *args, **kwargs):
        nonlocal now
        now = max(now, self.done)
        return np.array(0.5)

    with (
      mock.patch.object(logging.time, "monotonic", lambda: now),
      mock.patch.object(logging.jax, "Array", Metric),
      self.log(total_steps=100, log_every=5) as log,
    ):
      done = 0.0
      for step in range(1, 31):
        with log.waiting():
          now += host / 2
        now += host / 2
        metric = Metric()
        metric.done = done = max(now, done) + device
        # Every fifteenth step is waited for.
        log.step(step, {"loss": metric}, now=step % 15 == 0)
    lines = logging.read_scalars(self.folder)
    self.assertLen(lines, 6)
    slower = max(device, host)
    for line in lines:  # After a step that was waited for, the device is idle.
      self.assertAlmostEqual(line["steps_per_second"], 1 / slower, delta=0.07 / slower)
      self.assertAlmostEqual(line["data_wait"], host / 2 / slower, delta=0.05)

  def test_going_back_takes_the_place_of_what_came_after(self):
    with self.log(total_steps=8) as log:
      for step in (1, 2, 3, 4):
        log.step(step, {"loss": jnp.array(float(step))})
      log.rewind(2)
      for step in (3, 4, 5, 6):
        log.step(step, {"loss": jnp.array(-float(step))})
    self.assertEqual(self.losses(), {2: 1.5, 4: -3.5, 6: -5.5})
    starts = [
      e.step
      for e in read_events(self.folder / "tensorboard")
      if e.session_log.status == 1
    ]
    self.assertEqual(starts, [2])

  def test_the_host_asks_for_numbers_only_when_the_next_update_is_under_way(self):
    asked = []

    class Device(float):
      def __array__(self, *args, **kwargs):
        asked.append(int(self))
        return np.array(float(self))

    with self.log(total_steps=100, log_every=10) as log:
      for step in range(1, 11):
        self.assertIsNone(log.step(step, {"loss": Device(step)}))
      self.assertEmpty(asked)
      scalars = log.step(11, {"loss": Device(11)})
      # Nothing is known of the eleventh yet.
      self.assertEqual(sorted(set(asked)), list(range(1, 11)))
      assert scalars is not None
      self.assertEqual(scalars["loss"], 5.5)
      scalars = log.step(12, {"loss": Device(12)}, now=True)
      assert scalars is not None
      self.assertEqual(scalars["loss"], 11.5)
    self.assertEqual(self.losses(), {10: 5.5, 12: 11.5})

  def test_two_windows_can_end_at_once(self):
    with self.log(log_every=2) as log:
      for step in (1, 2):
        log.step(step, {"loss": jnp.array(float(step))})
      log.step(3, {"loss": jnp.array(3.0)}, now=True)
      self.assertEqual([number for number, _ in log.window], [1, 2, 3])
    self.assertEqual(self.losses(), {2: 1.5, 3: 3.0})

  def test_an_error_asks_the_devices_for_nothing(self):
    class Lost(float):
      def __array__(self, *args, **kwargs):
        raise AssertionError("asked")

    with self.assertRaisesRegex(ValueError, "first"), self.log() as log:
      for step in (1, 2):
        log.step(step, {"loss": Lost(step)})
      raise ValueError("first")

  def test_any_step_can_be_logged_now(self):
    with self.log() as log:
      scalars = log.step(1, {"loss": jnp.array(3.0)}, now=True)
      assert scalars is not None
      self.assertEqual((scalars["loss"], log.scalars["loss"]), (3.0, 3.0))
    self.assertEqual(self.losses(), {1: 3.0})

  def test_extra_figures_join_the_line_of_their_step(self):
    with self.log() as log:
      log.step(1, {"loss": jnp.array(3.0)}, now=True)
      log.extra(1, {"motion_ratio": 0.5})
      log.extra(1, {})
      log.step(2, {"loss": jnp.array(2.0)})
    first, second = logging.read_scalars(self.folder)
    self.assertEqual((first["step"], first["loss"], first["motion_ratio"]), (1, 3, 0.5))
    self.assertNotIn("motion_ratio", second)

  def test_one_bad_update_is_seen_and_the_file_stays_json(self):
    returned = self.train(0, 3, loss=lambda step: math.nan if step == 1 else 1.0)
    self.assertTrue(math.isnan(returned[2]["loss"]))
    text = (self.folder / "scalars.jsonl").read_text()
    refuse = lambda name: self.fail(f"{name} is not JSON")
    self.assertIsNone(json.loads(text, parse_constant=refuse)["loss"])
    self.assertTrue(math.isnan(self.losses()[2]))

  def test_a_resumed_run_takes_the_place_of_what_was_lost(self):
    self.train(0, 6, total_steps=8)
    self.train(2, 4, total_steps=8, loss=lambda step: -float(step))
    self.assertEqual(self.losses(), {2: 1.5, 4: -3.5})

  def test_a_line_cut_off_by_a_kill_is_left_out_also_after_a_resume(self):
    self.train(0, 4)
    path = self.folder / "scalars.jsonl"
    path.write_text(path.read_text()[:-25])
    self.assertEqual(self.losses(), {2: 1.5})
    self.train(2, 6)
    self.assertEqual(self.losses(), {2: 1.5, 4: 3.5, 6: 5.5})

  def test_a_missing_file_is_an_empty_record(self):
    self.assertEqual(logging.read_scalars(self.folder / "scalars.jsonl"), [])

  def test_lines_that_are_something_else_are_left_out(self):
    path = self.folder.with_name("scalars.jsonl")
    path.write_bytes(b'{"step": 1, "loss": 2}\n[1]\n\xff\xfe\n{"loss": 3}\n7\n\n')
    self.assertEqual(logging.read_scalars(path), [{"step": 1, "loss": 2}])

  def test_seconds_go_on_from_the_runs_before(self):
    self.train(0, 2, seconds=100.0)
    self.assertBetween(logging.read_scalars(self.folder)[0]["seconds"], 100.0, 110.0)

  def test_tensorboard_gets_scalars_pictures_and_the_step_of_a_resume(self):
    self.train(0, 2)
    image = np.zeros((4, 5, 3), np.uint8)
    with self.log(start_step=2) as log:
      log.image(2, "samples", image)
    events = read_events(self.folder / "tensorboard")
    values = [(e.step, value) for e in events for value in e.summary.value]
    scalars = {(step, v.tag): v.simple_value for step, v in values if not v.image.width}
    self.assertEqual(scalars[2, "loss"], 1.5)
    ((step, picture),) = [(step, v) for step, v in values if v.image.width]
    self.assertEqual((step, picture.tag), (2, "samples"))
    self.assertEqual((picture.image.height, picture.image.width), (4, 5))
    starts = [e.step for e in events if e.session_log.status == 1]
    self.assertEqual(starts, [2])

  def test_a_file_gets_whole_lines_now_and_then(self):
    self.train(0, 6, quiet_seconds=1000.0)
    lines = self.stream.getvalue().splitlines()
    self.assertLen(lines, 2)  # The first and the last logged step.
    self.assertRegex(lines[0], r"^dmg step 2/6, loss 1\.5, .* steps/s, \d\d:\d\d left$")
    self.assertStartsWith(lines[1], "dmg step 6/6, loss 5.5")

  def test_a_terminal_gets_a_bar_with_step_loss_rate_and_time(self):
    self.stream = Terminal()
    with self.log(total_steps=8, start_step=1) as log:
      for step in range(2, 9):
        log.step(step, {"loss": jnp.array(0.25)})
      log.message("a line between")
    shown = self.stream.getvalue().split("\r")[-1]
    self.assertRegex(
      shown, r"dmg: 100%.*8/8 \[.*<.*, +[\d.]+(step/s|s/step).*loss 0.25"
    )
    self.assertIn("a line between\n", self.stream.getvalue())

  @absltest.skipUnless(os.path.exists("/dev/full"), "no device that is always full")
  def test_a_full_disk_is_a_message(self):
    self.folder.mkdir()
    (self.folder / "scalars.jsonl").symlink_to("/dev/full")
    with self.assertRaisesRegex(UserError, f"disk is full.*{self.folder}"):
      self.train(0, 2)


if __name__ == "__main__":
  absltest.main()
