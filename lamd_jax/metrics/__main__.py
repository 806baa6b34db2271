r"""Measures anyone's videos, in folders or NumPy files.

python -m lamd_jax.metrics fvd REAL GENERATED
python -m lamd_jax.metrics fvd,kvd,motion REAL GENERATED --output=card.json
python -m lamd_jax.metrics compare A.json B.json
"""

import argparse
from collections.abc import Mapping, Sequence
import difflib
import io
import json
import logging as std_logging
import os
import pathlib
import sys
import typing

from absl import logging
import numpy as np

from lamd_jax.files import reading, writing
from lamd_jax.metrics import card, clip_set, measures, resize, score
from lamd_jax.types import UserError, printable, reason

_EPILOG = """measures, one or several separated by commas:
  fvd, kvd         on features of I3D, whose weights come with the extra `metrics`
  fid, kid, is     on Inception features of frames; see --frames
  psnr, ssim       each generated clip against the real one of the same number
  lpips, lpips_vgg likewise, with AlexNet or VGG16
  clipsim          frames against captions; see --captions
  motion           amplitude, roughness, flicker and share of stills, relative to real

compare A.json B.json lists the differences between the protocols of two scores."""


# Bounds of whole numbers: beyond them lie typing mistakes and exhausted memory.
_BOUNDS: Mapping[str, tuple[int, int]] = {
  "num_clips": (1, 10**9),
  "num_real": (1, 10**9),
  "num_frames": (1, 10**9),
  "frame_stride": (1, 10**9),
  "first_frame": (0, 10**9),
  "resolution": (1, clip_set.MAX_RESOLUTION),
  "group_by": (1, 100),
  "batch_size": (1, 4096),
  "num_draws": (0, 100_000),
}


class _Parser(argparse.ArgumentParser):
  """A parser whose errors are one line, as all others are."""

  def error(self, message: str) -> typing.NoReturn:
    """Prints an error and ends the program."""
    self.exit(2, f"{printable(message)[:1000]}; --help lists all flags\n")


class _Formatter(std_logging.Formatter):
  """A format of log records in one line each, whatever names they hold."""

  def format(self, record: std_logging.LogRecord) -> str:
    """Returns a record as text."""
    return printable(super().format(record))


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    "python -m lamd_jax.metrics",
    description="Measures anyone's videos.",
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("measures", help="measures, see below; or: compare")
  add("real", help="a folder of videos, a .npy or .npz file, or file.npz:name")
  add("generated", help="the clips to judge, in the same formats")
  add("--num_clips", type=int, help="clips per set; default: all")
  add("--num_real", type=int, help="real clips, if not as many")
  add("--num_frames", type=int, help="frames per clip; default: all")
  add("--frame_stride", type=int, default=1, help="step between frames of a clip")
  add("--first_frame", type=int, default=0, help="1 skips a given first frame")
  add("--resolution", type=int, help="resizes both sets to this size")
  add(
    "--paired",
    action="store_true",
    help="clip n of both sets shows the same",
  )
  add("--windows", action="store_true", help="score long videos window by window")
  add("--group_by", type=int, metavar="LEVEL", help="score each folder: cFVD, sFVD")
  add("--frames", choices=typing.get_args(measures.Frames), default="all")
  add("--resize_rule", choices=typing.get_args(resize.Rule), default="half_pixel")
  add("--weights", default="weights", help="folder with networks other than I3D")
  add("--i3d", help="weights of I3D to use instead (.safetensors)")
  add("--captions", help="a .json file that maps names of clips to captions")
  add(
    "--say",
    action="append",
    default=[],
    metavar="NAME=TEXT",
    help=f"an entry of the protocol: {', '.join(card.FIELDS)}",
  )
  add("--batch_size", type=int, default=4)
  add(
    "--num_draws",
    type=int,
    default=100,
    help="draws for the interval; 0: none",
  )
  add("--cache", help="folder for features of real clips", default=_cache())
  add("--no_cache", action="store_const", const=None, dest="cache")
  add("--output", help="file for the card (.json)")
  return parser


def _cache() -> str | None:
  folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  # In some containers the user has no home.
  return None if folder.startswith("~") else os.path.join(folder, "lamd_jax")


def _measure(args: argparse.Namespace) -> None:
  for name, (low, high) in _BOUNDS.items():
    value = getattr(args, name)
    if value is not None and not low <= value <= high:
      raise UserError(f"--{name}={value}: expected a whole number from {low} to {high}")
  if args.windows and args.group_by:
    raise UserError("give --windows or --group_by, not both")
  protocol = dict(map(_said, args.say))
  captions = _read_captions(args.captions) if args.captions else {}
  output = _output(args.output) if args.output else None
  options = measures.Options(
    folder=_path("weights", args.weights),
    i3d=_path("i3d", args.i3d) if args.i3d else None,
    resize_rule=args.resize_rule,
    frames=args.frames,
    captions=captions,
  )
  real, generated = (
    clip_set.open_clips(
      path,
      num_frames=args.num_frames,
      frame_stride=args.frame_stride,
      resolution=args.resolution,
      start=args.first_frame,
    )
    for path in (args.real, args.generated)
  )
  made = measures.make_measures(args.measures.lower().split(","), options)
  kwargs = dict(
    num_clips=args.num_clips,
    num_real=args.num_real,
    are_pairs=args.paired,
    batch_size=args.batch_size,
    cache=_path("cache", args.cache) if args.cache else None,
    num_draws=args.num_draws,
    protocol=protocol,
  )
  if args.windows:
    found = score.score_windows(made, real, generated, **kwargs)
  elif args.group_by:
    found = score.score_groups(made, real, generated, args.group_by, **kwargs)
  else:
    found = {"": score.score(made, real, generated, **kwargs)}
  for part, list_ in found.items():
    for x in list_:
      _say(f"{part}: {card.headline(x)}" if part else card.headline(x))
  if len(found) > 1:
    for of_parts in zip(*found.values(), strict=True):
      values = [x["value"] for x in of_parts]
      name = of_parts[0]["name"].partition("@")[0]
      mean, std = np.mean(values), np.std(values)
      _say(f"mean of {len(values)} {name}: {mean:.4g} ± {std:.4g}")
  if output:
    # Last: a file that cannot be written costs no figure.
    cards = [
      x | ({"part": printable(part)} if part else {})
      for part, list_ in found.items()
      for x in list_
    ]
    content = cards[0] if len(cards) == 1 else cards
    writing.write_text(output, json.dumps(content, indent=2) + "\n")


def _say(text: str) -> None:
  print(printable(text))


def _path(flag: str, text: str) -> pathlib.Path:
  """Returns the path that a flag names."""
  try:
    return pathlib.Path(text).expanduser()
  except RuntimeError as e:
    raise UserError(f"--{flag}={text}: there is no such user") from e


def _output(text: str) -> pathlib.Path:
  """Returns the file for cards, if one can be there."""
  path = _path("output", text)
  if os.path.isdir(path):
    raise UserError(f"--output={text} is a folder; expected a file (.json)")
  is_special = os.path.exists(path) and not os.path.isfile(path)
  if is_special or not path.name or text.endswith("/"):
    raise UserError(f"--output={text}: expected a file (.json)")
  return path


def _said(text: str) -> tuple[str, str]:
  name, equals, value = text.partition("=")
  if not equals or name not in card.FIELDS:
    close = difflib.get_close_matches(name, card.FIELDS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(card.FIELDS)}"
    raise UserError(f"--say={text}: expected NAME=TEXT; {hint}")
  return name, value


def _read_captions(text: str) -> dict[str, str]:
  content = _read_json(_path("captions", text))
  if not isinstance(content, dict) or not all(map(_is_text, content.values())):
    raise UserError(
      f"--captions={text} holds no captions; expected a JSON object that maps the name"
      " of each clip to a text"
    )
  return content


def _is_text(x: typing.Any) -> bool:
  # JSON can write halves of characters, which no tokenizer takes.
  return isinstance(x, str) and x == x.encode(errors="ignore").decode()


def _read_json(path: pathlib.Path) -> typing.Any:
  try:
    if not os.path.isfile(path):
      raise ValueError("there is no such file")
    return reading.load_json(path)
  except (OSError, ValueError) as e:
    raise UserError(f"{path} cannot be read as JSON ({reason(e)})") from e


def _compare(args: argparse.Namespace) -> None:
  first, second = (_cards(_path("compare", x)) for x in (args.real, args.generated))
  if len(first) == len(second) == 1:
    # Two single cards are compared whatever their measures and parts.
    pairs = [(first[0], second[0])]
  else:
    pairs = _matched(first, second)
  if not pairs:
    different = [
      line
      for line in card.compare(first[0], second[0])
      if line.partition(":")[0] not in card.ABOUT_THE_MEASURE
    ]
    raise UserError(
      f"{args.real} and {args.generated} have no measure in common, so no numbers can"
      f" be compared: {_listed(first)} | {_listed(second)}; their clips differ in"
      f" {'; '.join(different) or 'nothing'}"
    )
  for pair in pairs:
    for x in pair:
      part = f"{x['part']}: " if "part" in x else ""
      _say(part + card.headline(x))
    for line in card.compare(*pair) or ["the protocols are the same"]:
      _say(line)
  if unsaid := card.unsaid(x for pair in pairs for x in pair):
    _say(f"neither says: {', '.join(unsaid)}")


def _cards(path: pathlib.Path) -> list[card.Card]:
  """Reads one or several cards from a file."""
  content = _read_json(path)
  try:
    found = [*map(card.check, content if isinstance(content, list) else [content])]
  except UserError as e:
    raise UserError(f"{path}: {e}") from e
  if not found:
    raise UserError(f"{path} holds no card; expected a file written by --output")
  return found


def _matched(
  first: Sequence[card.Card], second: Sequence[card.Card]
) -> list[tuple[card.Card, card.Card]]:
  """Returns pairs of cards of one measure and part, or else of one measure."""
  for key in (lambda x: (card.measured(x), x.get("part")), card.measured):
    # Of several cards with the same key, the first.
    a, b = ({key(x): x for x in reversed(cards)} for cards in (first, second))
    if both := [name for name in map(key, first) if name in b]:
      return [(a[name], b[name]) for name in dict.fromkeys(both)]
  return []


def _listed(cards: Sequence[card.Card]) -> str:
  """Returns the measures of cards, and their parts where there are several."""
  measured = ", ".join(dict.fromkeys(map(card.measured, cards)))
  parts = ", ".join(dict.fromkeys(x["part"] for x in cards if "part" in x))
  return f"{measured} of {parts}" if parts else measured


def main(argv: list[str] | None = None) -> int:
  """Runs a command; returns the exit code."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):  # A terminal may not know all letters.
      stream.reconfigure(errors="backslashreplace")
  args = _parser().parse_args(argv)
  handler = std_logging.StreamHandler()
  handler.setFormatter(_Formatter("%(message)s"))
  std_logging.basicConfig(handlers=[handler])
  logging.set_verbosity(logging.INFO)
  try:
    (_compare if args.measures == "compare" else _measure)(args)
  except UserError as e:
    print(e, file=sys.stderr)
    return 2
  except OSError as e:  # Of names that are too long, closed folders, and the like.
    print(printable(f"{e.filename or 'a file'}: {reason(e)}"), file=sys.stderr)
    return 2
  except MemoryError:
    print("there is not enough memory; lower --batch_size", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("interrupted; the features computed so far are kept", file=sys.stderr)
    return 130
  return 0


if __name__ == "__main__":
  sys.exit(main())
