"""The videos of a folder: which files, which folders of frames, and what else is there.

A video is a file with the ending of one, or a folder of pictures, its frames. A folder
that holds videos, itself or in its subfolders, is not a folder of frames: pictures in
it are thumbnails or contact sheets. Files of one name but for the ending, and a folder
of frames with this name next to them, show the same clip, which counts once.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
import os
import pathlib
from typing import Any, NamedTuple
import unicodedata

from absl import logging

from lamd_jax.data import order
from lamd_jax.data.media import FRAME_ENDINGS, VIDEO_ENDINGS
from lamd_jax.data.regular_files import irregular
from lamd_jax.types import printable

OUTSIDE = ("..",)
"""Stands in for the frames of a video that lies outside the folder."""

Item = tuple[str, tuple[str, ...]]


class Listing(NamedTuple):
  """The videos of a folder.

  Attributes:
    found: Relative path and frames of each video, by path; the frames of a file are (),
      those of what lies outside the folder are OUTSIDE.
    passed_over: A line "name: reason" for all else.
  """

  found: list[Item]
  passed_over: list[str]


class _Folder(NamedTuple):
  """Names of files in one folder, which has a path relative to the whole."""

  path: pathlib.PurePosixPath
  videos: list[str]
  pictures: list[str]


def list_videos(
  root: pathlib.Path, endings: tuple[str, ...] = VIDEO_ENDINGS
) -> Listing:
  """Lists the videos of a folder and its subfolders; does not look at hidden ones.

  Args:
    root: The folder, resolved. Links are followed as long as they stay inside.
    endings: Endings of files that are videos, in lower case.
  """
  found: list[Item] = []
  lines: list[str] = []
  others: dict[str, list[str]] = {}
  folders: list[_Folder] = []
  for here, names in _walk(root, found, lines):
    folders.append(folder := _Folder(here, [], []))
    for name in names:
      path, ending = (here / name).as_posix(), _ending(name)
      if ending not in endings and ending not in FRAME_ENDINGS:
        others.setdefault(ending, []).append(path)
      elif is_outside(root, path):
        found.append((path, OUTSIDE))
      elif kind := irregular(root / path):
        lines.append(f"{printable(path)}: {kind}, not a file")
      else:
        (folder.videos if ending in endings else folder.pictures).append(name)

  holders = {p for name, _ in found for p in pathlib.PurePosixPath(name).parents}
  files: dict[pathlib.PurePosixPath, str] = {}
  for here, videos, _ in folders:
    # A gif has few colours: mostly a preview of a file that has all of them.
    kept, twins = _without_twins(videos, lambda ending: (ending == ".gif", ending))
    found += [((here / name).as_posix(), ()) for name in kept]
    lines += _twin_lines(here, twins)
    files |= {here / _stem(name): name for name in kept}
    if kept:
      holders |= {here, *here.parents}
  # The deepest first, as they decide what the folders above them are.
  for here, _, pictures in sorted(folders, key=lambda x: -len(x.path.parts)):
    if not pictures:
      continue
    count = f"{len(pictures)} picture{'s' if len(pictures) > 1 else ''}"
    first = printable(min(pictures, key=order.natural))
    what = f"{printable(here.as_posix())}: {count}, such as {first}"
    if here in holders:
      lines.append(f"{what}, in a folder that holds videos")
    elif here in files:
      lines.append(f"{what}, with the name of {printable(files[here])}, its twin")
    else:
      frames, twins = frames_of(pictures)
      found.append((here.as_posix(), frames))
      lines += _twin_lines(here, twins)
      holders |= set(here.parents)
  for ending, paths in others.items():
    count = f"{len(paths)} file{'s' if len(paths) > 1 else ''}"
    lines.append(
      f"{printable(paths[0])}: not looked at, by its ending"
      f" ({printable(ending) or 'none'}, {count})"
    )
  return Listing(sorted(found), sorted(lines))


def warn(lines: Sequence[str], most: int = 20) -> None:
  """Logs what is left out, `most` lines of it."""
  for line in lines[:most]:
    logging.warning("left out: %s", line)
  if len(lines) > most:
    logging.warning("left out: %d more", len(lines) - most)


def _walk(
  root: pathlib.Path, found: list[Item], lines: list[str]
) -> Iterator[tuple[pathlib.PurePosixPath, list[str]]]:
  """Yields relative path and names of files of each folder, none twice."""

  def on_error(error: OSError) -> None:
    name = pathlib.PurePath(os.path.relpath(error.filename, root)).as_posix()
    lines.append(f"{printable(name)}: cannot be read ({error.strerror})")

  seen: set[str] = set()
  for folder, folders, files in os.walk(root, onerror=on_error, followlinks=True):
    here = pathlib.PurePosixPath(pathlib.Path(folder).relative_to(root).as_posix())
    real = os.path.realpath(folder)
    if real in seen:  # A link to a folder that is visited anyway, or a loop.
      folders.clear()
      continue
    seen.add(real)
    if is_outside(root, here.as_posix()):
      folders.clear()
      found.append((here.as_posix(), OUTSIDE))
      continue
    folders[:] = sorted(name for name in folders if not name.startswith("."))
    yield here, sorted(name for name in files if not name.startswith("."))


def is_outside(root: pathlib.Path, name: str) -> bool:
  """Returns whether a path leads out of the folder, by links or by itself."""
  pure = pathlib.PurePath(name)
  if pure.is_absolute() or ".." in pure.parts:
    return True
  real = pathlib.Path(os.path.realpath(root / name))
  return not real.is_relative_to(os.path.realpath(root))


def frames_of(pictures: Iterable[str]) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
  """Returns the frames in their order, and pairs of a picture left out and its twin."""
  counts = Counter(map(_ending, pictures))
  kept, twins = _without_twins(pictures, lambda ending: (-counts[ending], ending))
  return tuple(sorted(kept, key=order.natural)), twins


def _without_twins(
  names: Iterable[str], rank: Callable[[str], Any]
) -> tuple[list[str], list[tuple[str, str]]]:
  """Returns one file of each name, and pairs of what is left out and what is not.

  Args:
    names: Names of files of one folder.
    rank: Maps an ending to a key; the file with the lowest one is kept.
  """
  kept: dict[str, str] = {}
  twins: list[tuple[str, str]] = []
  for name in sorted(names, key=lambda name: (rank(_ending(name)), name)):
    if kept.setdefault(_stem(name), name) != name:
      twins.append((name, kept[_stem(name)]))
  return sorted(kept.values()), twins


def _twin_lines(
  here: pathlib.PurePosixPath, twins: Iterable[tuple[str, str]]
) -> list[str]:
  return [
    f"{printable((here / name).as_posix())}: the twin of {printable(other)}"
    for name, other in twins
  ]


def _ending(name: str) -> str:
  return os.path.splitext(name)[1].lower()


def _stem(name: str) -> str:
  return os.path.splitext(name)[0]


class Finder:
  """Finds in a folder what lists name, and says what is there instead."""

  def __init__(self, root: pathlib.Path):
    """Takes the folder, resolved."""
    self._root = root
    # The names of each folder, by what they are compared by.
    self._composed: dict[pathlib.Path, dict[str, str]] = {}
    self._alike: dict[pathlib.Path, dict[str, str]] = {}

  def find(self, name: str) -> Item | str:
    """Returns the path and the frames of a video as in a `Listing`, or why it has none.

    Letters with accents may be composed in one of the names and not in the other, as
    macOS writes them.
    """
    if "\0" in name:
      return "not in the folder"
    if is_outside(self._root, name):
      return name, OUTSIDE
    real = pathlib.Path()
    for part in pathlib.PurePath(name).parts:
      if not os.path.lexists(self._root / real / part):
        composed = self._names(self._composed, real, _composed)
        if _composed(part) not in composed:
          return self._hint(name, real, part)
        part = composed[_composed(part)]
      real /= part
    path, found = self._root / real, real.as_posix()
    if is_outside(self._root, found):
      return found, OUTSIDE
    if path.is_dir():
      names = self._names({}, real, str)
      pictures = [x for x in names if _ending(x) in FRAME_ENDINGS and x[0] != "."]
      return (found, frames_of(pictures)[0]) if pictures else "a folder without frames"
    if kind := irregular(path):
      return f"{kind}, not a file"
    return found, ()

  def _names(
    self,
    known: dict[pathlib.Path, dict[str, str]],
    folder: pathlib.Path,
    key: Callable[[str], str],
  ) -> dict[str, str]:
    """Returns all names in a folder by a key; {} if it cannot be read."""
    if folder not in known:
      try:
        names = sorted(os.listdir(self._root / folder), reverse=True)
      except OSError:
        names = []
      known[folder] = {key(name): name for name in names}
    return known[folder]

  def _hint(self, name: str, folder: pathlib.Path, part: str) -> str:
    """Returns that there is no such file, and which one may be meant."""
    forward = name.replace("\\", "/")
    if forward != name and not isinstance(self.find(forward), str):
      return f"not in the folder; with forward slashes, {printable(forward)} is"
    # Without the ending and capitals; the name may lack its ending.
    alike = self._names(self._alike, folder, lambda x: _stem(_composed(x)).casefold())
    for meant in (_stem(part), part):
      if there := alike.get(_composed(meant).casefold()):
        return f"not in the folder; {printable((folder / there).as_posix())} is"
    return "not in the folder"


def _composed(text: str) -> str:
  return unicodedata.normalize("NFC", text)
