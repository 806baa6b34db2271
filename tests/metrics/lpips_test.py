"""LPIPS of 8-bit frames: batches, broadcasting, files of weights.

With AlexNet, and random weights. That both networks and the distance are the
originals' is shown in tests/models/; the reference is from there.
"""

import os
import pathlib
import tempfile

from absl.testing import absltest, parameterized
import numpy as np
import pytest
import safetensors.numpy
import seeded

from lamd_jax.metrics import lpips
from lamd_jax.types import UserError

REFERENCE = pathlib.Path(__file__).parents[1] / "models/lpips_reference.npz"


class WithFiles(parameterized.TestCase):
  """Has weight files in a folder, and the distance they make."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.network = cls.write("network", seeded.network_arrays("alex"))
    cls.heads = cls.write("heads", seeded.head_arrays("alex"))
    cls.distance = lpips.load("alex", cls.network, cls.heads)

  @classmethod
  def write(cls, name, arrays):
    path = os.path.join(cls.folder, f"{name}.safetensors")
    safetensors.numpy.save_file(arrays, path)
    return path


class FramesTest(WithFiles):
  def test_frames_of_bytes_have_the_distances_of_the_original(self):
    a, b = seeded.frame_pairs(3, 2, 35, 50)
    found = lpips.frame_lpips(self.distance, a, b, batch_size=2)
    self.assertEqual(found.dtype, np.float64)
    expected = np.load(REFERENCE)["alex distances"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    mean = lpips.lpips(self.distance, a, b, batch_size=2)
    self.assertAlmostEqual(mean, float(np.mean(expected)), places=6)

  def test_a_batch_that_is_filled_up_gives_the_same_numbers(self):
    a, b = seeded.frame_pairs(5, 3, 31, 31)
    whole = lpips.frame_lpips(self.distance, a, b, batch_size=3)
    parts = lpips.frame_lpips(self.distance, a, b, batch_size=2)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)

  def test_each_size_of_frames_is_compiled_once(self):
    lpips._distances.clear_cache()
    sizes = []
    for count, height in ((1, 31), (2, 31), (3, 31), (1, 32)):
      a, b = seeded.frame_pairs(6, count, height, 31)
      lpips.frame_lpips(self.distance, a, b, batch_size=2)
      sizes.append(lpips._distances._cache_size())
    self.assertEqual(sizes, [1, 1, 1, 2])

  def test_one_frame_is_compared_with_each_of_many(self):
    a, b = seeded.frame_pairs(7, 6, 31, 31)
    a, b = a[:2, None], b.reshape(2, 3, *b.shape[1:])
    found = lpips.frame_lpips(self.distance, a, b, batch_size=3)
    wide = np.repeat(a, 3, axis=1)
    np.testing.assert_array_equal(
      found, lpips.frame_lpips(self.distance, wide, b, batch_size=3)
    )
    one = lpips.frame_lpips(self.distance, a[1, 0], b[1, 2], batch_size=3)
    self.assertEqual(one.shape, ())
    self.assertAlmostEqual(float(one), found[1, 2], places=6)

  def test_nothing_is_computed_in_less_than_single_precision(self):
    a, b = seeded.frame_pairs(8, 2, 31, 31)
    text = lpips._distances.lower(*self.distance[:2], a, b).as_text()
    self.assertIn("HIGHEST", text)
    self.assertNotIn("precision DEFAULT", text)

  @parameterized.parameters((30, 40), (40, 30))
  def test_frames_too_small_for_the_network_are_the_users_mistake(self, *size):
    a, b = seeded.frame_pairs(9, 1, *size)
    message = f"of {size[0]}x{size[1]} pixels .* AlexNet needs at least 31x31"
    with self.assertRaisesRegex(UserError, message):
      lpips.frame_lpips(self.distance, a, b)


class LoadTest(WithFiles):
  def test_an_unknown_network_is_answered_with_the_known(self):
    with self.assertRaisesRegex(UserError, "'squeeze'; choose one of: vgg, alex"):
      lpips.load("squeeze", self.network, self.heads)

  def test_a_missing_file_is_named_with_where_to_get_it(self):
    missing = os.path.join(self.folder, "missing.safetensors")
    message = f"VGG16 of torchvision at {missing}; get https://.*/vgg16-397923af.pth"
    with self.assertRaisesRegex(UserError, message):
      lpips.load("vgg", missing, self.heads)
    message = f"LPIPS's heads on AlexNet at {missing}; get https://.*/alex.pth"
    with self.assertRaisesRegex(UserError, message):
      lpips.load("alex", self.network, missing)

  @pytest.mark.slow
  def test_without_files_it_is_the_package_s_weights(self):
    a, b = seeded.frame_pairs(3, 2, 35, 50)
    near = (a.astype(int) + b) // 2
    for name, digest in (("alex", "443c5bc3"), ("vgg", "2ecbe4ce")):
      distance = lpips.load(name)
      self.assertStartsWith(distance.sha256, digest)
      far = lpips.lpips(distance, a, b)
      self.assertGreater(far, 1.1 * lpips.lpips(distance, a, near.astype(np.uint8)))
      self.assertBetween(far, 0.01, 1.5)

  def test_files_of_something_else_are_named_with_what_is_wrong(self):
    # The two exchanged, and each of the other network.
    network, heads = self.network, self.heads
    other = self.write("other", seeded.head_arrays("vgg"))
    for name, arguments, path, fault in (
      ("alex", (heads, network), heads, "features.0.weight is missing"),
      ("vgg", (network, heads), network, "features.0.weight has the shape"),
      ("alex", (network, network), network, "lin0.model.1.weight is missing"),
      ("alex", (network, other), other, "lin1.model.1.weight has the shape"),
    ):
      with self.assertRaisesRegex(UserError, f"^{path} holds no .*: {fault}.*; get"):
        lpips.load(name, *arguments)

  def test_the_statements_that_convert_are_python_and_fit_in_double_quotes(self):
    for origins in (lpips.NETWORK_ORIGINS, lpips.HEAD_ORIGINS):
      self.assertEqual(list(origins), ["vgg", "alex"])
      for origin in origins.values():
        compile(origin.convert, "convert", "exec")
        self.assertNotIn('"', origin.convert)
        self.assertNotIn("\n", origin.advice())


if __name__ == "__main__":
  absltest.main()
