"""Meshes and the placement of arrays on them, with eight devices."""

import dataclasses
from unittest import mock

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from lamd_jax.nn import conv
from lamd_jax.training import optimizer, sharding
from lamd_jax.training.state import init_state
from lamd_jax.types import UserError

pytestmark = pytest.mark.mesh
LIMIT = sharding.MIN_BYTES_TO_SPLIT


@dataclasses.dataclass(frozen=True)
class Device:
  """The attributes of a device that arranging looks at."""

  id: int
  slice_index: int
  platform: str = "fake"
  device_kind: str = "fake"


class MeshTest(parameterized.TestCase):
  @parameterized.parameters(
    (None, (8, 1, 1, 1)),
    ({"data": -1}, (8, 1, 1, 1)),
    ({"fsdp": -1}, (1, 8, 1, 1)),
    ({"data": -1, "fsdp": 4}, (2, 4, 1, 1)),
    ({"data": 4, "fsdp": 2}, (4, 2, 1, 1)),
    ({"data": 2, "tensor": 2, "context": -1}, (2, 1, 2, 2)),
  )
  def test_sizes_are_completed_to_all_devices(self, sizes, shape):
    mesh = sharding.make_mesh(sizes)
    self.assertEqual(mesh.axis_names, sharding.AXES)
    self.assertEqual(mesh.devices.shape, shape)
    self.assertEqual(set(mesh.axis_types), {AxisType.Auto})
    self.assertEqual(set(mesh.devices.flat), set(jax.devices()))

  @parameterized.parameters(
    ({"data": 3},),
    ({"data": 4},),
    ({"data": 16},),
    ({"data": -1, "fsdp": 3},),
    ({"data": -1, "fsdp": -1},),
    ({"data": 0},),
    ({"data": -2, "fsdp": -4},),
    ({"data": 4, "tensor": 4},),
  )
  def test_sizes_that_do_not_fit_say_how_many_devices_there_are(self, sizes):
    with self.assertRaisesRegex(UserError, "does not fit 8 device"):
      sharding.make_mesh(sizes)

  def test_an_unknown_axis_lists_the_known_ones(self):
    with self.assertRaisesRegex(UserError, "'model'; known: data, fsdp"):
      sharding.make_mesh({"data": 1, "model": 8})

  @parameterized.parameters(
    ({"data": 4, "tensor": 2}, 0),
    ({"data": 2, "fsdp": 2, "context": 2}, 0),
    ({"fsdp": 4, "tensor": 2}, 1),
  )
  def test_one_axis_alone_goes_over_slices(self, sizes, across):
    # Slices alternate, because their devices need not be numbered consecutively.
    devices = [Device(i, i % 2) for i in range(8)]
    shape = [sizes.get(axis, 1) for axis in sharding.AXES]
    arranged = sharding.arrange(dict(zip(sharding.AXES, shape, strict=True)), devices)
    ids = [arranged[place].id for place in np.ndindex(*shape)]
    self.assertEqual(sorted(ids), list(range(8)))
    for place in np.ndindex(*shape):
      expected = place[across] // (shape[across] // 2)
      self.assertEqual(arranged[place].slice_index, expected)

  def test_axes_that_cannot_go_over_slices_are_a_users_mistake(self):
    devices = [Device(i, i // 2) for i in range(6)]
    sizes = {"data": 2, "fsdp": 1, "tensor": 3, "context": 1}
    with self.assertRaisesRegex(UserError, "on 3 slices .* a multiple of 3"):
      sharding.arrange(sizes, devices)


def specs(mesh, shapes):
  """Returns the partition specs of arrays of these shapes."""
  is_shape = lambda x: isinstance(x, tuple)
  shapes = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), shapes, is_leaf=is_shape
  )
  return jax.tree.map(lambda x: x.sharding.spec, sharding.place(mesh, shapes))


class StateShardingTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    self.limit = self.enterContext(mock.patch.object(sharding, "MIN_BYTES_TO_SPLIT", 0))

  def test_a_layer_is_split_by_what_its_axes_are_for(self):
    shapes_and_specs = {
      ("conv", "kernel"): ((2, 2, 6, 8), P(None, None, None, ("tensor", "fsdp"))),
      ("image", "kernel"): ((2, 2, 4, 3), P(None, None, "fsdp", None)),
      ("one", "kernel"): ((2, 2, 4, 6), P(None, None, None, "tensor")),  # Not both.
      ("conv", "bias"): ((6,), P(None)),
      ("norm", "scale"): ((6,), P(None)),
      ("key", "kernel"): ((6, 2, 4), P("fsdp", "tensor", None)),
      ("key", "bias"): ((2, 4), P(None, None)),
      ("out", "kernel"): ((2, 4, 6), P("tensor", None, "fsdp")),
      ("query", "kernel"): ((4, 6), P("fsdp", "tensor")),  # No heads here.
      ("table", "embedding"): ((10, 6), P("fsdp", "tensor")),
      ("text", "positional_embedding"): ((10, 6), P("fsdp", "tensor")),
      ("attention", "relative_keys"): ((4, 2), P("fsdp", None)),
      ("some", "unknown"): ((8, 8), P(None, None)),
    }
    for (layer, name), (shape, spec) in shapes_and_specs.items():
      found = specs(self.mesh, {"model": {layer: {name: shape}}})
      self.assertEqual(found, {"model": {layer: {name: spec}}})

  @parameterized.parameters(
    ((3, 8), P(None, ("tensor", "fsdp"))),  # Inputs are not divisible, outputs twice.
    ((3, 6), P(None, "tensor")),  # Outputs are divisible once.
    ((4, 3), P("fsdp", None)),
    ((3, 5), P(None, None)),
  )
  def test_an_axis_is_split_where_its_size_divides(self, shape, spec):
    self.assertEqual(specs(self.mesh, {"kernel": shape}), {"kernel": spec})

  def test_arrays_of_up_to_4_mib_are_whole(self):
    with mock.patch.object(sharding, "MIN_BYTES_TO_SPLIT", LIMIT):
      found = specs(self.mesh, [{"kernel": (1024, 1024)}, {"kernel": (1024, 1026)}])
    expected = [P(None, None), P("fsdp", "tensor")]
    self.assertEqual(found, [{"kernel": spec} for spec in expected])

  def test_data_and_context_leave_parameters_whole(self):
    mesh = sharding.make_mesh({"data": 4, "context": 2})
    self.assertEqual(specs(mesh, {"kernel": (8, 8)}), {"kernel": P(None, None)})

  def test_gradients_of_convolutions_are_right_as_their_kernels_are_split(self):
    # Two convolutions next to a skip connection: with inputs over fsdp and outputs over
    # tensor, XLA computes wrong gradients for these.
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(0.0, 0.3, shape).astype(np.float32)
    params = [{"kernel": normal(3, 3, 10, 10)} for _ in range(2)]
    x = normal(8, 4, 4, 10)

    def convolve(x, layer):
      return conv.convolve(x[:, None], layer["kernel"][None])[:, 0]

    def loss(params, x):
      y = convolve(jnp.sin(convolve(x, params[0])), params[1])
      return jnp.mean(jnp.sin(x + y))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    placed = sharding.put(params, sharding.state_sharding(self.mesh, params))
    found = gradient(placed, sharding.put_batch({"x": x}, self.mesh)["x"])
    expected = jax.device_get(gradient(params, x))
    chex.assert_trees_all_close(jax.device_get(found), expected, rtol=1e-4, atol=1e-7)

  @parameterized.parameters("adam", "muon")
  def test_moments_and_averages_lie_as_their_parameters(self, name):
    tx, _ = optimizer.make_optimizer(10, 1e-3, optimizer=name)
    params = {  # All shapes differ, so that a moment's shape identifies its parameter.
      "conv": {"kernel": jnp.ones((3, 3, 8, 6)), "bias": jnp.ones(6)},
      "query": {"kernel": jnp.ones((6, 2, 8)), "bias": jnp.ones((2, 8))},
      "table": {"embedding": jnp.ones((10, 8))},
    }
    state = init_state(params, tx)
    placed = jax.tree.leaves(sharding.place(self.mesh, state))
    of = {x.shape: set() for x in jax.tree.leaves(params)}
    counts = dict.fromkeys(of, 0)
    for x in placed:
      if x.shape in of:
        of[x.shape].add(x.sharding.spec)
        counts[x.shape] += 1
    # The parameter, its moving average, and one or two moments.
    self.assertEqual(
      {shape: len(found) for shape, found in of.items()}, dict.fromkeys(of, 1)
    )
    matrix = 4 if name == "adam" else 3
    self.assertEqual(counts[3, 3, 8, 6], matrix)
    self.assertEqual(counts[10, 8], 4)
    self.assertEqual(of[6, 2, 8], {P("fsdp", "tensor", None)})

  def test_what_lies_in_its_place_is_not_moved(self):
    tree = {"kernel": np.arange(48, dtype=np.float32).reshape(6, 8)}
    where = sharding.state_sharding(self.mesh, tree)
    placed = sharding.put(tree, where)
    np.testing.assert_array_equal(placed["kernel"], tree["kernel"])
    shards = placed["kernel"].addressable_shards
    self.assertEqual({shard.data.shape for shard in shards}, {(3, 4)})
    self.assertIs(sharding.put(placed, where)["kernel"], placed["kernel"])


class BatchTest(parameterized.TestCase):
  @parameterized.parameters({"data": 8}, {"data": 2, "fsdp": 4})
  def test_every_device_gets_its_own_examples(self, **sizes):
    mesh = sharding.make_mesh(sizes)
    video = np.arange(16 * 3 * 2, dtype=np.uint8).reshape(16, 3, 2)
    index = np.arange(16, dtype=np.int32)
    batch = sharding.shard_batch({"video": video, "index": index}, mesh)
    np.testing.assert_array_equal(batch["video"], video)
    self.assertEqual(batch["video"].dtype, jnp.uint8)
    shards = batch["index"].addressable_shards
    self.assertEqual({shard.data.shape for shard in shards}, {(2,)})
    seen = sorted(int(i) for shard in shards for i in shard.data)
    self.assertEqual(seen, list(range(16)))

  def test_frames_of_videos_alone_go_over_context(self):
    mesh = sharding.make_mesh({"data": 2, "tensor": 2, "context": 2})
    rng = np.random.default_rng(0)
    whole = {"video": (6, 4, 3), "images": (6, 4, 3), "label": (6,), "odd": (5, 4)}
    whole = {name: rng.normal(size=shape) for name, shape in whole.items()}
    batch = sharding.put_batch(whole, mesh)
    shapes = {k: x.addressable_shards[0].data.shape for k, x in batch.items()}
    expected = {"video": (3, 2, 3), "images": (3, 4, 3), "label": (3,), "odd": (5, 4)}
    self.assertEqual(shapes, expected)
    # A single frame, as with cached latents, is not sharded.
    single = sharding.shard_batch({"video": whole["video"][:, :1]}, mesh)["video"]
    self.assertEqual(single.sharding.spec, P("data", None))
    for name, x in batch.items():
      np.testing.assert_array_equal(x, whole[name].astype(x.dtype))

  @parameterized.parameters((12, "8 or 16"), (7, "nearest sizes: 8"), (0, "sizes: 8"))
  def test_a_size_that_cannot_be_split_names_the_nearest(self, size, nearest):
    mesh = sharding.make_mesh()
    with self.assertRaisesRegex(UserError, f"batch_size={size} .*8 devices.*{nearest}"):
      sharding.check_batch_size(size, mesh)
    with self.assertRaisesRegex(UserError, f"batch_size={size} "):
      sharding.shard_batch({"x": np.zeros((size, 2))}, mesh)

  def test_only_data_and_fsdp_split_examples(self):
    mesh = sharding.make_mesh({"fsdp": 2, "tensor": 2, "context": 2})
    sharding.check_batch_size(2, mesh)
    with self.assertRaisesRegex(UserError, "batch_size=3 .*nearest sizes: 2 or 4"):
      sharding.check_batch_size(3, mesh)

  @parameterized.product(
    sizes=(
      {"data": 8},
      {"data": 2, "fsdp": 4},
      {"data": 2, "fsdp": 2, "tensor": 2},
      {"data": 2, "context": 4},
      {"tensor": 8},
    ),
    processes=(1, 2, 4, 8),
  )
  def test_processes_hold_the_whole_batch_together(self, sizes, processes):
    mesh, devices = sharding.make_mesh(sizes), jax.devices()
    share, seen = len(devices) // processes, set()
    for i in range(processes):
      seen |= self.check_process(mesh, devices[i * share : (i + 1) * share])
    self.assertEqual(seen, set(range(16)))

  def check_process(self, mesh, devices):
    """Acts as a process with these devices; returns the rows that it needs."""
    batch = np.random.default_rng(0).normal(size=(16, 4, 3))
    where = sharding.batch_sharding(mesh, {"video": batch})["video"]
    places = where.devices_indices_map(batch.shape)
    local_rows = sharding.local_rows
    rows = local_rows(mesh, 16, devices)
    held = {j for device in devices for j in range(16)[places[device][0]]}
    self.assertEqual(rows, sorted(held))  # It reads no more than its devices hold.
    # From these rows alone, each device gets its part of the global batch.
    parts = []
    lay = lambda shape, where, part: parts.append(part) or jnp.zeros(shape)
    with (
      mock.patch.object(
        sharding, "local_rows", lambda *args: local_rows(*args, devices)
      ),
      mock.patch.object(jax, "make_array_from_callback", lay),
    ):
      laid = sharding.shard_batch({"video": batch[rows]}, mesh)["video"]
    self.assertEqual(laid.shape, batch.shape)
    for device in devices:
      np.testing.assert_array_equal(parts[0](places[device]), batch[places[device]])
    return held


if __name__ == "__main__":
  absltest.main()
