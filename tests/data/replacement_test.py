"""Which video takes the place of one that cannot be read."""

from absl.testing import absltest, parameterized
import numpy as np

from lamd_jax.data import replacement
from lamd_jax.types import UserError


class FallbackTest(parameterized.TestCase):
  def tried(self, kinds, index, broken=(), **values):
    """The videos tried, the last one with success; `kinds` are annotations."""
    tried = []

    def read(candidate, start):
      tried.append(candidate)
      if candidate in broken:
        raise UserError("broken")
      return np.full((1, 2, 2, 3), start, np.uint8)

    replacement.read_or_replace(
      read, lambda i: 9, lambda i, error: None, num_videos=len(kinds), index=index,
      start=0, span=3, annotation_fn=lambda i: {"label": kinds[i]}, **values,
    )  # fmt: skip
    return tried

  @parameterized.parameters(
    ([], [2]),
    ([2], [2, 4]),
    ([2, 4], [2, 4, 0]),
    ([0, 2, 4], [2, 4, 0, 3]),
    ([0, 2, 3, 4], [2, 4, 0, 3, 5]),
    ([0, 2, 3, 4, 5], [2, 4, 0, 3, 5, 1]),
  )
  def test_the_next_of_the_same_kind_come_first_and_then_the_others(
    self, broken, tried
  ):
    self.assertEqual(self.tried("abacad", 2, broken), tried)

  def test_without_kinds_the_next_video_takes_the_place(self):
    self.assertEqual(self.tried("aaaa", 2, [2, 3]), [2, 3, 0])

  @parameterized.parameters(1, 3)
  def test_after_some_videos_it_gives_up_with_the_reason(self, max_tries):
    expected = f"from {max_tries} videos in a row; the last reason: broken"
    with self.assertRaisesRegex(UserError, expected):
      self.tried("aaaa", 2, range(4), max_tries=max_tries)

  def test_of_no_videos_none_can_be_read(self):
    with self.assertRaisesRegex(UserError, "there are no videos"):
      self.tried("", 0)


if __name__ == "__main__":
  absltest.main()
