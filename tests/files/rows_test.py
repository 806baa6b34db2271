"""Rows come back as they were, and a row that did not get whole is not there."""

import errno
import fcntl
import hashlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import threading
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import ml_dtypes
import numpy as np

from lamd_jax.files import rows as rows_lib
from lamd_jax.files.rows import Rows
from lamd_jax.types import UserError

MADE_FROM = {"model": "a", "size": [2, 3]}
SPECS = {
  "mean": jax.ShapeDtypeStruct((2, 3), np.float32),
  "count": jax.ShapeDtypeStruct((), np.int64),
}
HASHES = [hashlib.sha256(bytes([i])).digest() for i in range(8)]
NUMBERS = [3, 0, 7, 1, 2, 6, 5, 4]


def values(numbers):
  """Rows that tell their number in each array."""
  x = np.array(numbers)
  means = x[:, None, None] + np.arange(6, dtype=np.float32).reshape(2, 3) / 8
  return {"mean": means.astype(np.float32), "count": x * 10**12}


class RowsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    temporary = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = temporary / "deep" / "rows"

  def open(self, made_from=MADE_FROM, specs=SPECS):
    return Rows(self.folder, made_from, specs)

  def expect(self, rows, keys, numbers):
    for key, number in zip(keys, numbers, strict=True):
      self.assertIn(key, rows)
      row, expected = rows.get(key), values([number])
      self.assertEqual(row.keys(), expected.keys())
      for name, x in row.items():
        self.assertEqual(x.dtype, SPECS[name].dtype)
        np.testing.assert_array_equal(x, expected[name][0], strict=True)

  @parameterized.parameters((HASHES,), (NUMBERS,))
  def test_rows_come_back_by_their_keys(self, keys):
    rows = self.open()
    self.assertFalse(self.folder.exists())
    self.assertIsNone(rows.get(keys[0]))
    rows.add(keys[:3], values(range(3)))
    rows.add(keys[3:5], values([3, 4]))
    for again in (rows, self.open(), self.open(specs=None)):
      self.expect(again, keys[:5], range(5))
      self.assertNotIn(keys[5], again)
      self.assertIsNone(again.get(keys[5]))
    self.open().add(keys[5:], values([5, 6, 7]))
    self.expect(self.open(), keys, range(8))

  def test_numpy_reads_the_files(self):
    self.open().add(HASHES[:3], values(range(3)))
    self.open().add(HASHES[3:5], values([3, 4]))
    for name, expected in values(range(5)).items():
      for mode in (None, "r"):
        path = self.folder / f"{name}.npy"
        found = np.load(path, mmap_mode=mode, allow_pickle=False)
        np.testing.assert_array_equal(found, expected, strict=True)

  def test_numbers_are_places(self):
    rows = self.open()
    rows.add([4, 1], values([4, 1]))
    found = np.load(self.folder / "count.npy")
    self.assertEqual(found.tolist(), [0, 10**12, 0, 0, 4 * 10**12])
    self.assertEqual([i in rows for i in range(6)], [0, 1, 0, 0, 1, 0])
    self.assertIsNone(rows.get(0))  # Not the zeros that are there.

  @parameterized.parameters((HASHES,), (NUMBERS,))
  def test_a_row_that_is_there_is_not_written_again(self, keys):
    rows = self.open()
    rows.add([keys[0], keys[0]], values([0, 0]))
    before = (self.folder / "mean.npy").read_bytes()
    rows.add([keys[0]], values([5]))
    self.assertEqual((self.folder / "mean.npy").read_bytes(), before)
    self.expect(rows, keys[:1], [0])

  def test_types_that_numpy_does_not_know(self):
    specs = {"x": jax.ShapeDtypeStruct((3,), ml_dtypes.bfloat16)}
    x = np.array([[0.5, -1.0, 3.0]], ml_dtypes.bfloat16)
    self.open(specs=specs).add([0], {"x": x})
    found = self.open(specs=specs).get(0)["x"]
    np.testing.assert_array_equal(found, x[0], strict=True)

  def test_without_a_folder_they_are_in_memory(self):
    rows = Rows(None, MADE_FROM)
    self.assertNotIn(HASHES[0], rows)
    rows.add(HASHES[:2], values(range(2)))
    self.expect(rows, HASHES[:2], range(2))
    self.assertIsNone(rows.get(HASHES[2]))

  def test_only_process_0_writes_and_others_know_what_they_computed(self):
    self.open().add(HASHES[:1], values([0]))
    before = {path: path.read_bytes() for path in self.folder.iterdir()}
    with mock.patch.object(jax, "process_index", return_value=1):
      rows = self.open()
      rows.add(HASHES[1:2], values([1]))
      self.expect(rows, HASHES[:2], range(2))
    self.assertEqual({x: x.read_bytes() for x in self.folder.iterdir()}, before)

  def test_rows_of_another_origin_are_refused(self):
    self.open().add([0], values([0]))
    self.assertEqual(
      json.loads((self.folder / "made_from.json").read_text()), MADE_FROM
    )
    with self.assertRaisesRegex(
      UserError, "rows was made from other model .a, here b.; delete it"
    ):
      self.open({**MADE_FROM, "model": "b"})
    for damage in ("[1]", "{", None):
      path = self.folder / "made_from.json"
      path.unlink() if damage is None else path.write_text(damage)
      with self.assertRaisesRegex(UserError, "other model .unknown, here a"):
        self.open()

  def test_rows_of_another_shape_are_refused(self):
    rows = self.open()
    for name, x in (("mean", np.zeros((1, 3, 2), np.float32)), ("count", np.zeros(1))):
      with self.assertRaisesRegex(ValueError, f"rows of '{name}' are .*, expected"):
        rows.add([0], {**values([0]), name: x})
    self.assertFalse(self.folder.exists())

  @parameterized.product(keys=(HASHES, NUMBERS), name=("mean", "count", "keys"))
  def test_a_flipped_bit_loses_one_row(self, keys, name):
    self.open().add(keys, values(range(8)))
    path = self.folder / f"{name}.npy"
    content = bytearray(path.read_bytes())
    size = (len(content) - 256) // 8
    place = 2 if keys is HASHES else keys[2]
    content[256 + place * size + size // 2] ^= 16
    path.write_bytes(content)
    rows = self.open()
    if name == "keys":
      self.assertIsNone(rows.get(keys[2]))
    else:
      with self.assertLogs(level="WARNING") as logs:
        self.assertIsNone(rows.get(keys[2]))
      self.assertRegex(logs.output[0], f"row {place} of .*rows is damaged")
    self.assertNotIn(keys[2], rows)
    self.assertNotIn(keys[2], self.open())  # Known without a look at the row.
    rows.add(keys[2:3], values([2]))
    for again in (rows, self.open()):
      self.expect(again, keys, range(8))

  @parameterized.product(keys=(HASHES, sorted(NUMBERS)), name=("mean", "count", "keys"))
  def test_a_file_that_was_cut_loses_its_last_rows(self, keys, name):
    self.open().add(keys, values(range(8)))
    path = self.folder / f"{name}.npy"
    os.truncate(path, 256 + (path.stat().st_size - 256) // 8 * 5 + 3)
    rows = self.open()
    self.expect(rows, keys[:5], range(5))
    self.assertEqual([key in rows for key in keys[5:]], [False] * 3)
    rows.add(keys, values(range(8)))
    self.expect(self.open(), keys, range(8))

  @parameterized.parameters("junk", "gone", "another type", "an old file", "pickled")
  def test_a_file_that_is_none_of_ours_is_computed_anew(self, damage):
    self.open().add(HASHES, values(range(8)))
    path = self.folder / "mean.npy"
    means = values(range(8))["mean"]
    match damage:
      case "junk":
        path.write_bytes(b"no array" * 100)
      case "gone":
        path.unlink()
      case "another type":
        other = {**SPECS, "mean": jax.ShapeDtypeStruct((2, 3), np.int32)}
        path.write_bytes(rows_lib._header(other["mean"], 8) + path.read_bytes()[256:])
      case "an old file":
        np.save(path, means)
      case "pickled":
        np.save(path, means.astype(object), allow_pickle=True)
    with self.assertLogs(level="WARNING") as logs:
      rows = self.open()
    self.assertRegex(logs.output[0], "rows is damaged or old; its rows are computed")
    self.assertEqual([rows.get(key) for key in HASHES], [None] * 8)
    rows.add(HASHES[:2], values(range(2)))
    for again in (rows, self.open()):
      self.expect(again, HASHES[:2], range(2))
      self.assertNotIn(HASHES[2], again)

  def test_a_killed_process_leaves_what_it_finished(self):
    script = f"""if True:
      import os, signal, sys
      sys.path.insert(0, {os.path.dirname(__file__)!r})
      import rows_test, pathlib
      rows = rows_test.Rows(pathlib.Path(sys.argv[1]), rows_test.MADE_FROM)
      for i in range(5):
        rows.add([i], rows_test.values([i]))
      write = rows_test.rows_lib._Column.write
      def torn(self, rows):
        if self._path.name == "keys.npy":
          os.kill(os.getpid(), signal.SIGKILL)
        write(self, rows)
      rows_test.rows_lib._Column.write = torn
      rows.add([5], rows_test.values([5]))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(self.folder)]
    self.assertEqual(subprocess.run(command, env=environment).returncode, -9)
    rows = self.open()
    self.expect(rows, range(5), range(5))
    self.assertNotIn(5, rows)
    rows.add([5], values([5]))
    self.expect(self.open(), range(6), range(6))

  @parameterized.parameters("mean", "keys")
  def test_a_disk_that_is_full_in_the_middle_of_a_row(self, name):
    self.open().add(HASHES[:3], values(range(3)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system itself cuts the file, 4 bytes into the row.
    size = (self.folder / f"{name}.npy").stat().st_size + 4
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
      with self.assertRaisesRegex(
        UserError, "cannot write to .*rows, .*File too large.; choose another folder"
      ):
        self.open().add(HASHES[3:4], values([3]))
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    self.assertEqual((self.folder / f"{name}.npy").stat().st_size, size)
    rows = self.open()
    self.expect(rows, HASHES[:3], range(3))
    self.assertIsNone(rows.get(HASHES[3]))
    rows.add(HASHES[3:], values(range(3, 8)))
    self.expect(self.open(), HASHES, range(8))

  def test_what_cannot_be_written_is_said_in_one_line(self):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
      mock.patch.object(rows_lib._Column, "write", side_effect=full),
      self.assertRaisesRegex(UserError, "the disk is full: could not write to .*rows"),
    ):
      self.open().add([0], values([0]))
    self.folder = self.folder.parent / "file"
    self.folder.write_text("mine")
    with self.assertRaisesRegex(UserError, "cannot write to .*file, .*another folder"):
      self.open().add([0], values([0]))
    self.assertEqual(self.folder.read_text(), "mine")

  def test_two_who_write_at_once_keep_the_rows_of_both(self):
    first, second = self.open(), self.open()
    first.add(HASHES[:2], values(range(2)))
    second.add(HASHES[1:4], values(range(1, 4)))
    first.add(HASHES[3:5], values([3, 4]))
    for rows in (first, second, self.open()):
      self.expect(rows, HASHES[:5], range(5))
    self.assertLen(np.load(self.folder / "count.npy"), 5)

  @parameterized.parameters(True, False)
  def test_many_who_write_at_once_never_mix_rows(self, has_locks):
    keys = [hashlib.sha256(b"many %d" % i).digest() for i in range(120)]
    start = threading.Barrier(4)

    def work(part):
      rows = self.open()
      start.wait()
      for i in range(part, 120, 4):
        rows.add([keys[i]], values([i]))

    self.open().add(HASHES[:1], values([0]))
    side_effect = None if has_locks else OSError(errno.ENOLCK, "No locks available")
    with mock.patch.object(fcntl, "flock", side_effect=side_effect, wraps=fcntl.flock):
      threads = [threading.Thread(target=work, args=[i]) for i in range(4)]
      for thread in threads:
        thread.start()
      for thread in threads:
        thread.join()
    rows = self.open()
    found = [i for i, key in enumerate(keys) if rows.get(key) is not None]
    self.expect(rows, [keys[i] for i in found], found)
    if has_locks:
      self.assertLen(found, 120)


if __name__ == "__main__":
  absltest.main()
