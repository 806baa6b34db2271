"""A folder of checkpoints for tests, with states that tell their steps apart."""

import pathlib
import tempfile

from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import optax

from lamd_jax.training import checkpoint, sharding
from lamd_jax.training.state import init_state

TX = optax.adam(1e-2)


def make_state(value):
  """A state in which every array depends on `value`."""
  params = {
    "kernel": jax.random.normal(jax.random.key(0), (64, 5)) + value,
    "bias": jnp.full((3,), value, jnp.float32),
  }
  state = init_state(params, TX)
  return state.replace(
    step=jnp.array(value, jnp.int32),
    ema_params=jax.tree.map(lambda x: 0.5 * x, params),
    opt_state=jax.tree.map(lambda x: x + jnp.asarray(value, x.dtype), state.opt_state),
  )


def abstract_state():
  """Shapes of a state, and where its arrays go: over all devices of the tests."""
  sizes = {"data": 2, "fsdp": 4} if jax.device_count() == 8 else {}
  mesh = sharding.make_mesh(sizes)
  return sharding.place(mesh, jax.eval_shape(make_state, 0))


def shardings(tree):
  return jax.tree.map(lambda x: x.sharding, tree)


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class FolderTestCase(parameterized.TestCase):
  """A folder of checkpoints."""

  def setUp(self):
    super().setUp()
    temporary = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(temporary) / "checkpoints"

  def save(self, *steps, max_to_keep=2):
    with checkpoint.open_manager(self.folder, max_to_keep=max_to_keep) as manager:
      for step in steps:
        checkpoint.save(manager, step, make_state(step), {"seconds": step / 4})

  def restore(self):
    with checkpoint.open_manager(self.folder) as manager:
      return checkpoint.restore_latest(manager, abstract_state())

  def assert_is_step(self, restored, step):
    state, meta = restored
    chex.assert_trees_all_equal(state, make_state(step))
    self.assertEqual(meta, {"seconds": step / 4})

  def names(self):
    return sorted(path.name for path in self.folder.iterdir())
