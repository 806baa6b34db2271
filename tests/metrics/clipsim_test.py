"""CLIPSIM of features whose angles are known."""

import math

from absl.testing import absltest
import numpy as np

from lamd_jax.metrics.clipsim import clipsim
from lamd_jax.types import UserError


class ClipsimTest(absltest.TestCase):
  def test_it_is_the_mean_cosine_whatever_the_lengths(self):
    # Two videos of three frames: angles to the caption in degrees.
    angles = np.radians([[0, 60, 90], [180, 45, 30]])
    lengths = np.array([[1, 2, 3], [0.1, 5, 60]])[..., None]
    frames = lengths * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=-1)
    captions = np.array([[7.0, 0, 0], [0.5, 0, 0]])
    expected = (1 + 0.5 + 0 - 1 + math.sqrt(1 / 2) + math.sqrt(3 / 4)) / 6
    self.assertAlmostEqual(clipsim(frames, captions), expected)

  def test_each_video_is_compared_with_its_own_caption(self):
    captions = np.eye(3, 5)
    frames = np.repeat(captions[:, None], 4, axis=1)
    self.assertAlmostEqual(clipsim(frames, captions), 1.0)
    self.assertAlmostEqual(clipsim(frames, captions[::-1]), 1 / 3)

  def test_features_without_a_direction_are_refused(self):
    for value in (0.0, np.nan, np.inf):
      frames = np.ones((2, 3, 4))
      frames[1, 2] = value
      with self.assertRaisesRegex(UserError, "1 of 6 features of frames"):
        clipsim(frames, np.ones((2, 4)))
    with self.assertRaisesRegex(UserError, "2 of 2 features of captions"):
      clipsim(np.ones((2, 3, 4)), np.zeros((2, 4)))

  def test_no_frames_are_refused(self):
    with self.assertRaisesRegex(UserError, r"no frames: .*\(2, 0, 4\)"):
      clipsim(np.ones((2, 0, 4)), np.ones((2, 4)))


if __name__ == "__main__":
  absltest.main()
