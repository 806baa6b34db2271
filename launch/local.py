#!/usr/bin/env python3
"""Runs one training as several processes on this machine.

    python launch/local.py --processes=2 --config=configs/quickstart.py

Only --processes is required; all other arguments are passed on to lamd_jax.main. Each
process gets --devices_per_process devices (default 1): GPUs of this machine in order,
or that many simulated CPU devices. The output of process 0 appears unchanged, that of
the others is prefixed with their number. Ctrl-C and SIGTERM make all processes save and
stop; a second Ctrl-C kills them. When one dies, the others are stopped too, and the
last line says which one died and how.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time

LAST_WORDS_SECONDS = 10  # Time for the others to end after one has died.


def start(number, port, args, rest):
  """Starts one process, whose output appears here."""
  first = number * args.devices_per_process
  devices = map(str, range(first, first + args.devices_per_process))
  command = [sys.executable, "-u", "-m", "lamd_jax.main", *rest]
  command += [f"--coordinator=127.0.0.1:{port}"]
  command += [f"--num_processes={args.processes}", f"--process_id={number}"]
  environment = os.environ | {
    "JAX_NUM_CPU_DEVICES": str(args.devices_per_process),
    "JAX_LOCAL_DEVICE_IDS": ",".join(devices),  # GPUs; CPU devices are not shared.
  }
  output = None if number == 0 else subprocess.PIPE
  process = subprocess.Popen(
    command,
    env=environment,
    stdin=subprocess.DEVNULL,
    stdout=output,
    stderr=output,
    # A Ctrl-C in the terminal reaches only this process, which passes it on.
    start_new_session=True,
  )
  pairs = ((process.stdout, sys.stdout.buffer), (process.stderr, sys.stderr.buffer))
  threads = [
    threading.Thread(target=copy, args=(source, to, b"[%d] " % number))
    for source, to in pairs
    if source
  ]
  for thread in threads:
    thread.start()
  return process, threads


def copy(source, to, prefix):
  """Prints the lines of a stream, each with a prefix."""
  for line in source:
    to.write(prefix + line.rstrip(b"\n") + b"\n")
    to.flush()


def wait(processes):
  """Waits until all have ended; kills those still running some time after a failure.

  Returns:
    The processes' numbers in the order in which they ended, and whether any was killed.
  """
  ended, deadline, is_killed = [], float("inf"), False
  while len(ended) < len(processes):
    for number, process in enumerate(processes):
      if number not in ended and process.poll() is not None:
        ended.append(number)
        if process.returncode:
          deadline = min(deadline, time.monotonic() + LAST_WORDS_SECONDS)
    if time.monotonic() > deadline and len(ended) < len(processes):
      is_killed = True
      send(processes, signal.SIGKILL)
    time.sleep(0.05)
  return ended, is_killed


def send(processes, number):
  """Sends a signal to all processes that are still running."""
  for process in processes:
    if process.poll() is None:
      process.send_signal(number)


def said(status):
  """Returns an exit status in words."""
  return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def main():
  """Runs the processes; returns the exit status of the first that failed."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--processes", type=int, required=True)
  parser.add_argument("--devices_per_process", type=int, default=1)
  args, rest = parser.parse_known_args()
  if min(args.processes, args.devices_per_process) < 1:
    parser.error("--processes and --devices_per_process: expected at least 1")
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  started = [start(i, port, args, rest) for i in range(args.processes)]
  processes = [process for process, _ in started]
  asked = []

  def handle(number, frame):
    del frame
    again = number == signal.SIGINT and number in asked
    asked.append(number)
    send(processes, signal.SIGKILL if again else signal.SIGTERM)

  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, handle)
  ended, is_killed = wait(processes)
  for _, threads in started:
    for thread in threads:
      thread.join()
  failed = [i for i in ended if processes[i].returncode]
  if not failed:
    return 0
  status = processes[failed[0]].returncode
  if is_killed or {process.returncode for process in processes} != {status}:
    print(
      f"launch/local.py: process {failed[0]} of {args.processes} ended with"
      f" {said(status)}, the others were stopped; the same command resumes from the"
      " last checkpoint",
      file=sys.stderr,
    )
  return 128 - status if status < 0 else status


if __name__ == "__main__":
  sys.exit(main())
