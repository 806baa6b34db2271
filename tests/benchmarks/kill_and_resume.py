"""Kills training at random moments, starts it again, and compares the outcome.

    JAX_PLATFORMS=cpu python tests/benchmarks/kill_and_resume.py --kills=3

Trains once without interruption. Then trains again in another folder with the same
command, sends it SIGKILL at random moments (one of them while a checkpoint is being
written) and starts it anew, until it is done. Every array of the last checkpoints
must be equal to the last bit: parameters, averages and optimizer. Exits with status
1 if one is not. Further arguments go to the training:

    python tests/benchmarks/kill_and_resume.py -- --config.mcd_vae.train.steps=40
"""

import argparse
import contextlib
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = pathlib.Path(__file__).resolve().parents[2]
WRITING = "*/checkpoints/*orbax-checkpoint-tmp*"


def start(arguments, workdir, config):
  """Starts training in a process of its own; its log goes beside the folder."""
  command = [sys.executable, "-m", "lamd_jax.main", f"--config={config}"]
  command += ["--mode=train", f"--workdir={workdir}", *arguments]
  with workdir.with_suffix(".log").open("a") as log:
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def newest(workdir):
  """The newest finished step of each stage, by name."""
  steps: dict[str, int] = {}
  for path in workdir.glob("*/checkpoints/*"):
    if path.name.isdigit():
      stage = path.parents[1].name
      steps[stage] = max(steps.get(stage, 0), int(path.name))
  return steps


def writing(workdir):
  """The temporary folders of checkpoints, each with a number of its own."""
  found = {}
  for path in workdir.glob(WRITING):
    with contextlib.suppress(FileNotFoundError):  # Finished in between.
      found[path.stat().st_ctime_ns] = str(path.relative_to(workdir))
  return found


def watch(process, workdir, leftovers, *, seconds=None, saves=0):
  """Waits for a moment to kill: after so many seconds, or in the n-th save.

  Args:
    process: The training.
    workdir: Its folder.
    leftovers: `writing` of the time before it was started.
    seconds: To wait.
    saves: How many checkpoints to see being written, where `seconds` is None.

  Returns:
    What was just being written, "" if nothing; None if the training ended first.
  """
  begin, seen = time.monotonic(), set()
  while process.poll() is None:
    new = {k: v for k, v in writing(workdir).items() if k not in leftovers}
    seen |= set(new.values())
    if new and seconds is None and len(seen) >= saves:
      return max(new.values())
    if seconds is not None and time.monotonic() - begin >= seconds:
      return max(new.values(), default="")
    time.sleep(0.001)
  return None


def differences(a, b, stage):
  """Counts (arrays, arrays that differ) in the last checkpoints of a stage."""
  states = []
  for workdir in (a, b):
    path = workdir / stage / "checkpoints" / str(newest(workdir)[stage]) / "state"
    with ocp.StandardCheckpointer() as checkpointer:
      states.append(checkpointer.restore(path.absolute()))
  leaves = [jax.tree_util.tree_flatten_with_path(state)[0] for state in states]
  names = [[path for path, _ in pairs] for pairs in leaves]
  assert names[0] == names[1], "the checkpoints hold different arrays"
  different = [
    jax.tree_util.keystr(path)
    for (path, x), (_, y) in zip(*leaves, strict=True)
    if np.asarray(x).tobytes() != np.asarray(y).tobytes()
  ]
  for name in different:
    print(f"  differs: {stage} {name}")
  return len(names[0]), len(different)


def main():
  """Runs both trainings; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--config", default="configs/quickstart.py:smoke")
  parser.add_argument("--kills", type=int, default=3)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("arguments", nargs="*")
  args = parser.parse_args()
  rng = random.Random(args.seed)
  with tempfile.TemporaryDirectory() as temporary:
    whole, killed = (pathlib.Path(temporary) / name for name in ("whole", "killed"))
    begin = time.monotonic()
    if start(args.arguments, whole, args.config).wait():
      print(whole.with_suffix(".log").read_text())
      return 1
    duration = time.monotonic() - begin
    print(f"uninterrupted: {duration:.0f} s, {newest(whole)}")
    print("| start | killed after | while writing | newest whole checkpoints |")
    print("|---|---|---|---|")
    kills = 0
    for number in range(1, 20 * args.kills):
      leftovers = writing(killed)
      process = start(args.arguments, killed, args.config)
      begin, seen = time.monotonic(), None
      # The second one in the middle of a checkpoint, the others at any moment.
      if kills == 1:
        seen = watch(process, killed, leftovers, saves=rng.randint(1, 3))
      elif kills < args.kills:
        seconds = rng.uniform(0.3, 0.6) * duration
        seen = watch(process, killed, leftovers, seconds=seconds)
      if seen is None:
        status, after = process.wait(), "not killed"
        if status:
          print(killed.with_suffix(".log").read_text())
          return 1
      else:
        process.kill()
        process.wait()
        kills += 1
        after = f"{time.monotonic() - begin:.1f} s"
      print(f"| {number} | {after} | {seen or '-'} | {newest(killed)} |", flush=True)
      if seen is None:
        break
    print("| stage | arrays | different |\n|---|---|---|")
    different = 0
    for stage in newest(whole):
      counts = differences(whole, killed, stage)
      different += counts[1]
      print(f"| {stage} | {counts[0]} | {counts[1]} |")
  if kills < args.kills:
    print(f"only {kills} kills: the training was over before the others")
  print("equal to the last bit" if not different else "NOT equal")
  return int(bool(different) or kills < args.kills)


if __name__ == "__main__":
  sys.exit(main())
