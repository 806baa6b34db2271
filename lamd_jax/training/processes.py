"""Several processes in one run: joining, waiting for each other, noticing a death.

Each process has some of the devices, and together they form one mesh.
`jax.distributed` connects them: process 0 is the coordinator, and the others know its
address. On CPUs, collectives between processes use Gloo, JAX's default.

A process that dies is noticed immediately by those that wait for its data, if the
transport reports it (Gloo does), and within `HEARTBEAT_SECONDS` by all others. JAX then
ends those itself, with status 134 and a message of its own.
"""

import os
import sys
import threading
import time
from typing import NoReturn

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

from lamd_jax.types import UserError, causes

# Hosts of a cold pod pull images and install packages, some minutes after others.
INIT_SECONDS = 1800
HEARTBEAT_SECONDS = 30
# In the end all wait for the first process, which may evaluate alone for hours. A
# process that dies meanwhile is noticed by its missing heartbeat.
SHUTDOWN_SECONDS = 7 * 24 * 3600
# Time for others to leave for the same reason before the coordinator is gone.
GRACE_SECONDS = 2
# Status of a process that JAX's own watchdog ends: SIGABRT, as a shell reports it.
# Cluster tools take it for a machine failure and restart the run.
LOST = 134
# Parts of the messages of collectives, barriers and the coordinator about lost peers.
LOST_WORDS = (
  "gloo",
  "connection reset by peer",
  "connection closed by peer",
  "coordination service",
  "coordinationservice",
  "heartbeat",
  "tasks are unhealthy",
  "nccl",
  "socket closed",
)


def join(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  timeout: int = INIT_SECONDS,
) -> None:
  """Joins the other processes of a run; returns once all have joined.

  Without arguments the processes are detected from the environment: a TPU pod, Slurm,
  Open MPI, or Kubernetes with the package `kubernetes`. If not all processes join in
  time, this one ends with a one-line message.

  Args:
    coordinator: Address of process 0, as `host:port`.
    num_processes: Number of processes in the run.
    process_id: Index of this process, from 0.
    timeout: Seconds to wait for the others.

  Raises:
    UserError: The arguments do not identify a process, the environment does not tell,
      or the port is in use.
  """
  if coordinator is not None or num_processes is not None or process_id is not None:
    coordinator = _checked(coordinator, num_processes, process_id)
  if timeout < 1:
    raise UserError(f"--init_timeout={timeout}: expected at least 1 second")
  name = f"--coordinator={coordinator}" if coordinator else "--distributed"
  if coordinator:
    logging.info(
      "process %d of %d, waiting up to %d s for the others at %s",
      *(process_id, num_processes, timeout, coordinator),
    )

  def give_up():
    _say(
      f"error: {name}: not all processes of this run joined within"
      f" {timeout} s (--init_timeout); start all of them, and check that they can reach"
      f" {coordinator or 'each other'}"
    )
    os._exit(2)  # The main thread is blocked in JAX.

  # By itself, JAX would abort here with a stack trace.
  timer = threading.Timer(timeout, give_up)
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(
      coordinator,
      num_processes,
      process_id,
      # Explicit arguments are not mixed with detected values.
      cluster_detection_method="deactivate" if coordinator else None,
      initialization_timeout=timeout + 60,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
  except ValueError as e:
    raise UserError(
      "--distributed found no TPU pod, Slurm, Open MPI or Kubernetes job around it"
      f" ({e}); omit the flag to train with this process alone, or give --coordinator,"
      " --num_processes and --process_id"
    ) from e
  except RuntimeError as e:
    if "RPC server" not in str(e):
      raise
    raise UserError(
      f"{name}: the port is in use on this machine; choose another for all processes"
    ) from e
  finally:
    timer.cancel()
  if jax.process_index() > 0:
    logging.set_verbosity(logging.WARNING)  # The first process logs for all.


def are_several() -> bool:
  """Returns whether this process has joined others; initializes no device."""
  return jax.distributed.is_initialized()


def is_first() -> bool:
  """Returns whether this is the process that writes files and prints."""
  return jax.process_index() == 0


def wait_for_all(name: str) -> None:
  """Waits until all processes get here, for example for files the first one writes."""
  multihost_utils.sync_global_devices(f"lamd_jax:{name}")


def as_first_sees(value: bool) -> bool:
  """Returns the first process's value in all processes, so that they act alike.

  Network file systems show a file to some machines earlier than to others.
  """
  return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def is_peer_lost(error: BaseException) -> bool:
  """Returns whether an error, or one of its causes, says that a process is gone."""
  return any(
    not isinstance(e, UserError) and any(x in str(e).lower() for x in LOST_WORDS)
    for e in causes(error)
  )


def leave(status: int) -> NoReturn:
  """Ends this process at once; a clean exit would wait for peers that may be gone."""
  if jax.distributed.is_initialized() and jax.process_index() == 0:
    time.sleep(GRACE_SECONDS)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def _checked(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> str:
  """Returns the address; raises a `UserError` if the values identify no process."""
  for name, value in (
    ("coordinator", coordinator),
    ("num_processes", num_processes),
    ("process_id", process_id),
  ):
    if value is None:
      raise UserError(
        f"--{name} is missing: several processes need --coordinator=host:port,"
        " --num_processes and --process_id, or --distributed alone"
      )
  assert coordinator is not None
  assert num_processes is not None
  assert process_id is not None
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise UserError(
      f"--coordinator={coordinator}: expected host:port, the address of process 0,"
      " for example 10.0.0.1:8476"
    )
  if num_processes < 1 or not 0 <= process_id < num_processes:
    raise UserError(
      f"--process_id={process_id} with --num_processes={num_processes}: expected 0 to"
      f" {num_processes - 1}, each once"
      if num_processes > 0
      else f"--num_processes={num_processes}: expected at least 1"
    )
  return coordinator


def _say(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
