"""Halves of a tree of parameters: apart, and together again."""

from absl.testing import absltest
import chex
import jax.numpy as jnp

from lamd_jax.systems import frozen

PARAMS = {
  "down": {"spatial": {"kernel": jnp.ones(2)}, "temporal": {"kernel": jnp.zeros(3)}},
  "out": {"bias": jnp.arange(4.0)},
}


class FrozenTest(absltest.TestCase):
  def test_halves_have_the_paths_they_had_and_nothing_twice(self):
    first, rest = frozen.split(PARAMS, lambda path: "temporal" not in path)
    self.assertEqual(set(first), {"down", "out"})
    self.assertEqual(set(first["down"]), {"spatial"})
    self.assertEqual(set(rest), {"down"})
    self.assertEqual(set(rest["down"]), {"temporal"})

  def test_merging_gives_back_what_was_split(self):
    halves = frozen.split(PARAMS, lambda path: path[-1] == "bias")
    for parts in (halves, halves[::-1]):
      chex.assert_trees_all_equal(frozen.merge(*parts), PARAMS)
    chex.assert_trees_all_equal(frozen.merge(PARAMS, {}), PARAMS)

  def test_an_array_in_two_parts_is_refused_by_name(self):
    first, _ = frozen.split(PARAMS, lambda path: "temporal" not in path)
    with self.assertRaisesRegex(ValueError, "down/spatial/kernel is in two"):
      frozen.merge(PARAMS, {"down": first["down"]})


if __name__ == "__main__":
  absltest.main()
