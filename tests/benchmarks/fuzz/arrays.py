"""Gives the metrics tool broken arrays, cards, captions, caches and command lines.

    PYTHONPATH=. python tests/benchmarks/fuzz/arrays.py --arrays=2000 --commands=150

Everything that `python -m lamd_jax.metrics` prints has to be lines without escape
codes, the last one says what is wrong, and no file may change but those under "out".
"""

import argparse
from collections.abc import Callable
import contextlib
import io
import json
import os
import pathlib
import struct
import sys
import zipfile

import numpy as np

sys.path.insert(0, os.path.dirname(__file__))

import runner

from lamd_jax.metrics import __main__ as tool
from lamd_jax.types import UserError

Rng = np.random.Generator
NAMES = (
  "a",
  "clip_2",
  "clip_10",
  "ä\u202e",
  "x\ny",
  "\x1b[31m",
  "x.npz:y",
  "\udcff",
  "~z",
)


def good(rng: Rng) -> np.ndarray:
  """Draws an array of videos that is all right."""
  shape = (int(rng.integers(1, 7)), 4, *map(int, rng.integers(4, 20, 2)), 3)
  video = rng.integers(0, 256, shape, np.uint8)
  return video if rng.random() < 0.6 else (video / 255).astype(np.float32)


def odd(rng: Rng) -> np.ndarray:
  """Draws an array that is small, and wrong in some way."""
  dtypes = ("u1", "i1", "<u2", ">f4", "f2", "f8", "g", "?", "c8", "S3", "U2", "M8[s]")
  dtype = np.dtype(str(rng.choice(dtypes)))
  shape = tuple(map(int, rng.choice([0, 1, 2, 3, 5], rng.integers(0, 8))))
  shape = (*shape, 3) if rng.random() < 0.7 else shape
  with np.errstate(all="ignore"):
    values = rng.normal(0.5, rng.choice([0.1, 1, 1e30]), shape)
    if rng.random() < 0.2:
      values = np.where(rng.random(shape) < 0.3, rng.choice([np.nan, np.inf]), values)
    array = np.zeros(shape, dtype) if dtype.kind in "SUM" else values.astype(dtype)
  return np.asfortranarray(array) if rng.random() < 0.3 else array


def npy(array: np.ndarray) -> bytes:
  """Returns an array as the bytes of an .npy file."""
  out = io.BytesIO()
  np.save(out, array)
  return out.getvalue()


def other_header(rng: Rng, data: bytes) -> bytes:
  """Writes another header over that of an .npy file."""
  text = str(
    rng.choice(
      [
        "(1, 4, 8, 8, 3)",
        "(10**11, 4, 8, 8, 3)",
        "(100000000000, 4, 8, 8, 3)",
        "(4294967296, 4294967296, 9, 9, 3)",
        "(-1, 4, 8, 8, 3)",
        "(True, 4, 8, 8, 3)",
        "(4, 8, 8, 3.0)",
        "(4L, 8L, 8L, 3L)",
        "(1, 9, 99999, 99999, 3)",
        "()",
        "(" * 90,
        "open('/tmp/x', 'w')",
      ]
    )
  )
  descr = str(
    rng.choice(["'|u1'", "'|O'", "'<f4'", "[('a', 'u1')]", "'|V1'", "'zz'", "5"])
  )
  order = str(rng.choice(["False", "True", "2", "None"]))
  values = (
    f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {text}, }}\n".encode()
  )
  version = int(rng.choice([1, 1, 1, 2, 3, 9]))
  length = int(rng.choice([len(values), len(values), 3, 65535]))
  packed = struct.pack("<H" if version == 1 else "<I", length)
  return b"\x93NUMPY" + bytes([version, 0]) + packed + values + data[128:]


def damaged(rng: Rng, data: bytes) -> bytes:
  """Cuts, flips, repeats or replaces bytes."""
  data = bytearray(data)
  for _ in range(int(rng.choice([0, 1, 1, 3, 30]))):
    place = int(rng.integers(len(data))) if len(data) else 0
    if rng.random() < 0.5:
      place = min(place, int(rng.integers(1, 150)))  # Headers are at the start,
    elif rng.random() < 0.5:
      place = max(0, len(data) - int(rng.integers(1, 150)))  # or at the end.
    match int(rng.integers(5)):
      case 0:
        del data[place:]
      case 1 if data:
        data[min(place, len(data) - 1)] ^= 1 << int(rng.integers(8))
      case 2:
        data[place:place] = rng.bytes(int(rng.integers(1, 9)))
      case 3:
        del data[place : place + int(rng.integers(1, 20))]
      case 4:
        data[place : place + 4] = b"\xff" * 4
  return bytes(data)


def npz(rng: Rng) -> bytes:
  """Returns an archive of odd or damaged arrays, under odd names."""
  out = io.BytesIO()
  kind = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
  with zipfile.ZipFile(out, "w", int(kind)) as file:
    for _ in range(int(rng.choice([0, 1, 1, 1, 2]))):
      data = npy(good(rng) if rng.random() < 0.6 else odd(rng))
      data = other_header(rng, data) if rng.random() < 0.2 else data
      name = str(rng.choice(["x", "sampled", "../x", "a/b", "x\n", ""]))
      ending = str(rng.choice([".npy", ".npy", ".npy", ""]))
      with contextlib.suppress(UserWarning):
        file.writestr(f"{name}{ending}", data)
  data = bytearray(out.getvalue())
  where = data.find(b"PK\x01\x02")
  if where >= 0 and rng.random() < 0.3:  # The directory says another size.
    field = int(rng.choice([8, 10, 16, 20, 24, 42]))
    data[where + field : where + field + 4] = struct.pack(
      "<I", int(rng.choice([0, 1, 9, 3 * 2**30, 2**32 - 1]))
    )
  return bytes(data)


def json_value(rng: Rng, depth: int = 0):
  """Draws any JSON value."""
  match int(rng.integers(9 if depth < 3 else 7)):
    case 0:
      return None
    case 1:
      return bool(rng.integers(2))
    case 2:
      return int(rng.choice([0, -1, 3, 2**62])) ** int(rng.choice([1, 1, 60]))
    case 3:
      return float(rng.choice([0.5, 1e308, np.nan, np.inf, -np.inf]))
    case 4 | 5:
      return str(rng.choice(NAMES))
    case 6:
      return "x" * int(rng.choice([0, 5000]))
    case 7:
      return [json_value(rng, depth + 1) for _ in range(int(rng.integers(4)))]
  return {
    str(rng.choice([*NAMES, "name", "value"])): json_value(rng, depth + 1)
    for _ in range(int(rng.integers(4)))
  }


def card(rng: Rng) -> bytes:
  """Returns the JSON of a card or of several, of which something may be wrong."""
  cards = []
  for _ in range(int(rng.choice([1, 1, 2, 3]))):
    name = str(rng.choice(["FVD@70", "KVD@8", "IS@300 in 1 split", "x\n@", "@"]))
    content = {
      "name": name,
      "value": float(rng.normal()),
      "companions": {"stills": 1.0, "other real": 2},
      "interval_95": [0.0, 1.0],
      "protocol": {"split": "test", "num_real": 8, "seed": 0, "real": "a\x1b[31m"},
    }
    if rng.random() < 0.3:
      content["part"] = str(rng.choice(NAMES))
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
      key = str(rng.choice([*content, "std", "part", "else"]))
      if rng.random() < 0.3:
        content.pop(key, None)
      else:
        content[key] = json_value(rng)
    cards.append(content)
  value = cards[0] if len(cards) == 1 else cards
  match int(rng.integers(10)):
    case 0:
      return b"[" * int(rng.choice([10, 5000, 10**6]))
    case 1:
      return json.dumps(json_value(rng)).encode()
    case 2:
      return json.dumps(value).replace("1.0", "9" * 5000).encode()
    case 3:
      return damaged(rng, json.dumps(value).encode())
    case 4:
      return json.dumps(value).encode(str(rng.choice(["utf-16", "utf-8-sig"])))
  return json.dumps(value).encode()


def write_array(rng: Rng, path: pathlib.Path) -> str:
  """Writes an array, good or broken; returns what it is."""
  kinds: dict[str, Callable[[], bytes]] = {
    "odd": lambda: npy(odd(rng)),
    "header": lambda: other_header(rng, npy(good(rng))),
    "damaged npy": lambda: damaged(rng, npy(good(rng))),
    "npz": lambda: npz(rng),
    "damaged npz": lambda: damaged(rng, npz(rng)),
    "bytes": lambda: rng.bytes(int(rng.integers(300))),
    "a card": lambda: card(rng),
  }
  what = str(rng.choice([*kinds]))
  path.write_bytes(kinds[what]())
  return what


def make_arrays(rng: Rng, place: pathlib.Path) -> tuple[str, list[str]]:
  """Writes sets and cards; returns a command line that reads them."""
  if rng.random() < 0.3:
    files = [place / "a.json", place / "b.json"]
    for file in files:
      file.write_bytes(card(rng))
    return "cards", ["compare", *map(str, files)]
  sets, said = [], []
  for name in ("real", "generated"):
    if said == ["good"] and rng.random() < 0.5:  # One wrong set is enough.
      np.save(place / name, good(rng))
      sets.append(str(place / f"{name}.npy"))
    elif rng.random() < 0.3:
      folder = place / name
      folder.mkdir()
      for i in range(3):
        ending = str(rng.choice([".npy", ".npz"]))
        file = folder / f"{rng.choice(NAMES)}{i}{ending}"
        said.append(write_array(rng, file) if rng.random() < 0.1 else "good")
        if said[-1] == "good":
          np.save(file.with_suffix(".npy"), np.ones((4, 8, 8, 3), np.uint8))
      sets.append(str(folder))
    elif rng.random() < 0.5:
      file = place / f"{name}{rng.choice(['.npy', '.npz'])}"
      said.append(write_array(rng, file))
      is_archive = file.suffix == ".npz" and rng.random() < 0.2
      sets.append(f"{file}:x" if is_archive else str(file))
    else:
      said.append("good")
      np.save(place / name, good(rng))
      sets.append(str(place / f"{name}.npy"))
  measures = str(rng.choice(["motion", "motion", "psnr", "ssim"]))
  argv = [measures, *sets, "--num_draws=5", f"--cache={place / 'out' / 'cache'}"]
  if rng.random() < 0.8:
    argv.append(f"--resolution={rng.choice([8, 8, 16, 600, 10**7])}")
  if rng.random() < 0.3:
    argv.append(f"--num_frames={rng.choice([1, 3, 4, 10**9])}")
  if rng.random() < 0.05:
    (place / "captions.json").write_bytes(card(rng))
    argv.append(f"--captions={place / 'captions.json'}")
  if rng.random() < 0.1:
    (place / "i3d.safetensors").write_bytes(damaged(rng, rng.bytes(40)))
    argv[0] = "fvd"
    argv.append(f"--i3d={place / 'i3d.safetensors'}")
  if rng.random() < 0.15:
    write_cache(rng, place / "out" / "cache", argv)
  return f"{', '.join(said)}: {' '.join(argv[:1] + argv[3:])}", argv


def write_cache(rng: Rng, folder: pathlib.Path, argv: list[str]) -> None:
  """Makes the cache of a command, by running it, and damages its files."""
  run_twice = lambda: run_tool(argv)
  with contextlib.suppress(Exception):
    runner.run_apart(lambda _: run_twice(), None)
  for path in sorted(folder.rglob("*")):
    if path.is_file() and rng.random() < 0.7:
      path.write_bytes(damaged(rng, path.read_bytes()))
  if rng.random() < 0.2:
    folder.parent.mkdir(exist_ok=True)
    if not folder.exists():
      folder.write_text("no folder")


def make_command(rng: Rng, place: pathlib.Path) -> tuple[str, list[str]]:
  """Returns a command line with odd values, about good sets."""
  for name in ("real", "generated"):
    (place / name).mkdir()
    for i in range(4):
      np.save(
        place / name / f"clip_{i}.npy", rng.integers(0, 256, (4, 12, 12, 3), np.uint8)
      )
  (place / "card.json").write_bytes(card(rng))
  (place / "a_file").write_text("mine")
  os.mkfifo(place / "pipe.npy")
  (place / "out").mkdir()
  folder = str(place)
  long = f"{folder}/out/{'x' * 300}"
  paths = [
    *("", "~nobody_of_that_name/x", long, f"{folder}/out/{'x/' * 3000}y"),
    *(f"{folder}/{x}" for x in ("real", "a_file/x", "out/\udcff\n\x1b[2J", "out/x")),
  ]
  outputs = [x for x in paths if x]  # Where it may write.
  paths += [f"{folder}/{x}" for x in ("a_file", "pipe.npy", "card.json", "nowhere")]
  paths += ["/dev/null", "/proc/self/mem", "http://127.0.0.1:9/x.npy", "a:b/c"]
  numbers = [
    *("0", "1", "2", "3", "-1", "10", "100000000000", str(10**400), "9" * 5000),
    *("nan", "inf", "1e3", "1.5", "", " 2", "0x10", "\u0663", "x\n", "None"),
  ]
  whole = (
    *("num_clips", "num_real", "num_frames", "frame_stride", "first_frame"),
    *("resolution", "group_by", "batch_size", "num_draws"),
  )
  named = ("weights", "i3d", "captions", "cache", "output")
  measures = [
    "motion",
    "psnr",
    "ssim",
    "psnr,motion",
    "kvd",
    "compare",
    "fid",
    "is",
    "clipsim",
  ]
  measures += ["", ",", "x\n\x1b[31m", "fvd;kvd", "lpips", "PSNR", "psnr,psnr"]
  argv = [str(rng.choice(measures[:4] if rng.random() < 0.6 else measures))]
  for name in ("real", "generated"):
    argv.append(f"{folder}/{name}" if rng.random() < 0.8 else str(rng.choice(paths)))
  if rng.random() < 0.05:
    argv.pop()
  for _ in range(int(rng.integers(5))):
    match int(rng.integers(6)):
      case 0 | 1:
        argv.append(f"--{rng.choice(whole)}={rng.choice(numbers)}")
      case 2 | 3:
        flag = str(rng.choice(named))
        where = {"cache": outputs[:-4] + outputs[-3:], "output": outputs}
        argv.append(f"--{flag}={rng.choice(where.get(flag, paths))}")
      case 4:
        argv.append(f"--say={rng.choice(['split', 'x', 'seed'])}={rng.choice(NAMES)}")
      case 5:
        odd_flags = [
          "--paired",
          "--windows",
          "--no_cache",
          "--frames=x",
          "--x",
          "--frames=first",
        ]
        argv.append(str(rng.choice([*odd_flags, "--resize_rule=tf1", "--", "-h"])))
  if not any(x.startswith("--cache") for x in argv):
    argv.append(f"--cache={folder}/out/cache")
  return " ".join(argv)[:600], argv


def run_tool(argv: list[str]) -> None:
  """Runs the tool; raises if what it prints is not what a terminal should get."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
      code = tool.main(argv)
    except SystemExit as e:
      code = e.code
  lines = [*out.getvalue().split("\n"), *err.getvalue().split("\n")]
  if bad := [line for line in lines if not line.isprintable()]:
    raise AssertionError(f"printed raw: {bad[0][:200]!r}")
  if code:
    raise UserError(err.getvalue().rstrip("\n").split("\n")[-1][:1400])


def main() -> int:
  """Runs all cases; returns 1 if there are bugs."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--arrays", type=int, default=100)
  parser.add_argument("--commands", type=int, default=20)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  bugs = runner.fuzz(
    "arrays", make_arrays, run_tool, count=args.arrays, seed=args.seed
  ) + runner.fuzz(
    "commands", make_command, run_tool, count=args.commands, seed=args.seed
  )
  print(f"{bugs} bugs")
  return int(bugs > 0)


if __name__ == "__main__":
  sys.exit(main())
