"""Features of frames against the original packages, and batches.

The references were written by tests/benchmarks/feature_networks_reference.py.
"""

import pathlib
import tempfile

from absl.testing import absltest, parameterized
import numpy as np
import random_weights
import safetensors.numpy

from lamd_jax.metrics import frame_features
from lamd_jax.models import inception
from lamd_jax.types import UserError

MODELS = pathlib.Path(__file__).parents[1] / "models"


def reference(name):
  with np.load(MODELS / f"{name}_reference.npz") as file:
    return dict(file)


def random_frames(*shape):
  return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


class NetworksTest(absltest.TestCase):
  def assert_near(self, given, expected, rtol=1e-4):
    self.assertEqual(given.shape, expected.shape)
    self.assertLess(np.abs(given - expected).max() / np.abs(expected).max(), rtol)

  def test_inception_gives_what_the_original_gives(self):
    expected = reference("inception")
    params = inception.from_pytorch_fid(
      random_weights.random_weights(expected["shapes"])
    )
    frames = random_frames(2, 40, 56, 3)
    y = frame_features.inception_outputs(params, frames, batch_size=2)
    self.assertEqual(y.features.shape, (2, 2048))
    self.assert_near(y.logits, expected["frame_logits"])

  def test_clip_gives_what_the_original_gives(self):
    expected = reference("clip")
    arrays = random_weights.random_weights(expected["shapes"])
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / "clip.safetensors"
      safetensors.numpy.save_file(arrays, path)
      network, params = frame_features.load_clip(path)
    frames = random_frames(3, 41, 58, 3)[:, None]
    y = frame_features.clip_image_features(network, params, frames, batch_size=2)
    self.assert_near(y[:, 0], expected["image_features"])
    y = frame_features.clip_text_features(
      network, params, expected["tokens"], batch_size=2
    )
    self.assert_near(y, expected["text_features"])

  def test_missing_weights_say_where_to_get_them(self):
    with self.assertRaisesRegex(UserError, r"FID at /no/such; get .*pth \(SHA.*672682"):
      frame_features.load_inception("/no/such")
    with self.assertRaisesRegex(UserError, r"ViT-B/32 at /no/such; get .*-32.pt"):
      frame_features.load_clip("/no/such")

  def test_weights_of_another_network_are_refused(self):
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / "other.safetensors"
      safetensors.numpy.save_file({"a": np.zeros(3, np.float32)}, path)
      for load in (frame_features.load_inception, frame_features.load_clip):
        with self.assertRaisesRegex(UserError, "these are no weights of"):
          load(path)


class ClipFramesTest(parameterized.TestCase):
  @parameterized.parameters((41, 58), (58, 41), (30, 30), (224, 300), (24, 24))
  def test_the_middle_of_both_axes_is_kept(self, height, width):
    # Row and column of each pixel as a fraction of the shorter side, from the middle.
    y, x = np.mgrid[:height, :width] + 0.5
    y, x = (
      (axis - size / 2) / min(height, width) for axis, size in ((y, height), (x, width))
    )
    frame = np.stack([y, x, 0 * x], axis=-1) * 100 + 128
    frame = np.round(frame).astype(np.uint8)[None]
    place = ((np.arange(24) + 0.5) / 24 - 0.5) * 100 + 128
    result = frame_features.clip_frames(frame, 24)[0].astype(int)
    # Half a pixel of 24, where the margins are odd, is 2 levels; and rounding.
    np.testing.assert_allclose(result[:, 12, 0], place, atol=3.5)
    np.testing.assert_allclose(result[12, :, 1], place, atol=3.5)

  def test_a_frame_of_the_size_is_left_alone(self):
    frames = random_frames(2, 24, 24, 3)
    np.testing.assert_array_equal(frame_features.clip_frames(frames, 24), frames)


class InBatchesTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 4, 6, 100)
  def test_it_gives_what_one_batch_would(self, batch_size):
    items, shapes = random_frames(3, 2, 5, 7), []

    def fn(part):
      shapes.append(part.shape)
      return {"sum": part.sum(axis=(1, 2)), "first": part[:, 0] * 2.0}

    y = frame_features.in_batches(fn, items, 2, batch_size)
    self.assertEqual(set(shapes), {(batch_size, 5, 7)})
    np.testing.assert_array_equal(y["sum"], items.sum(axis=(2, 3)))
    np.testing.assert_array_equal(y["first"], items[:, :, 0] * 2.0)

  def test_no_items_are_refused(self):
    with self.assertRaisesRegex(UserError, r"empty array \(3, 0, 5, 7\)"):
      frame_features.in_batches(np.sum, np.zeros((3, 0, 5, 7)), 2, 8)


if __name__ == "__main__":
  absltest.main()
