"""Leaving cleanly: signals become a flag that the training loop looks at."""

from collections.abc import Iterator
import contextlib
import signal
import threading


class StopRequest:
  """True once the process has been asked to stop.

  Attributes:
    signal_name: "SIGTERM" or "SIGINT", of the first signal; empty before.
  """

  def __init__(self):
    self.signal_name = ""

  def __bool__(self) -> bool:
    return bool(self.signal_name)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """Yields a flag that SIGTERM and Ctrl-C set, in place of what they did before.

  A second Ctrl-C does what it would have done without this, that is, it leaves at
  once; further SIGTERMs change nothing, because schedulers send several. What was
  there before is put back at the end. Only the main thread of a program can
  receive signals: in any other, the flag stays False.

  The flag belongs to one process. Where several train together, the scheduler has
  to signal all of them.
  """
  stop = StopRequest()
  if threading.current_thread() is not threading.main_thread():
    yield stop
    return

  def handle(number, frame):
    del frame
    stop.signal_name = stop.signal_name or signal.Signals(number).name
    if number == signal.SIGINT:
      signal.signal(signal.SIGINT, previous[signal.SIGINT])

  numbers = (signal.SIGTERM, signal.SIGINT)
  # None stands for a handler that Python did not install and cannot put back.
  previous = {n: signal.getsignal(n) or signal.SIG_DFL for n in numbers}
  try:
    for number in numbers:
      signal.signal(number, handle)
    yield stop
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
