"""Meshes and where arrays lie on them; eight devices."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
import numpy as np

from lamd_jax.training import sharding
from lamd_jax.types import UserError


class MeshTest(parameterized.TestCase):
  @parameterized.parameters(
    (None, 8, 1),
    ({"data": -1}, 8, 1),
    ({"fsdp": -1}, 1, 8),
    ({"data": -1, "fsdp": 4}, 2, 4),
    ({"data": 4, "fsdp": 2}, 4, 2),
  )
  def test_sizes_are_completed_to_all_devices(self, sizes, data, fsdp):
    mesh = sharding.make_mesh(sizes)
    shape = {"data": data, "fsdp": fsdp, "tensor": 1, "context": 1}
    self.assertEqual(dict(mesh.shape), shape)
    self.assertEqual(set(mesh.axis_types), {AxisType.Auto})

  @parameterized.parameters(
    ({"data": 3},),
    ({"data": 4},),
    ({"data": 16},),
    ({"data": -1, "fsdp": 3},),
    ({"data": -1, "fsdp": -1},),
    ({"data": 0},),
    ({"data": -2, "fsdp": -4},),
  )
  def test_sizes_that_do_not_fit_say_how_many_devices_there_are(self, sizes):
    with self.assertRaisesRegex(UserError, "does not fit 8 device"):
      sharding.make_mesh(sizes)

  def test_an_unknown_axis_lists_the_known_ones(self):
    with self.assertRaisesRegex(UserError, "'model'; known: data, fsdp"):
      sharding.make_mesh({"data": 1, "model": 8})


class StateShardingTest(parameterized.TestCase):
  @parameterized.parameters(
    ((1024, 1040), PartitionSpec(None, "fsdp")),  # The largest axis.
    ((1040, 1024), PartitionSpec("fsdp", None)),
    ((1024, 1101), PartitionSpec("fsdp", None)),  # The largest that divides.
    ((1101, 1103), PartitionSpec(None, None)),  # None divides.
    ((1024, 1024), PartitionSpec(None, None)),  # 4 MiB is not over 4 MiB.
    ((), PartitionSpec()),
  )
  def test_large_arrays_are_split_and_small_ones_are_not(self, shape, spec):
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4})
    tree = {"x": jax.ShapeDtypeStruct(shape, jnp.float32)}
    self.assertEqual(sharding.state_sharding(mesh, tree)["x"].spec, spec)
    placed = sharding.place(mesh, tree)["x"]
    self.assertEqual((placed.shape, placed.sharding.spec), (shape, spec))

  def test_without_fsdp_all_is_whole_on_every_device(self):
    mesh = sharding.make_mesh({"data": 8})
    tree = {"x": jax.ShapeDtypeStruct((2048, 2048), jnp.float32)}
    self.assertTrue(sharding.state_sharding(mesh, tree)["x"].is_fully_replicated)


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

  @parameterized.parameters((12, "8 or 16"), (7, "nearest sizes: 8"), (0, "sizes: 8"))
  def test_a_size_that_cannot_be_split_names_the_nearest(self, size, nearest):
    mesh = sharding.make_mesh()
    with self.assertRaisesRegex(UserError, f"batch_size={size} .*8 devices.*{nearest}"):
      sharding.check_batch_size(size, mesh)
    with self.assertRaisesRegex(UserError, f"batch_size={size} "):
      sharding.shard_batch({"x": np.zeros((size, 2))}, mesh)


if __name__ == "__main__":
  absltest.main()
