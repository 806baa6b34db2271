"""Rows that were computed once, in a file, by the digest of what they are of."""

import os
import pathlib
import secrets

import jax
import numpy as np

from lamd_jax.types import UserError


class RowCache:
  """Rows by digest; in memory alone where no folder is given.

  Attributes:
    rows: What is known, to be read and added to.
  """

  def __init__(
    self,
    folder: pathlib.Path | None,
    name: str,
    shape: tuple[int, ...] | None = None,
    dtype: np.dtype | None = None,
  ):
    """Reads what is kept; of a damaged file nothing, so that it is computed anew.

    Args:
      folder: Where the file is; made when it is first written.
      name: Of the file, without ending: another for rows that cannot be exchanged.
      shape: That rows must have; None for any.
      dtype: The same.
    """
    self.rows: dict[bytes, np.ndarray] = {}
    self._path = folder / f"{name}.npz" if folder else None
    if self._path and self._path.exists():
      try:
        with self._path.open("rb") as opened, np.load(opened) as file:
          digests, rows = file["digests"], file["rows"]
        if shape in (None, rows.shape[1:]) and dtype in (None, rows.dtype):
          self.rows = dict(zip((x.tobytes() for x in digests), rows, strict=True))
      except Exception:  # Damage shows as any error.
        self.rows = {}
    self._num_read = len(self.rows)

  def write(self) -> None:
    """Keeps what is new, whole or not at all; of several processes, only the first.

    Raises:
      UserError: The folder cannot be written to, or the disk is full.
    """
    if self._path is None or len(self.rows) == self._num_read:
      return
    if jax.process_index() != 0:
      return
    digests = np.stack([np.frombuffer(x, np.uint8) for x in self.rows])
    # A name of its own, since other runs may write the same rows.
    part = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.part")
    try:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      try:
        with part.open("wb") as file:
          np.savez(file, digests=digests, rows=np.stack(list(self.rows.values())))
        os.replace(part, self._path)
      finally:
        part.unlink(missing_ok=True)
    except OSError as e:
      raise UserError(
        f"cannot write {self._path}, which keeps what was computed ({e.strerror}); name"
        " another folder for it"
      ) from e
