"""Clean stops: signals become a flag that the training loop checks.

Any of several processes may be told to stop. JAX's preemption service catches its
SIGTERM and tells the others, and they agree on an update after which all of them save
and leave. A checkpoint that only one process had saved could not be resumed from.
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
  """Flag that is true once the process has been asked to stop.

  Attributes:
    signal_name: Name of the first signal, "SIGTERM" or "SIGINT"; empty before it. With
      several processes always "SIGTERM", set in all of them after the same update.
  """

  def __init__(self):
    self.signal_name = ""

  def after_update(self) -> bool:
    """Returns whether to save and leave now.

    All processes call it exactly once after each update.
    """
    # Updates are counted across stages, from the start of this process: the service
    # chooses the number that follows the largest it has seen.
    several = jax.distributed.is_initialized()
    if several and multihost_utils.reached_preemption_sync_point(next(_UPDATES)):
      self.signal_name = "SIGTERM"
    return bool(self)

  def __bool__(self) -> bool:
    return bool(self.signal_name)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """Yields a flag that SIGTERM and Ctrl-C set instead of ending the process.

  A second Ctrl-C acts as it would have without this, that is, it ends the process at
  once. Further SIGTERMs have no effect, because schedulers send several. The previous
  handlers are restored at the end. Only the main thread of a program can receive
  signals; in any other thread the flag stays False.

  With several processes, SIGTERM is left to JAX's service, and the first Ctrl-C is
  passed on to it.
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
  # None stands for a handler that Python did not install and cannot restore.
  previous = {n: signal.getsignal(n) or signal.SIG_DFL for n in numbers}
  try:
    for number in numbers:
      signal.signal(number, handle)
    yield stop
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


def stop_at_once_from_here() -> None:
  """Lets SIGTERM end this process again, after several processes have trained.

  JAX's service would hold the signal back for an update that never comes.
  """
  is_main = threading.current_thread() is threading.main_thread()
  if jax.distributed.is_initialized() and is_main:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
