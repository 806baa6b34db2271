"""Signals that become a flag."""

import os
import signal
import threading
from unittest import mock

from absl.testing import absltest, parameterized
import jax
from jax.experimental import multihost_utils

from lamd_jax.training import preemption


def send(number):
  # Sent to this thread: of a whole process, another thread may get it, later.
  signal.raise_signal(number)


class PreemptionTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    # Background jobs of a shell start with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    self.addCleanup(signal.signal, signal.SIGINT, before)

  @parameterized.parameters(signal.SIGTERM, signal.SIGINT)
  def test_a_signal_sets_the_flag_and_nothing_else(self, number):
    with preemption.stop_on_signals() as stop:
      self.assertFalse(stop)
      self.assertFalse(stop.after_update())
      send(number)
      self.assertTrue(stop)
      self.assertTrue(stop.after_update())
      self.assertEqual(stop.signal_name, number.name)

  def test_a_second_interrupt_leaves_at_once(self):
    with preemption.stop_on_signals() as stop:
      send(signal.SIGINT)
      with self.assertRaises(KeyboardInterrupt):
        send(signal.SIGINT)
      self.assertTrue(stop)

  def test_a_scheduler_may_repeat_itself(self):
    with preemption.stop_on_signals() as stop:
      for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        send(number)
      self.assertEqual(stop.signal_name, "SIGTERM")

  def test_what_was_there_before_is_put_back(self):
    caught = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    self.addCleanup(signal.signal, signal.SIGTERM, before)
    interrupt = signal.getsignal(signal.SIGINT)
    with (
      self.assertRaisesRegex(ValueError, "inside"),
      preemption.stop_on_signals(),
    ):
      send(signal.SIGINT)
      raise ValueError("inside")
    send(signal.SIGTERM)
    self.assertEqual(caught, [signal.SIGTERM])
    self.assertIs(signal.getsignal(signal.SIGINT), interrupt)

  def test_of_several_processes_the_service_says_after_which_update(self):
    counted, answers, sent = [], iter([False, True]), []

    def reached(number):
      counted.append(number)
      return next(answers)

    with (
      mock.patch.object(jax.distributed, "is_initialized", lambda: True),
      mock.patch.object(multihost_utils, "reached_preemption_sync_point", reached),
      mock.patch.object(os, "kill", lambda *args: sent.append(args)),
      preemption.stop_on_signals() as stop,
    ):
      before = signal.getsignal(signal.SIGTERM)  # Left to JAX's service.
      send(signal.SIGINT)  # Passed on to the service.
      self.assertEqual(sent, [(os.getpid(), signal.SIGTERM)])
      self.assertFalse(stop)
      self.assertFalse(stop.after_update())
      self.assertTrue(stop.after_update())
      self.assertEqual(stop.signal_name, "SIGTERM")
      with self.assertRaises(KeyboardInterrupt):
        send(signal.SIGINT)
    self.assertEqual(counted[1] - counted[0], 1)
    self.assertIs(signal.getsignal(signal.SIGTERM), before)

  def test_outside_the_main_thread_the_flag_stays_down(self):
    flags = []

    def work():
      with preemption.stop_on_signals() as stop:
        flags.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    self.assertEqual(flags, [False])


if __name__ == "__main__":
  absltest.main()
