"""The order of names that hold numbers."""

import random

from absl.testing import absltest, parameterized

from lamd_jax.data import order


class NaturalTest(parameterized.TestCase):
  @parameterized.parameters(
    (["clip_1", "clip_2", "clip_10", "clip_100"],),
    (["a/2/x", "a/10/x", "b/1/x"],),
    (["2/a", "10/a", "day 1/a"],),
    (["v1.2.mp4", "v1.10.mp4", "v2.1.mp4"],),
    (["1", "2", "02x"],),
    (["7", "12", "a"],),
    (["x[2]", "x[10]"],),
    ([f"a{'9' * 4999}", f"a1{'0' * 4999}"],),
    (["a", "a/b", "a b"],),
    (["²", "²1"],),  # A digit to Python, not a number.
  )
  def test_numbers_are_compared_as_numbers(self, names):
    shuffled = random.Random(0).sample(names, len(names))
    self.assertEqual(sorted(shuffled, key=order.natural), names)

  def test_names_that_differ_in_zeros_alone_have_one_order(self):
    names = ["a1", "a01", "a001", "a1b", "a01b"]
    ways = [names, names[::-1], names[2:] + names[:2]]
    self.assertLen({tuple(sorted(way, key=order.natural)) for way in ways}, 1)


if __name__ == "__main__":
  absltest.main()
