"""Features in batches, and kept by content."""

import pathlib
import tempfile

from absl.testing import absltest
import jax.numpy as jnp
import numpy as np

from lamd_jax.metrics import features
from lamd_jax.types import UserError


class FeaturesTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.calls = []

    def apply(clips):
      self.calls.append(clips.shape)
      return clips.astype(jnp.float32).mean(axis=(1, 2, 3))

    self.detector = features.Detector("mean colour", "0" * 64, "half_pixel", 2, apply)
    rng = np.random.default_rng(0)
    self.clips = rng.integers(0, 256, (7, 3, 4, 5, 3), np.uint8)
    self.expected = self.clips.mean(axis=(1, 2, 3))
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def features(self, clips, detector=None, **kwargs):
    detector = detector or self.detector
    return features.features(detector, iter(clips), batch_size=3, **kwargs)

  def test_all_clips_in_their_order_and_batches_of_one_shape(self):
    got = self.features(self.clips)
    np.testing.assert_allclose(got, self.expected, rtol=1e-5)
    self.assertEqual(set(self.calls), {(3, 3, 4, 5, 3)})

  def test_what_is_kept_is_not_computed_again(self):
    self.features(self.clips[:4], cache=self.folder)
    del self.calls[:]
    got = self.features(self.clips[::-1], cache=self.folder)
    np.testing.assert_allclose(got, self.expected[::-1], rtol=1e-5)
    self.assertLen(self.calls, 1)  # The batch with clips 4 to 6.
    del self.calls[:]
    np.testing.assert_array_equal(
      self.features(self.clips, cache=self.folder), got[::-1]
    )
    self.assertEmpty(self.calls)

  def test_another_pixel_or_detector_is_computed(self):
    self.features(self.clips[:3], cache=self.folder)
    del self.calls[:]
    changed = self.clips[:3].copy()
    changed[1, 2, 3, 4, 0] ^= 1
    self.features(changed, cache=self.folder)
    self.assertLen(self.calls, 1)
    other = self.detector._replace(resize_rule="tf1")
    self.features(self.clips[:3], other, cache=self.folder)
    self.assertLen(self.calls, 2)

  def test_a_damaged_cache_is_computed_anew(self):
    expected = self.features(self.clips, cache=self.folder)
    (path,) = self.folder.glob("*/features.npy")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # In the last clip's.
    path.write_bytes(content)
    del self.calls[:]
    with self.assertLogs(level="WARNING"):
      got = self.features(self.clips, cache=self.folder)
    np.testing.assert_array_equal(got, expected)
    self.assertLen(self.calls, 1)
    np.testing.assert_array_equal(
      self.features(self.clips, cache=self.folder), expected
    )
    self.assertLen(self.calls, 1)

  def test_a_run_that_is_interrupted_keeps_what_it_computed(self):
    def clips():
      yield from self.clips[:4]
      raise KeyboardInterrupt

    with self.assertRaises(KeyboardInterrupt):
      self.features(clips(), cache=self.folder)
    del self.calls[:]
    self.features(self.clips[:3], cache=self.folder)
    self.assertEmpty(self.calls)

  def test_clips_of_two_lengths_are_kept_side_by_side(self):
    # As for features of each frame, whose rows are as long as the clip.
    apply = lambda clips: clips.astype(jnp.float32).mean(axis=(2, 3))
    detector = self.detector._replace(name="mean colours", apply=apply)
    for _ in range(2):
      for length in (3, 2):
        clips = self.clips[:, :length]
        with self.assertNoLogs(level="WARNING"):
          got = self.features(clips, detector, cache=self.folder)
        np.testing.assert_allclose(got, clips.mean(axis=(2, 3)), rtol=1e-5)

  def test_features_are_there_whatever_becomes_of_the_cache(self):
    self.features(self.clips, cache=self.folder / "kept")
    (made_from,) = (self.folder / "kept").glob("*/made_from.json")
    made_from.write_text("[" * 10**5)
    (self.folder / "file").write_text("mine")
    for name in ("kept", "file", "file/deep", "x" * 300):
      with self.subTest(name), self.assertLogs(level="WARNING") as logs:
        got = self.features(self.clips, cache=self.folder / name)
        np.testing.assert_allclose(got, self.expected, rtol=1e-5)
      self.assertIn("features of real clips are not kept: ", logs.output[-1])

  def test_what_does_not_fit_is_named(self):
    with self.assertRaisesRegex(UserError, "clip 1 is 2 frames of 4x5, the first 3 fr"):
      self.features([self.clips[0], self.clips[1, :2]])
    with self.assertRaisesRegex(UserError, "clips of 1 frames: mean .* at least 2"):
      self.features(self.clips[:, :1])
    with self.assertRaisesRegex(UserError, "no clip"):
      self.features([])


if __name__ == "__main__":
  absltest.main()
