r"""Measures anyone's videos, in folders or NumPy files.

python -m lamd_jax.metrics fvd REAL GENERATED
python -m lamd_jax.metrics kvd REAL GENERATED --output=card.json
python -m lamd_jax.metrics compare A.json B.json
"""

import argparse
import json
import os
import pathlib
import sys
import typing

from absl import logging

from lamd_jax import score
from lamd_jax.data import clip_set
from lamd_jax.metrics import card, features, resize
from lamd_jax.types import UserError


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    "lamd_jax.metrics", description="Measures anyone's videos."
  )
  commands = parser.add_subparsers(dest="command", required=True)
  for name in ("fvd", "kvd"):
    sub = commands.add_parser(name, help=f"{name.upper()} of generated videos")
    sub.add_argument("real", help="a folder of videos, or a .npy or .npz file")
    sub.add_argument("generated", help="the same")
    sub.add_argument("--num_clips", type=int, help="of each set; all by default")
    sub.add_argument("--num_frames", type=int, help="of each clip; all by default")
    sub.add_argument("--frame_stride", type=int, default=1)
    sub.add_argument("--resolution", type=int, help="brings both sets to this size")
    sub.add_argument(
      "--resize_rule", choices=typing.get_args(resize.Rule), default="half_pixel"
    )
    sub.add_argument("--weights", help="other weights of I3D (.safetensors)")
    sub.add_argument("--batch_size", type=int, default=4)
    sub.add_argument("--num_draws", type=int, default=100, help="for the interval")
    sub.add_argument("--cache", help="a folder that keeps features between runs")
    sub.add_argument("--output", help="where the card is written (.json)")
  sub = commands.add_parser("compare", help="what differs between two cards")
  sub.add_argument("cards", nargs=2)
  return parser


def _measure(args: argparse.Namespace) -> None:
  for name in ("num_clips", "num_frames", "frame_stride", "resolution", "batch_size"):
    value = getattr(args, name)
    if value is not None and value < 1:
      raise UserError(f"--{name}={value}: expected a whole number from 1 on")
  real, generated = (
    clip_set.open_clips(
      path,
      num_frames=args.num_frames,
      frame_stride=args.frame_stride,
      resolution=args.resolution,
    )
    for path in (args.real, args.generated)
  )
  (found,) = score.score(
    (args.command.upper(),),
    real,
    generated,
    detector=features.i3d_detector(args.weights, args.resize_rule),
    num_clips=args.num_clips,
    batch_size=args.batch_size,
    cache=pathlib.Path(args.cache) if args.cache else None,
    num_draws=args.num_draws,
  )
  if args.output:
    path = pathlib.Path(args.output)
    path.with_suffix(".part").write_text(json.dumps(found, indent=2) + "\n")
    os.replace(path.with_suffix(".part"), path)
  print(card.headline(found))


def _compare(args: argparse.Namespace) -> None:
  cards = []
  for path in args.cards:
    try:
      cards.append(json.loads(pathlib.Path(path).read_text()))
    except (OSError, ValueError) as e:
      raise UserError(f"{path} cannot be read as a card ({e})") from e
  different = card.compare(*cards)
  print(*(card.headline(x) for x in cards), sep="\n")
  print(*(different or ["the protocols are the same"]), sep="\n")


def main(argv: list[str] | None = None) -> int:
  """Runs a command; returns the exit code."""
  args = _parser().parse_args(argv)
  logging.set_verbosity(logging.INFO)
  logging.use_absl_handler()
  try:
    (_compare if args.command == "compare" else _measure)(args)
  except UserError as e:
    print(e, file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
