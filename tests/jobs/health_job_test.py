"""A poisoned video in a real training: named, left out, or gone around; resumed too."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import signal
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import chex
from flax import linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tiny_config

from lamd_jax.data import pipeline, sources
from lamd_jax.experiment import trained
from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import train
from lamd_jax.training import checkpoint, sharding
from lamd_jax.training import logging as training_log
from lamd_jax.types import UserError

BAD = 6  # The step whose batch has the poisoned video, the first time around.
STEPS, EVERY = 9, 4


class Whiteness(nn.Module):
  """Infinite for a video that is all white."""

  @nn.compact
  def __call__(self, x):
    return x / (1.0 - jnp.min(x, axis=-1, keepdims=True))


class Net(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = Whiteness(name="whiteness")(nn.Dense(3, name="first")(x) * 0 + x)
    return nn.Dense(2, name="last")(x)


@flax.struct.dataclass
class Toy:
  """A stage that takes no time to compile."""

  given_frames: int = flax.struct.field(pytree_node=False, default=1)

  def colours(self, batch):
    return jnp.mean(batch["video"].astype(jnp.float32) / 255, axis=(1, 2, 3))

  def init(self, key, batch):
    return Net().init(key, self.colours(batch))["params"]

  def loss(self, params, batch, key, *, train):
    out = Net().apply({"params": params}, self.colours(batch))
    return jnp.mean(jnp.square(out - jax.random.normal(key, out.shape))), {}

  def sample(self, params, batch, key):
    return batch["video"].astype(jnp.float32) / 127.5 - 1

  def protocol(self):
    return {}


class Poisoned:
  """Videos of which one is white."""

  def __init__(self, source, white):
    self._source, self._white = source, white
    self.fps, self.skipped, self.num_classes = source.fps, [], None
    self.num_frames, self.annotation = source.num_frames, source.annotation

  def __len__(self):
    return len(self._source)

  def read(self, index, *args):
    video = self._source.read(index, *args)
    return np.full_like(video, 255) if index == self._white else video


def config_of(policy):
  config = tiny_config.get_config()
  config.data.num_train = 500  # None comes twice.
  config.stages = ("mcd_vae",)
  config.run.on_nonfinite = policy
  values = dict(steps=STEPS, checkpoint_every=EVERY, log_every=3, sample_every=0)
  config.mcd_vae.train.update(values)
  return config


CONFIG = config_of("stop")
SOURCE = sources.make_source(CONFIG.data.to_dict(), "train")
READ = dict(num_frames=3, frame_stride=1, batch_size=8, seed=CONFIG.seed)
BATCHES = list(itertools.islice(pipeline.batches(SOURCE, **READ), 2 * STEPS))
INDEX = BATCHES[BAD - 1]["index"]
POISONED = Poisoned(SOURCE, int(INDEX[2]))
MESH = sharding.make_mesh({})


def run(folder, policy, source=POISONED):
  experiment = make_run(config_of(policy), folder.parent)
  experiment = dataclasses.replace(experiment, mesh=MESH)
  with mock.patch.object(trained, "make_stage", return_value=Toy()):
    train.train_stage(experiment, folder.name, source)


@contextlib.contextmanager
def batches_in_order(order):
  """Gives the clean batches of these numbers, and no others."""
  given = lambda *args, start_step, **kwargs: (BATCHES[i] for i in order[start_step:])
  with mock.patch.object(pipeline, "batches", given):
    yield


@contextlib.contextmanager
def stopped_at(*steps):
  """Asks the process to stop while these steps are under way, once each."""
  pending = set(steps)
  saw = train.health.Watch.saw

  def saw_and_kill(self, step, examples):
    saw(self, step, examples)
    if step in pending:
      pending.remove(step)
      os.kill(os.getpid(), signal.SIGTERM)

  with mock.patch.object(train.health.Watch, "saw", saw_and_kill):
    yield


def final(folder):
  path = folder / "checkpoints"
  step = checkpoint.latest_step(path)
  with ocp.StandardCheckpointer() as checkpointer:
    state = checkpointer.restore(path.absolute() / str(step) / "state")
  return step, state, checkpoint.read_meta(path)[1]


class PoisonTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    temporary = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(temporary) / "mcd_vae"
    self.other = pathlib.Path(temporary) / "other" / "mcd_vae"

  def assert_same(self, a, b):
    self.assertEqual(final(a)[0], STEPS)
    chex.assert_trees_all_equal(final(a)[1], final(b)[1])

  def test_stopping_names_step_module_and_examples_and_keeps_what_was_saved(self):
    with self.assertRaises(UserError) as caught:
      run(self.folder, "stop")
    numbers = " ".join(map(str, INDEX))
    self.assertRegex(
      str(caught.exception),
      rf"loss is (nan|inf) at step {BAD} of mcd_vae, first in whiteness \(Whiteness\),"
      rf" examples {numbers};",
    )
    self.assertEqual(checkpoint.latest_step(self.folder / "checkpoints"), EVERY)
    # The same folder goes on with another policy.
    with self.assertLogs("absl", "WARNING") as logs:
      run(self.folder, "skip")
    self.assertLen(logs.output, 1)
    self.assertIn(f"at step {BAD} of", logs.output[0])
    step, state, _ = final(self.folder)
    self.assertEqual(step, STEPS)
    chex.assert_tree_all_finite(state)
    lines = training_log.read_scalars(self.folder)
    self.assertNotIn("grad_norms", lines[0])
    self.assertEqual(
      [np.isnan(x["loss"]) for x in lines], [False, False, True, False, False]
    )

  def test_going_back_is_training_without_those_batches_also_when_interrupted(self):
    # Back to step 4, and on with batch 6, the one after the bad one.
    order = [0, 1, 2, 3, *range(BAD, 2 * STEPS)]
    with batches_in_order(order):
      run(self.other, "stop", SOURCE)
    # Stopped before the rollback, where a later checkpoint than the fourth is saved;
    # in the step after the bad one, when the run goes back and then saves the first
    # step it makes; and after it.
    with stopped_at(5, 7, 8), self.assertLogs("absl", "WARNING") as logs:
      for saved in (5, 5, 8):
        with self.assertRaises(train.Stopped):
          run(self.folder, "rollback")
        self.assertEqual(final(self.folder)[0], saved)
      run(self.folder, "rollback")
    warnings = [line for line in logs.output if "going back" in line]
    self.assertLen(warnings, 1)
    self.assert_same(self.folder, self.other)
    self.assertEqual(final(self.folder)[2]["passed_over"], BAD - EVERY)
    losses = lambda folder: training_log.read_scalars(folder)[-1]["loss"]
    self.assertEqual(losses(self.folder), losses(self.other))

  def test_all_that_reads_batches_is_closed(self):
    read, opened = pipeline.batches, []

    class Noting:
      """Batches that know whether they were closed."""

      def __init__(self, *args, **kwargs):
        self.batches, self.is_closed = read(*args, **kwargs), False
        opened.append(self)

      def __next__(self):
        return next(self.batches)

      def close(self):
        self.is_closed = True
        self.batches.close()

    with (
      mock.patch.object(pipeline, "batches", Noting),
      self.assertLogs("absl", "WARNING"),
    ):
      run(self.folder, "rollback")
    # For the run, to find the module, and after going back.
    self.assertEqual([x.is_closed for x in opened], [True] * 3)

  def test_without_a_checkpoint_it_begins_again(self):
    early = Poisoned(SOURCE, int(BATCHES[1]["index"][0]))  # In step 2.
    with batches_in_order(list(range(2, 2 * STEPS))):
      run(self.other, "stop", SOURCE)
    with self.assertLogs("absl", "WARNING"):
      run(self.folder, "rollback", early)
    self.assert_same(self.folder, self.other)


if __name__ == "__main__":
  absltest.main()
