"""Calls a program with many broken inputs, each in a process of its own.

A case is right if the program accepts it or refuses it with one line. Any other
exception is a traceback, and a bug. So is a process that dies, runs for more than a
minute of processor time, waits for five minutes, or changes a file it was given.
"""

from collections import Counter
from collections.abc import Callable
import hashlib
import os
import pathlib
import resource
import signal
import tempfile
import time
import traceback
from typing import Any
import warnings

import numpy as np

from lamd_jax.types import UserError

CPU_SECONDS = 60
WALL_SECONDS = 300
MEMORY_BYTES = 8 << 30  # Of address space: an unbounded allocation fails in the child.

Make = Callable[[np.random.Generator, pathlib.Path], tuple[str, Any]]


def fuzz(
  name: str, make: Make, call: Callable[[Any], Any], *, count: int, seed: int = 0
) -> int:
  """Runs `count` cases, prints what came of them; returns the number of bugs.

  Args:
    name: Name of the kind of input, for the output.
    make: Function of a generator and an empty folder that writes a case there; returns
      its description and the argument of `call`. Case i depends on seed and i alone.
    call: The program under test. It raises `UserError` for what it refuses; it may
      write only where its argument says so, under a folder called "out".
    count: Number of cases.
    seed: Seed of all cases; case i is drawn from (seed, i).
  """
  outcomes, bugs, started = Counter(), [], time.monotonic()
  for index in range(count):
    with tempfile.TemporaryDirectory(prefix="lamd_jax_fuzz_") as folder:
      place = pathlib.Path(folder)
      what, argument = make(np.random.default_rng((seed, index)), place)
      before = digest(place)
      outcome, detail = run_apart(call, argument)
      if digest(place) != before:
        outcome, detail = "files changed", f"was {outcome}: {detail}"
    outcomes[outcome] += 1
    if outcome not in ("accepted", "refused"):
      bugs.append((index, what, outcome, detail))
      print(f"{name} {index}: {what}: {outcome}: {detail}", flush=True)
  seconds = time.monotonic() - started
  table = ", ".join(f"{number} {what}" for what, number in sorted(outcomes.items()))
  print(f"{name}: {count} cases in {seconds:.0f} s: {table or 'none'}", flush=True)
  return len(bugs)


def run_apart(call: Callable[[Any], Any], argument: Any) -> tuple[str, str]:
  """Calls a function in a forked process; returns the outcome and its detail."""
  reading, writing = os.pipe()
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Threads of libraries do not matter to the child.
    child = os.fork()
  if child == 0:
    os.close(reading)
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(WALL_SECONDS)
    silence()
    text = "\0".join(outcome_of(call, argument))
    os.write(writing, text.encode("utf-8", "backslashreplace")[:4000])
    os._exit(0)
  os.close(writing)
  with os.fdopen(reading, "rb") as pipe:
    text = pipe.read().decode()
  _, status = os.waitpid(child, 0)
  if os.WIFSIGNALED(status):
    number = os.WTERMSIG(status)
    hung = number in (signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM)
    return ("hang" if hung else "crash"), signal.Signals(number).name
  outcome, _, detail = text.partition("\0")
  return outcome or "crash", detail


def silence() -> None:
  """Sends the output of this process to nowhere; libraries in C print too."""
  nowhere = os.open(os.devnull, os.O_RDWR)
  for descriptor in (0, 1, 2):
    os.dup2(nowhere, descriptor)


def outcome_of(call: Callable[[Any], Any], argument: Any) -> tuple[str, str]:
  """Returns how a call ended: accepted, refused, or with which bug."""
  try:
    call(argument)
  except UserError as error:
    message = str(error)
    one_line = message.isprintable() and 0 < len(message) < 1500
    return ("refused" if one_line else "not one line"), message
  except SystemExit as error:
    return ("accepted" if not error.code else "refused"), str(error.code)
  except BaseException as error:
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{pathlib.Path(where.filename).name}:{where.lineno}"
    return "traceback", f"{type(error).__name__} at {place}: {str(error)[:300]}"
  return "accepted", ""


def digest(folder: pathlib.Path) -> str:
  """Returns a digest of all names and contents below a folder, "out" left aside."""
  total = hashlib.sha256()
  for root, folders, files in os.walk(os.fsencode(folder)):
    folders[:] = sorted(name for name in folders if name != b"out")
    for name in sorted(files):
      path = os.path.join(root, name)
      total.update(path)
      if os.path.isfile(path) and not os.path.islink(path):
        with open(path, "rb") as file:
          total.update(hashlib.file_digest(file, "sha256").digest())
  return total.hexdigest()
