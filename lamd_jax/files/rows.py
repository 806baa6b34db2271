"""On-disk store of computed rows, keyed by content hash or by number.

A row is one array or several, by name, each of a fixed shape. A folder of rows holds

    <name>.npy      the rows of one array, one after another; `np.load` reads it
    keys.npy        key and checksum of each row, written after the row itself
    made_from.json  what the rows were computed from

Rows are written as they are computed, so a killed run keeps all that it finished. A row
that was cut short or damaged fails its checksum and counts as missing. Only the rows
asked for are in memory. Several processes may read and write the same folder.
"""

from collections.abc import Mapping, Sequence
import contextlib
import json
import math
import os
import pathlib
from typing import Any
import weakref
import zlib

from absl import logging
import jax
import numpy as np

from lamd_jax.files import lock, reading, writing
from lamd_jax.types import UserError

KEYS = "keys"
MADE_FROM = "made_from.json"
_HEADER = 256  # Bytes; one size for all, so that a file can grow in place.
_KEY = 32  # Bytes of a key.
_RECORD = jax.ShapeDtypeStruct((_KEY + 4,), np.uint8)  # A key and a CRC-32.

# A SHA-256 of what a row depends on, or the number of a row, which is then its place.
Key = bytes | int


class Rows:
  """Computed rows in a folder, or in memory alone if no folder is given."""

  def __init__(
    self,
    folder: pathlib.Path | None,
    made_from: Mapping[str, Any],
    specs: Mapping[str, jax.ShapeDtypeStruct] | None = None,
  ):
    """Opens the rows of a folder, which is made when the first row is added.

    Args:
      folder: Where rows are kept; the keys of one folder are all hashes or all numbers.
      made_from: Inputs that all rows depend on, as JSON values.
      specs: Shape and dtype of one row of each array; by default those in the folder,
        or those of the first rows that are added.

    Raises:
      UserError: The folder holds rows that were made from something else.
    """
    self._folder = folder
    self._made_from = json.loads(json.dumps(made_from))
    self._specs = dict(specs or {})
    self._memory: dict[Key, dict[str, np.ndarray]] = {}
    self._columns: dict[str, _Column] = {}  # Empty until there are files.
    self._places: dict[bytes, int] = {}  # Of hashes.
    self._num_placed = 0  # Rows whose keys were read into `_places`.
    if not self._open() and folder is not None and any(folder.glob("*.npy")):
      logging.warning("%s is damaged or old; its rows are computed anew", folder)

  def __contains__(self, key: Key) -> bool:
    """Returns whether a row is there; only `get` finds out whether it is intact."""
    if key in self._memory:
      return True
    place, checksum = self._find(key)
    return bool(checksum) and all(place < x.count() for x in self._columns.values())

  def get(self, key: Key) -> dict[str, np.ndarray] | None:
    """Returns the arrays of a row, read-only; None if it is missing or damaged."""
    if key in self._memory:
      return self._memory[key]
    place, checksum = self._find(key)
    if not checksum:
      return None
    row = {name: self._columns[name].read(place) for name in self._specs}
    if checksum != _checksum(row):
      logging.warning("row %d of %s is damaged and lost", place, self._folder)
      if jax.process_index() == 0:
        with contextlib.suppress(OSError):  # Of a folder that is only read.
          self._columns[KEYS].write({place: bytes(*_RECORD.shape)})
      return None
    return {k: np.ndarray(x.shape, x.dtype, row[k]) for k, x in self._specs.items()}

  def add(self, keys: Sequence[Key], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes rows that are not there yet; only process 0 writes, others remember.

    Args:
      keys: A key for each row.
      arrays: Rows of each array, in the order of the keys.

    Raises:
      UserError: The folder is not writable, or the disk is full.
    """
    self._specs = self._specs or {
      name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in arrays.items()
    }
    for name, spec in self._specs.items():
      x, shape = arrays[name], (len(keys), *spec.shape)
      if x.shape != shape or x.dtype != spec.dtype:
        raise ValueError(
          f"rows of {name!r} are {x.dtype} {x.shape}, expected {spec.dtype} {shape}"
        )
    rows = {
      key: {k: arrays[k][i, ...] for k in self._specs} for i, key in enumerate(keys)
    }
    if self._folder is None or jax.process_index() != 0:
      self._memory.update(rows)
      return
    try:
      with (
        writing.explain_full_disk(self._folder),
        # Where there are no locks, rows that two write over each other fail their
        # checksums.
        lock.waiting(self._folder),
      ):
        self._write(self._folder, rows)
    except OSError as e:
      raise UserError(
        f"cannot write to {self._folder}, which keeps what was computed"
        f" ({e.strerror}); choose another folder"
      ) from e

  def _write(self, folder: pathlib.Path, rows: Mapping[Key, dict[str, np.ndarray]]):
    """Writes the arrays of rows, and then their keys."""
    if not self._open():  # Another process may have made the files by now.
      for path in folder.glob("*.npy"):
        path.unlink()
      writing.write_json(folder / MADE_FROM, self._made_from)
      for name, spec in {**self._specs, KEYS: _RECORD}.items():
        (folder / f"{name}.npy").write_bytes(_header(spec, 0))
      self._open()
    new: dict[int, dict[str, bytes]] = {}
    end = self._columns[KEYS].count()
    for key, row in rows.items():
      if key not in self:
        data = {name: x.tobytes() for name, x in row.items()}
        place = key if isinstance(key, int) else end + len(new)
        new[place] = {**data, KEYS: _name(key) + _checksum(data)}
    for name in (*self._specs, KEYS):
      self._columns[name].write({place: data[name] for place, data in new.items()})

  def _find(self, key: Key) -> tuple[int, bytes]:
    """Returns place and checksum of a row; an empty checksum if there is none."""
    if not self._open():
      return 0, b""
    keys = self._columns[KEYS]
    if isinstance(key, bytes):
      if (new := keys.count() - self._num_placed) > 0:
        found = keys.read(self._num_placed, new)
        for start in range(0, len(found), keys.row_bytes):
          self._places[found[start : start + _KEY]] = self._num_placed
          self._num_placed += 1
      place = self._places.get(key, 0)
    else:
      place = key
    record = keys.read(place)
    return place, record[_KEY:] if record[:_KEY] == _name(key) else b""

  def _open(self) -> bool:
    """Opens the files, if they are there and hold arrays of these shapes."""
    if self._columns or self._folder is None:
      return bool(self._columns)
    paths = {path.stem: path for path in self._folder.glob("*.npy")}
    if not paths:
      return False
    self._check_made_from(self._folder / MADE_FROM)
    read = {name: _read_spec(path) for name, path in paths.items()}
    found = {name: x for name, x in read.items() if x is not None}
    specs = {**(self._specs or found), KEYS: _RECORD}
    if len(specs) == 1 or _headers(found) != _headers(specs):
      return False
    self._columns = {name: _Column(paths[name], x) for name, x in specs.items()}
    self._specs = {name: x for name, x in specs.items() if name != KEYS}
    return True

  def _check_made_from(self, path: pathlib.Path) -> None:
    there = {}
    with contextlib.suppress(UserError):  # What is damaged may have held anything.
      there = reading.read_json(path)
    for key, value in self._made_from.items():
      if there.get(key) != value:
        raise UserError(
          f"{path.parent} was made from other {key} ({there.get(key, 'unknown')}, here"
          f" {value}); delete it, and it is computed anew"
        )


class _Column:
  """A file of rows: a header of NumPy's format, and the bytes of each row.

  Files are read and written, not mapped into memory: a mapped file that another process
  cuts short, or whose disk is full, ends the process without a word.
  """

  def __init__(self, path: pathlib.Path, spec: jax.ShapeDtypeStruct):
    self.row_bytes = math.prod(spec.shape) * spec.dtype.itemsize
    self._path, self._spec = path, spec
    self._fd = os.open(path, os.O_RDONLY)
    weakref.finalize(self, os.close, self._fd)

  def count(self) -> int:
    """Returns how many rows are there, whole, or left out between others."""
    return (os.fstat(self._fd).st_size - _HEADER) // self.row_bytes

  def read(self, place: int, count: int = 1) -> bytes:
    """Returns the bytes of rows; fewer where the file ends."""
    start = _HEADER + place * self.row_bytes
    return os.pread(self._fd, count * self.row_bytes, start)

  def write(self, rows: Mapping[int, bytes]) -> None:
    """Writes the bytes of rows, each at its place."""
    with self._path.open("r+b") as file:
      for place, row in rows.items():
        file.seek(_HEADER + place * self.row_bytes)
        file.write(row)
      file.flush()
      file.seek(0)
      file.write(_header(self._spec, self.count()))


def _header(spec: jax.ShapeDtypeStruct, count: int) -> bytes:
  """Returns the header of an .npy file, version 1.0."""
  dtype = np.dtype(spec.dtype.str)  # Of NumPy's own: bfloat16 is two bytes to it.
  shape = (count, *spec.shape)
  values = {"descr": dtype.str, "fortran_order": False, "shape": shape}
  start = np.lib.format.magic(1, 0) + (_HEADER - 10).to_bytes(2, "little")
  return start + repr(values).encode().ljust(_HEADER - 11) + b"\n"


def _headers(specs: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, bytes]:
  return {name: _header(spec, 0) for name, spec in specs.items()}


def _read_spec(path: pathlib.Path) -> jax.ShapeDtypeStruct | None:
  """Returns shape and dtype of a file's rows; None if it has another header."""
  try:
    with path.open("rb") as file:
      np.lib.format.read_magic(file)
      shape, _, dtype = np.lib.format.read_array_header_1_0(file)
      file.seek(0)
      spec = jax.ShapeDtypeStruct(shape[1:], dtype)
      return spec if file.read(_HEADER) == _header(spec, shape[0]) else None
  except Exception:  # Damage shows as any error.
    return None


def _name(key: Key) -> bytes:
  """Returns the bytes of a key, which are never all zero, as where no row is."""
  return key if isinstance(key, bytes) else (key + 1).to_bytes(_KEY, "big")


def _checksum(row: Mapping[str, bytes]) -> bytes:
  """Returns four bytes that differ where a byte of a row does."""
  found = 0
  for name in sorted(row):
    found = zlib.crc32(row[name], found)
  return found.to_bytes(4, "big")
