"""Starts trainings as real processes on this machine, without a launcher."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

TESTS = pathlib.Path(__file__).resolve().parent
ROOT = TESTS.parent
CONFIG = TESTS / "one_stage_config.py"
STAGE = "mcd_vae"


def start(folder, number, *, steps, more=()):
  """Starts so many processes of one training; each writes a log beside the folder."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  environment = os.environ | {
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, TESTS))),
    "JAX_PLATFORMS": "cpu",
    # One device each, compiled quickly.
    "XLA_FLAGS": "--xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true",
  }
  command = [sys.executable, "-u", "-m", "lamd_jax.main", "--mode=train"]
  command += [f"--config={CONFIG}:steps={steps}", f"--workdir={folder}", *more]
  processes = []
  for i in range(number):
    several = (f"--coordinator=127.0.0.1:{port}", f"--num_processes={number}")
    several = (*several, f"--process_id={i}") if number > 1 else ()
    with log(folder, i).open("w") as file:
      processes.append(
        subprocess.Popen(
          [*command, *several], env=environment, stdout=file, stderr=file
        )
      )
  return processes


def log(folder, number):
  """Where a process writes."""
  return folder.with_name(f"{folder.name}_{number}.log")


def wait(processes, seconds):
  """Exit statuses, and seconds from now to each end; kills what takes longer."""
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
  """Waits until the first process has given an update its examples."""
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
  """The loss of each update; of those made twice, the last."""
  lines = (folder / STAGE / "scalars.jsonl").read_text().splitlines()
  return {line["step"]: line["loss"] for line in map(json.loads, lines)}
