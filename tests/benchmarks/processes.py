"""Trains with one, two and four real processes, kills some, and compares.

    PYTHONPATH=. python tests/benchmarks/processes.py

Prints three tables: the largest relative difference of the loss curve from that of
one process; how long it takes the others to notice that one was killed, and what they
say; and whether a training that is stopped and gone on from by another number of
processes (2, 1, 4) sees the same examples in the same order. Exits with status 1 if
anything is not as it should be.
"""

import argparse
import pathlib
import signal
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "helpers"))
import real_processes

from lamd_jax.training import examples

TOLERANCE = 1e-5
BOUND = 60  # Seconds in which a death must be noticed.


def train(folder, number, steps, stop_at=None):
  """Trains to the end, or until SIGTERM at an update; raises if that goes wrong."""
  processes = real_processes.start(folder, number, steps=steps)
  if stop_at is not None:
    real_processes.wait_for_update(processes, folder, stop_at)
    processes[-1].send_signal(signal.SIGTERM)
  statuses, _ = real_processes.wait(processes, 1800)
  expected = 0 if stop_at is None else 128 + signal.SIGTERM
  if statuses != [expected] * number:
    raise RuntimeError(
      f"{number} processes ended with {statuses}:"
      f" {real_processes.log(folder, 0).read_text()[-2000:]}"
    )


def kill(folder, number, victim, at):
  """Kills one of several; returns for each other its status, seconds and last line."""
  processes = real_processes.start(folder, number, steps=10**6)
  real_processes.wait_for_update(processes, folder, at)
  processes[victim].kill()
  statuses, seconds = real_processes.wait(processes, 2 * BOUND)
  found = []
  for i in range(number):
    if i != victim:
      lines = real_processes.log(folder, i).read_text().splitlines()
      said = [x for x in lines if x.startswith("error:") or "Terminating process" in x]
      found.append((i, statuses[i], seconds[i], (said or ["nothing"])[0][:60]))
  return found


def main():
  """Runs all; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--steps", type=int, default=20)
  args = parser.parse_args()
  is_good = True
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    print("| processes | updates | largest difference of the loss | same examples |")
    print("|---|---|---|---|")
    for number in (1, 2, 4):
      train(folder / str(number), number, args.steps)
      ours, expected = (
        real_processes.losses(folder / name) for name in (str(number), "1")
      )
      difference = max(abs(ours[i] / expected[i] - 1) for i in range(1, args.steps + 1))
      seen, order = (
        examples.read(folder / name / real_processes.STAGE)
        for name in (str(number), "1")
      )
      print(
        f"| {number} | {len(ours)} | {difference:.1e} | {seen == order} |", flush=True
      )
      is_good &= difference < TOLERANCE and seen == order

    print("| stopped by SIGTERM at | gone on by | same examples | largest difference |")
    print("|---|---|---|---|")
    mixed = folder / "mixed"
    third = args.steps // 3
    train(mixed, 2, args.steps, stop_at=third)
    stops = [max(examples.read(mixed / real_processes.STAGE))]
    train(mixed, 1, args.steps, stop_at=max(2 * third, stops[0] + 1))
    stops.append(max(examples.read(mixed / real_processes.STAGE)))
    train(mixed, 4, args.steps)
    seen, order = (
      examples.read(path / real_processes.STAGE) for path in (mixed, folder / "1")
    )
    ours, expected = map(real_processes.losses, (mixed, folder / "1"))
    difference = max(abs(ours[i] / expected[i] - 1) for i in range(1, args.steps + 1))
    print(f"| {stops} | 2, 1, 4 | {seen == order} | {difference:.1e} |", flush=True)
    is_good &= seen == order and difference < TOLERANCE

    print("| processes | killed | other | status | seconds | says |")
    print("|---|---|---|---|---|---|")
    for number, victim, at in ((2, 1, 3), (2, 0, 4), (4, 2, 5)):
      path = folder / f"killed_{number}_{victim}"
      for i, status, seconds, said in kill(path, number, victim, at):
        shown = "never" if seconds is None else f"{seconds:.1f}"
        print(
          f"| {number} | {victim} | {i} | {status} | {shown} | {said} |", flush=True
        )
        is_good &= seconds is not None and seconds < BOUND and status != 0
  print("all as it should be" if is_good else "NOT as it should be")
  return int(not is_good)


if __name__ == "__main__":
  sys.exit(main())
