"""Real training processes on this machine, with and without the launcher."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "tiny"
CONFIG = TINY / "one_stage_config.py"
STAGE = "mcd_vae"


def start(folder, number, *, steps, mode=("--mode=train",)):
  """Starts the processes of one job; each writes a log next to the folder."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    address = f"--coordinator=127.0.0.1:{probe.getsockname()[1]}"
  command = [sys.executable, "-u", "-m", "lamd_jax.main"]
  command += _arguments(folder, steps, mode)
  several = [address, f"--num_processes={number}"] if number > 1 else []
  return [
    _open(folder, i, [*command, *several, *([f"--process_id={i}"] if several else [])])
    for i in range(number)
  ]


def launch(folder, number, *, steps, mode=("--mode=train",)):
  """Starts the launcher for several processes; all output goes to the first log."""
  command = [sys.executable, str(ROOT / "launch" / "local.py"), f"--processes={number}"]
  return _open(folder, 0, [*command, *_arguments(folder, steps, mode)])


def children(launcher):
  """Returns the processes that a launcher has started, in order."""
  path = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
  return [Child(int(pid)) for pid in path.read_text().split()]


class Child(NamedTuple):
  """A process that can be sent signals."""

  pid: int

  def send_signal(self, number):
    os.kill(self.pid, number)


def _arguments(folder, steps, mode):
  return [*mode, f"--config={CONFIG}:steps={steps}", f"--workdir={folder}"]


def _open(folder, number, command):
  with log(folder, number).open("w") as file:
    return subprocess.Popen(command, env=environment(), stdout=file, stderr=file)


def environment():
  """Returns the environment of a process with one CPU device and fast compilation."""
  return os.environ | {
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, TINY))),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true",
  }


def log(folder, number):
  """Returns the path of a process's log."""
  return folder.with_name(f"{folder.name}_{number}.log")


def wait(processes, seconds):
  """Returns exit statuses and seconds until each end; kills processes that overrun."""
  begin, ends = time.monotonic(), {}
  while len(ends) < len(processes) and time.monotonic() - begin < seconds:
    for i, process in enumerate(processes):
      if i not in ends and process.poll() is not None:
        ends[i] = time.monotonic() - begin
    time.sleep(0.01)
  for process in processes:
    process.kill()
  return [p.wait() for p in processes], [ends.get(i) for i in range(len(processes))]


def wait_for_update(processes, folder, step, seconds=1200):
  """Waits until the first process has recorded the examples of an update."""
  path, begin = folder / STAGE / "examples_0.jsonl", time.monotonic()
  while time.monotonic() - begin < seconds:
    if path.exists() and f'"step": {step},' in path.read_text():
      return
    if any(p.poll() is not None for p in processes):
      break
    time.sleep(0.01)
  for process in processes:
    process.kill()
  raise AssertionError(f"no update {step}: {log(folder, 0).read_text()[-2000:]}")


def losses(folder):
  """Returns the loss of each update; the last one where an update was repeated."""
  lines = (folder / STAGE / "scalars.jsonl").read_text().splitlines()
  return {line["step"]: line["loss"] for line in map(json.loads, lines)}
