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

from lamd_jax.metrics import card, clip_set, measures, resize, score
from lamd_jax.types import UserError

_EPILOG = """measures, one or several with commas between:
  fvd, kvd         of I3D's features; its weights come with the extra `metrics`
  fid, kid, is     of Inception's features of frames; see --frames
  psnr, ssim       of each generated clip and the real one of the same number
  lpips, lpips_vgg the same, with AlexNet or VGG16
  clipsim          of frames and their captions; see --captions
  motion           amplitude, roughness, flicker, share of stills, beside real clips

compare A.json B.json says what differs between the protocols of two scores."""


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    "python -m lamd_jax.metrics",
    description="Measures anyone's videos.",
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("measures", help="what to measure, see below; or: compare")
  add("real", help="a folder of videos, a .npy or .npz file, or file.npz:name")
  add("generated", help="the same")
  add("--num_clips", type=int, help="of each set; all by default")
  add("--num_real", type=int, help="real clips, if there are to be more or fewer")
  add("--num_frames", type=int, help="of each clip; all by default")
  add("--frame_stride", type=int, default=1)
  add("--first_frame", type=int, default=0, help="1 leaves a given frame out")
  add("--resolution", type=int, help="brings both sets to this size")
  add("--paired", action="store_true", help="clip n shows what real clip n shows")
  add("--windows", action="store_true", help="score each window of long videos")
  add("--group_by", type=int, metavar="LEVEL", help="score each folder: cFVD, sFVD")
  add("--frames", choices=typing.get_args(measures.Frames), default="all")
  add("--resize_rule", choices=typing.get_args(resize.Rule), default="half_pixel")
  add("--weights", default="weights", help="a folder with networks other than I3D")
  add("--i3d", help="other weights of I3D (.safetensors)")
  add("--captions", help="a .json file: name of the clip to caption")
  add(
    "--say",
    action="append",
    default=[],
    metavar="NAME=TEXT",
    help=f"for the card, what clips do not show: {', '.join(card.FIELDS)}",
  )
  add("--batch_size", type=int, default=4)
  add("--num_draws", type=int, default=100, help="for the interval; 0 leaves it out")
  add("--cache", help="a folder that keeps features of real clips", default=_cache())
  add("--no_cache", action="store_const", const=None, dest="cache")
  add("--output", help="where the card is written (.json)")
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
    path.parent.mkdir(parents=True, exist_ok=True)
    content = cards[0] if len(cards) == 1 else cards
    path.with_suffix(".part").write_text(json.dumps(content, indent=2) + "\n")
    os.replace(path.with_suffix(".part"), path)
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
  """The cards of a file, one or several, by measure and part."""
  content = _read_json(path)
  cards = content if isinstance(content, list) else [content]
  if len(cards) == 1:  # Of two single cards the measures may differ.
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
    print("interrupted; features of finished sets are kept", file=sys.stderr)
    return 130
  return 0


if __name__ == "__main__":
  sys.exit(main())
