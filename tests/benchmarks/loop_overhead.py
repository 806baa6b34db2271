"""Overhead of logging, checkpoints and data per training step.

    JAX_PLATFORMS=cpu python tests/benchmarks/loop_overhead.py

Trains a stage of `configs/quickstart.py` by the job's own loop, in rounds of 50
updates, so that the loop and bare steps meet the same moods of a shared machine:

    20   with a checkpoint being written
    20   as most are, without one
    20   of the same compiled step on one batch, with nothing around it; extra
    10   untimed, so that the readers are again where they are in a training

Each 20 are timed until the last is done. What the host does while the device computes
hides behind it, as it does in a training; what it takes from the cores that compute
does not. Logged as often as configured. As in the quickstart itself, its clips fit into
what is read ahead, and are drawn while the step compiles: what reading costs later is
not in it. A checkpoint is written in every round, and counted as often as configured.
Asked: all together adds less than 3 % to the bare steps.

Beside it, the processor time of the loop's thread and of those that read batches.
Pictures of what the model draws are not in it: `sample_every` says how often.
"""

import argparse
import collections
import pathlib
import sys
import tempfile
import time
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import jax
import numpy as np

from configs import quickstart
from lamd_jax.data import shapes, sources
from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import train
from lamd_jax.training import checkpoint, sharding

STAGE = "mcd_vae"
TURN, ROUND = 20, 50


class Turns:
  """Runs a compiled step for the loop, and in turns with nothing around it.

  Attributes:
    seconds: Of a step, by the kind of turn, a value for each turn.
  """

  def __init__(self, compiled):
    self._compiled, self._count, self._begun = compiled, 0, 0.0
    self.seconds: dict[str, list[float]] = collections.defaultdict(list)
    self.lower = compiled.lower

  def __call__(self, state, *rest):
    made = self._compiled(state, *rest)
    if isinstance(jax.tree.leaves(state)[0], jax.core.Tracer):
      return made  # Counted for its FLOPs, not run.
    self._count += 1
    at = self._count % ROUND
    if at % TURN == 0 or at == 0:
      jax.block_until_ready(made)
      if at and self._count > ROUND:  # In the first round compilers are at work.
        self._end("with a save" if at == TURN else "loop")
      if at == 2 * TURN:
        # Copied, since the state is donated.
        bare = jax.block_until_ready(jax.tree.map(lambda x: x.copy(), made[0]))
        self._begun = time.perf_counter()
        for _ in range(TURN):
          bare, metrics = self._compiled(bare, *rest)
        jax.block_until_ready((bare, metrics))
        if self._count > ROUND:
          self._end("bare")
      self._begun = time.perf_counter()
    return made

  def _end(self, kind):
    self.seconds[kind].append((time.perf_counter() - self._begun) / TURN)


class Clock:
  """Seconds of the processor that a function took, in all threads that call it."""

  def __init__(self):
    self.spent: list[float] = []

  def timed(self, function):
    """The function, clocked."""

    def run(*args, **kwargs):
      begun = time.thread_time()
      try:
        return function(*args, **kwargs)
      finally:
        self.spent.append(time.thread_time() - begun)

    return run


def main():
  """Prints what the loop adds; returns 1 if it is 3 % or more."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--rounds", type=int, default=19)
  parser.add_argument("--smoke", action="store_true", help="at the size of a test")
  args = parser.parse_args()
  config = quickstart.get_config("smoke" if args.smoke else None)
  config.stages = (STAGE,)
  every = config[STAGE].train.checkpoint_every
  steps = (args.rounds + 1) * ROUND
  config[STAGE].train.update(
    dict(steps=steps, sample_every=steps, checkpoint_every=ROUND)
  )
  turns, reading, moving = [], Clock(), Clock()
  jit = jax.jit

  def noting_jit(function, **kwargs):
    """Puts turns of bare steps around the train step."""
    compiled = jit(function, **kwargs)
    if kwargs.get("donate_argnums") != 0:
      return compiled
    turns.append(Turns(compiled))
    return turns[-1]

  read, shard = shapes.ShapesSource.read, sharding.shard_batch
  with (
    tempfile.TemporaryDirectory() as temporary,
    mock.patch.object(jax, "jit", noting_jit),
    mock.patch.object(shapes.ShapesSource, "read", reading.timed(read)),
    mock.patch.object(sharding, "shard_batch", moving.timed(shard)),
  ):
    run = make_run(config, pathlib.Path(temporary))
    source = sources.make_source(run.data(STAGE), "train")
    saving = Clock()
    with mock.patch.object(checkpoint, "save", saving.timed(checkpoint.save)):
      train.train_stage(run, STAGE, source)

  (turn,) = turns
  bare, loop, save = (
    np.array(turn.seconds[x]) for x in ("bare", "loop", "with a save")
  )
  step = np.median(bare)
  print(f"step of {STAGE}: {1000 * step:.1f} ms bare; {len(bare)} turns of {TURN}")
  print("each turn:", " ".join(f"{x:+.1%}" for x in loop / bare - 1))
  print("processor time a step: ", end="")
  for name, clock in (("reading", reading), ("moving", moving)):
    print(f"{name} {1000 * sum(clock.spent) / steps:.1f} ms; ", end="")
  print(f"a save {1000 * np.median(saving.spent):.0f} ms before it returns")
  looped = np.median(loop / bare - 1)
  a_save = TURN * np.median(save - loop)
  saved = a_save / every / step
  print(f"data and log {looped:+.1%}, a save each {every} steps {saved:+.1%}")
  print(f"together {looped + saved:+.1%}; asked: under 3 %")
  return int(looped + saved >= 0.03)


if __name__ == "__main__":
  sys.exit(main())
