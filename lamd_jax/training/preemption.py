"""Leaving cleanly: signals become a flag that the training loop looks at.

Of several processes, any may be told to leave. JAX's preemption service catches its
SIGTERM, tells the others, and they agree on an update after which all save and leave:
one that has saved alone would have nothing to go on from.
"""

from collections.abc import Iterator
import contextlib
import itertools
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

_UPDATES = itertools.count(1)


class StopRequest:
  """True once the process has been asked to stop.

  Attributes:
    signal_name: "SIGTERM" or "SIGINT", of the first signal; empty before. Of several
      processes "SIGTERM", in all of them after the same update.
  """

  def __init__(self):
    self.signal_name = ""

  def after_update(self) -> bool:
    """Whether to save and leave now; all processes ask once after each update."""
    # Counted over all stages, from the start of this process: the service chooses the
    # number that follows the largest one it has seen.
    several = jax.distributed.is_initialized()
    if several and multihost_utils.reached_preemption_sync_point(next(_UPDATES)):
      self.signal_name = "SIGTERM"
    return bool(self)

  def __bool__(self) -> bool:
    return bool(self.signal_name)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """Yields a flag that SIGTERM and Ctrl-C set, in place of what they did before.

  A second Ctrl-C does what it would have done without this, that is, it leaves at
  once; further SIGTERMs change nothing, because schedulers send several. What was
  there before is put back at the end. Only the main thread of a program can
  receive signals: in any other, the flag stays False.

  Of several processes SIGTERM stays with JAX's service, and the first Ctrl-C is
  handed to it.
  """
  stop = StopRequest()
  if threading.current_thread() is not threading.main_thread():
    yield stop
    return

  def handle(number, frame):
    del frame
    if jax.distributed.is_initialized():
      os.kill(os.getpid(), signal.SIGTERM)
    else:
      stop.signal_name = stop.signal_name or signal.Signals(number).name
    if number == signal.SIGINT:
      signal.signal(signal.SIGINT, previous[signal.SIGINT])

  numbers = (signal.SIGTERM, signal.SIGINT)
  if jax.distributed.is_initialized():
    numbers = (signal.SIGINT,)
  # None stands for a handler that Python did not install and cannot put back.
  previous = {n: signal.getsignal(n) or signal.SIG_DFL for n in numbers}
  try:
    for number in numbers:
      signal.signal(number, handle)
    yield stop
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


def stop_at_once_from_here() -> None:
  """Lets SIGTERM end this process, where several have trained and now do other things.

  JAX's service would hold it back for an update that no longer comes.
  """
  is_main = threading.current_thread() is threading.main_thread()
  if jax.distributed.is_initialized() and is_main:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
