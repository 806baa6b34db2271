r"""Measures anyone's videos, in folders or NumPy files.

python -m lamd_jax.metrics fvd REAL GENERATED
python -m lamd_jax.metrics fvd,kvd,motion REAL GENERATED --output=card.json
python -m lamd_jax.metrics compare A.json B.json
"""

import argparse
import difflib
import json
import logging as std_logging
import os
import pathlib
import sys
import typing

from absl import logging
import numpy as np

from lamd_jax.files import writing
from lamd_jax.metrics import card, clip_set, measures, resize, score
from lamd_jax.types import UserError

_EPILOG = """measures, one or several separated by commas:
  fvd, kvd         on features of I3D, whose weights come with the extra `metrics`
  fid, kid, is     on Inception features of frames; see --frames
  psnr, ssim       each generated clip against the real one of the same number
  lpips, lpips_vgg likewise, with AlexNet or VGG16
  clipsim          frames against captions; see --captions
  motion           amplitude, roughness, flicker and share of stills, relative to real

compare A.json B.json lists the differences between the protocols of two scores."""


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
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


def _cache() -> str:
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return str(pathlib.Path(home) / "lamd_jax")


def _measure(args: argparse.Namespace) -> None:
  least = dict.fromkeys(
    ("num_clips", "num_real", "num_frames", "frame_stride", "resolution"), 1
  ) | {"batch_size": 1, "group_by": 1, "first_frame": 0, "num_draws": 0}
  for name, low in least.items():
    value = getattr(args, name)
    if value is not None and value < low:
      raise UserError(f"--{name}={value}: expected a whole number from {low} on")
  if args.windows and args.group_by:
    raise UserError("give --windows or --group_by, not both")
  protocol = dict(map(_said, args.say))
  captions = _read_json(args.captions) if args.captions else {}
  options = measures.Options(
    folder=pathlib.Path(args.weights),
    i3d=args.i3d,
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
    cache=pathlib.Path(args.cache) if args.cache else None,
    num_draws=args.num_draws,
    protocol=protocol,
  )
  if args.windows:
    found = score.score_windows(made, real, generated, **kwargs)
  elif args.group_by:
    found = score.score_groups(made, real, generated, args.group_by, **kwargs)
  else:
    found = {"": score.score(made, real, generated, **kwargs)}
  cards = [
    x | ({"part": part} if part else {}) for part, list_ in found.items() for x in list_
  ]
  if args.output:
    path = pathlib.Path(args.output)
    content = cards[0] if len(cards) == 1 else cards
    writing.write_text(path, json.dumps(content, indent=2) + "\n")
  for part, list_ in found.items():
    for x in list_:
      print(f"{part}: {card.headline(x)}" if part else card.headline(x))
  if len(found) > 1:
    for of_parts in zip(*found.values(), strict=True):
      values = [x["value"] for x in of_parts]
      name = of_parts[0]["name"].partition("@")[0]
      print(
        f"mean of {len(values)} {name}: {np.mean(values):.4g} ± {np.std(values):.4g}"
      )


def _said(text: str) -> tuple[str, str]:
  name, equals, value = text.partition("=")
  if not equals or name not in card.FIELDS:
    close = difflib.get_close_matches(name, card.FIELDS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(card.FIELDS)}"
    raise UserError(f"--say={text}: expected NAME=TEXT; {hint}")
  return name, value


def _read_json(path: str) -> typing.Any:
  try:
    return json.loads(pathlib.Path(path).expanduser().read_text(encoding="utf-8"))
  except (OSError, ValueError) as e:
    raise UserError(f"{path} cannot be read as JSON ({e})") from e


def _compare(args: argparse.Namespace) -> None:
  first, second = (_cards(path) for path in (args.real, args.generated))
  if not (both := [key for key in first if key in second]):
    raise UserError(
      f"{args.real} and {args.generated} have no measure in common:"
      f" {', '.join(map(' '.join, first))} | {', '.join(map(' '.join, second))}"
    )
  for key in both:
    pair = first[key], second[key]
    different = card.compare(*pair)
    print(*(card.headline(x) for x in pair), sep="\n")
    print(*(different or ["the protocols are the same"]), sep="\n")


def _cards(path: str) -> dict[tuple[str, ...], card.Card]:
  """Reads one or several cards from a file, by measure and part."""
  content = _read_json(path)
  cards = content if isinstance(content, list) else [content]
  if len(cards) == 1:  # Two single cards are compared whatever their measures.
    return {("card",): cards[0]}
  return {(card.measured(x), *([x["part"]] if "part" in x else [])): x for x in cards}


def main(argv: list[str] | None = None) -> int:
  """Runs a command; returns the exit code."""
  args = _parser().parse_args(argv)
  std_logging.basicConfig(format="%(message)s")
  logging.set_verbosity(logging.INFO)
  try:
    (_compare if args.measures == "compare" else _measure)(args)
  except UserError as e:
    print(e, file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("interrupted; the features computed so far are kept", file=sys.stderr)
    return 130
  return 0


if __name__ == "__main__":
  sys.exit(main())
