"""Ends a job at random moments, starts it again, and compares the outcome.

    JAX_PLATFORMS=cpu python tests/benchmarks/kill_and_resume.py --kills=20

Runs the whole job (training, samples, evaluation, report) once without interruption.
Then, in other folders, the same command is ended and started again until it is done:

SIGKILL, SIGTERM   at random moments
during a save      SIGKILL while a checkpoint is being written
during the rest    SIGKILL or SIGTERM while it samples, evaluates or writes the report
a full disk        the folder lies on a tmpfs that is grown only after the job has ended
                   by itself; needs root, is left out with a reason without

In a folder several ends follow each other, because later ones meet what earlier ones
left. Every array of the last checkpoints must be equal to the last bit: parameters,
averages and optimizer; so must the samples. A row for each end; status 1 unless all are
equal. All starts must see the same cores: on one in place of two, sums are added up in
another order, and rounded otherwise. By default the smallest configuration of the
tests, so that the job is mostly starting up; further arguments go to the job:

    python tests/benchmarks/kill_and_resume.py -- --config.mcd_vae.train.steps=40
"""

import argparse
import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = pathlib.Path(__file__).resolve().parents[2]
WRITING = "*/checkpoints/*orbax-checkpoint-tmp*"
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
PER_FOLDER = 5  # Ends in one folder, before it may be done.


class Row(NamedTuple):
  """One end of a job, and where the next start went on."""

  folder: int
  how: str
  after: str
  doing: str
  resumed: str


class Job:
  """The command line in a process of its own; its log goes outside what may be full."""

  def __init__(self, arguments, workdir, config):
    self.log = workdir.parent.with_suffix(".log")
    self.begin = self.log.stat().st_size if self.log.exists() else 0
    command = [sys.executable, "-m", "lamd_jax.main", f"--config={config}"]
    command += [f"--workdir={workdir}", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with self.log.open("a") as log:
      self.process = subprocess.Popen(
        command, cwd=ROOT, stdout=log, stderr=log, env=environment
      )
    self.started = time.monotonic()

  def text(self):
    """Returns the log of this start so far."""
    with self.log.open() as log:
      log.seek(self.begin)
      return log.read()

  def is_running(self):
    return self.process.poll() is None

  def end(self, number):
    """Sends a signal, waits, and returns after how long it was sent."""
    after = f"{time.monotonic() - self.started:.1f} s"
    self.process.send_signal(number)
    self.process.wait()
    return after


def steps_of(workdir):
  """The finished steps of each stage, by name."""
  found: dict[str, int] = {}
  for path in workdir.glob("*/checkpoints/*"):
    if path.name.isdigit():
      stage = path.parents[1].name
      found[stage] = max(found.get(stage, 0), int(path.name))
  return found


def writing(workdir):
  """The temporary folders of checkpoints, each with a number of its own."""
  found = {}
  for path in workdir.glob(WRITING):
    with contextlib.suppress(FileNotFoundError):  # Finished in between.
      found[path.stat().st_ctime_ns] = str(path.relative_to(workdir))
  return found


def doing(job, workdir, leftovers, stages):
  """Returns the phase of a job, from its log and new files in its folder."""
  new = [v for k, v in writing(workdir).items() if k not in leftovers]
  if new:
    return f"saving {max(new)}"
  text = job.text()
  for words, what in (
    ("report:", "ending"),
    (" = ", "writing figures and report"),
    ("wrote ", "evaluating"),
    ("samples are already there", "evaluating"),
  ):
    if words in text:
      return what
  steps = steps_of(workdir)
  if "work folder" not in text:
    return "starting"
  if has_trained(workdir, stages):
    return "sampling"
  return f"training, saved {steps}" if steps else "training"


def has_trained(workdir, stages):
  """Whether every stage has its last checkpoint."""
  found = steps_of(workdir)
  return all(found.get(name, 0) >= last for name, last in stages.items())


def wait_for(job, condition):
  """Waits until something holds; False if the job ended first."""
  while job.is_running():
    if condition():
      return True
    time.sleep(0.002)
  return False


def end_once(how, job, workdir, leftovers, rng, duration, stages):
  """Ends a job in one of the ways; (after, doing), or None if it was done first."""
  new = lambda: [k for k in writing(workdir) if k not in leftovers]
  seconds = rng.uniform(0.25, 1.0) * duration
  number = signal.SIGTERM if "SIGTERM" in how else signal.SIGKILL
  if "save" in how:
    nth, seen = rng.randint(1, 3), set()
    reached = wait_for(job, lambda: seen.update(new()) or (len(seen) >= nth and new()))
  elif "sampling" in how:  # Or evaluation, or the report: whatever comes after.
    reached = wait_for(job, lambda: has_trained(workdir, stages))
    pause = rng.uniform(0.0, 0.25) * duration
    reached = reached and not wait_for_end(job, pause)
  else:
    reached = wait_for(job, lambda: time.monotonic() - job.started >= seconds)
  if not reached:
    return None
  what = doing(job, workdir, leftovers, stages)
  return job.end(number), what


def wait_for_end(job, seconds):
  """Waits at most so long; True if the job ended."""
  with contextlib.suppress(subprocess.TimeoutExpired):
    job.process.wait(seconds)
  return not job.is_running()


@contextlib.contextmanager
def small_disk(folder, step):
  """A tmpfs of so many bytes; yields a function that makes it larger by as many.

  None where it cannot be.
  """
  folder.mkdir(parents=True)
  size = step
  mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
  done = subprocess.run(mount, capture_output=True, text=True)
  if done.returncode:
    print(f"no full disk: {done.stderr.strip() or 'mount failed'}")
    yield None
    return

  def grow():
    nonlocal size
    size += step
    options = f"remount,size={size}"
    subprocess.run(["mount", "-o", options, str(folder)], check=True)
    return size

  try:
    yield grow
  finally:
    subprocess.run(["umount", str(folder)], check=True)


def arrays_of(workdir, stage):
  """Every array of the last checkpoint of a stage, by name."""
  path = workdir / stage / "checkpoints" / str(steps_of(workdir)[stage]) / "state"
  with ocp.StandardCheckpointer() as checkpointer:
    state = checkpointer.restore(path.absolute())
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return {jax.tree_util.keystr(p): np.asarray(x).tobytes() for p, x in leaves}


def samples_of(workdir):
  """The arrays of the clips, without what tells of time."""
  with np.load(workdir / "samples/clips.npz", allow_pickle=False) as file:
    return {name: file[name].tobytes() for name in file.files if name != "seconds"}


def are_equal(whole, workdir):
  """Whether all arrays are, to the last bit; prints those that are not."""
  pairs = [(s, arrays_of(whole, s), arrays_of(workdir, s)) for s in steps_of(whole)]
  pairs.append(("samples", samples_of(whole), samples_of(workdir)))
  different = [
    f"{what} {name}"
    for what, a, b in pairs
    for name in a.keys() | b.keys()
    if a.get(name) != b.get(name)
  ]
  for name in different:
    print(f"  differs in {workdir.name}: {name}")
  return not different


def go_on(line, job):
  """Returns where a stage resumed, from the log."""
  said = [x.strip() for x in job.text().splitlines() if line in x]
  return "; ".join(said) or "from the start, or with what was done"


def run_folder(number, ways, args, workdir, rng, duration, stages, grow=None):
  """Ends a job in one folder in these ways, until it is done; returns rows."""
  rows, pending = [], list(ways)
  for _ in range(10 * len(ways) + 10):
    leftovers = writing(workdir)
    job = Job(args.arguments, workdir, args.config)
    how = pending[0] if pending else ""
    if how and how != "full disk":
      ended = end_once(how, job, workdir, leftovers, rng, duration, stages)
    else:
      ended = None
    status = job.process.wait()
    if rows and not rows[-1].resumed:
      rows[-1] = rows[-1]._replace(resumed=go_on("goes on at step", job))
    if ended is not None:
      rows.append(Row(number, how, *ended, ""))
      pending.pop(0)
    elif status == 0:
      break
    elif "the disk is full" in job.text() and grow:
      after = f"{time.monotonic() - job.started:.1f} s"
      rows.append(Row(number, "full disk", after, f"disk now {grow() >> 10} KiB", ""))
      pending = pending[1:]
    else:
      raise RuntimeError(f"{job.log} says why this start failed:\n{job.text()[-3000:]}")
  else:
    raise RuntimeError(f"{workdir} is never done")
  return rows


def main():
  """Runs all; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--config", default=str(ROOT / "tests/tiny/tiny_config.py"))
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("arguments", nargs="*")
  args = parser.parse_args()
  rng = random.Random(args.seed)
  kinds = ["SIGKILL", "SIGTERM", "SIGKILL in a save", "SIGKILL while sampling or after"]
  kinds += ["SIGTERM while sampling or after"]
  with tempfile.TemporaryDirectory() as temporary:
    root = pathlib.Path(temporary)
    # Compiled once, and quickly, as in the tests: what counts is that runs are equal.
    os.environ.setdefault("XLA_FLAGS", QUICK)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    whole, again = root / "whole/run", root / "again/run"
    for run in (whole, again):  # The second one has the compiled programs.
      run.parent.mkdir()
      begin = time.monotonic()
      job = Job(args.arguments, run, args.config)
      if job.process.wait():
        print(job.text())
        return 1
      duration = time.monotonic() - begin
    stages = steps_of(whole)
    size = sum(x.stat().st_size for x in whole.rglob("*") if x.is_file())
    print(f"uninterrupted: {duration:.0f} s, {size >> 10} KiB, {stages}", flush=True)
    all_equal = are_equal(whole, again)
    print("| # | folder | how | sent after | doing | next start | equal |")
    print("|---|---|---|---|---|---|---|")
    count = number = 0
    while count < args.kills:
      number += 1
      left = min(PER_FOLDER, args.kills - count)
      with contextlib.ExitStack() as stack:
        grow, workdir = None, root / f"killed_{number}" / "run"
        workdir.parent.mkdir()
        ways = [kinds[(count + i) % len(kinds)] for i in range(left)]
        # They happen one after the other: what is only done at the end comes last.
        ways.sort(key=lambda way: "sampling" in way)
        if number == 2:
          # Full so often, and a last time not, whatever a file takes beyond its bytes.
          disk = stack.enter_context(small_disk(root / "disk", size // (left + 1)))
          if grow := disk:
            workdir, ways = root / "disk" / "run", ["full disk"] * left
        rows = run_folder(number, ways, args, workdir, rng, duration, stages, grow)
        equal = are_equal(whole, workdir)
      all_equal &= equal
      for row in rows:
        count += 1
        cells = [count, *row, "yes" if equal else "NO"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
      if not rows:  # Over before it could be ended: the first runs were slower.
        duration *= 0.7
      if duration < 1.0:
        print("jobs are over before they can be ended; give them more steps")
        return 1
  print(f"{count} ends;", "all equal to the last bit" if all_equal else "NOT equal")
  return int(not all_equal)


if __name__ == "__main__":
  sys.exit(main())
