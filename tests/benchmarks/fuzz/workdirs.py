"""Damages work folders and files of arrays, and asks what readers make of them.

    PYTHONPATH=. JAX_PLATFORMS=cpu python tests/benchmarks/fuzz/workdirs.py \
      --folders=500 --arrays=1000

A damaged folder is a small trained one in which some files are cut, emptied, changed in
some bits, missing, or folders, or JSON that nests deep, is huge, or holds other values.
Its report is written; it is loaded, and what resumes and samples looks at is read.
"""

import argparse
import functools
import json
import multiprocessing
import os
import pathlib
import pickle
import random
import shutil
import struct
import sys
import tempfile
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / x) for x in ("benchmarks/fuzz", "tiny", "helpers")]

from absl import logging  # noqa: E402
import jax  # noqa: E402
import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402
import runner  # noqa: E402
import safetensors.numpy  # noqa: E402
import tiny_run  # noqa: E402
import tiny_vdm  # noqa: E402

import lamd_jax  # noqa: E402
from lamd_jax.experiment import model, program, trained, workdir  # noqa: E402
from lamd_jax.files import reading, rows  # noqa: E402
from lamd_jax.interop import weights  # noqa: E402
from lamd_jax.jobs import generate  # noqa: E402
from lamd_jax.report import page  # noqa: E402
from lamd_jax.training import checkpoint, examples, sharding  # noqa: E402
from lamd_jax.training import logging as training_log  # noqa: E402
from lamd_jax.training.state import init_state  # noqa: E402
from lamd_jax.types import UserError  # noqa: E402

ORIGIN = weights.Origin("a network", "example.org/a")
KINDS = ("safetensors", "header", "pickle", "opcodes", "json", "scalars")
STRANGE = (
  *(None, True, -1, 0, 10**400, 1e308, float("nan"), float("inf"), "", "x" * 10**5),
  *("\udce9\n\x1b[2J", [], {}, [[]], {"a": {"b": 1}}, 2**63, -0.0, "1", [1, "a"]),
)


def make_folder(folder: pathlib.Path) -> None:
  """Writes a small trained work folder with everything in it but a report."""
  config = tiny_vdm.get_config()
  config.evaluate.update(num_clips=2, samples_per_clip=1)
  run = tiny_run.trained_folder(config, folder)
  clips = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3)).astype(np.uint8)
  (folder / "samples").mkdir()
  np.savez_compressed(
    folder / "samples" / "clips.npz",
    **dict(real=clips, sampled=clips[:, None], given_frames=1, fps=8.0, seconds=1.0),
    caption=np.array(["a", "b"]),
    notes=np.array(['{"label": 1}'] * 2),
    made_from=json.dumps({}),
  )
  (folder / "metrics.json").write_text(
    json.dumps({"sample_fvd": 3.0, "sample_motion_ratio": 0.9, "wall_seconds": 10.0})
  )
  (folder / "cards").mkdir()
  card = {"name": "FVD@2", "value": 3.0, "interval_95": [1.0, 4.0]}
  card |= {"companions": {"floor": 1.0}, "protocol": {"clips": 2}}
  (folder / "cards" / "sample_fvd.json").write_text(json.dumps(card))
  (folder / "skipped_files.txt").write_text("a.mp4: no video\n")
  lines = [json.dumps({"step": i, "loss": 1 / i}) for i in range(1, 30)]
  (folder / "base" / "scalars.jsonl").write_text("\n".join(lines))
  (folder / "base" / "examples_0.jsonl").write_text(
    '{"step": 1, "rows": [0, 1], "index": [3, 4]}\n'
  )
  kept = rows.Rows(folder / "features" / "features_0", {"a": 1})
  kept.add([bytes(32)], {"features": np.zeros((1, 4), np.float32)})
  model.Model(run).save(folder / "exported")


def damage(rng: np.random.Generator, path: pathlib.Path) -> str:
  """Damages a file; returns how."""
  how = str(rng.choice(["cut", "empty", "flip", "gone", "folder", "json", "text"]))
  content = path.read_bytes()
  match how:
    case "cut":
      path.write_bytes(content[: int(rng.integers(len(content) + 1))])
    case "empty":
      path.write_bytes(b"")
    case "flip":
      changed = bytearray(content)
      for place in rng.integers(max(len(content), 1), size=int(rng.integers(1, 9))):
        if changed:
          changed[place] ^= 1 << int(rng.integers(8))
      path.write_bytes(changed)
    case "gone" | "folder":
      path.unlink()
      if how == "folder":
        path.mkdir()
    case "json":
      path.write_text(strange_json(rng, path.suffix, content))
    case "text":
      path.write_bytes(
        rng.integers(256, size=int(rng.integers(300))).astype("u1").tobytes()
      )
  return f"{how} {path.name}"


def strange_json(rng: np.random.Generator, suffix: str, content: bytes) -> str:
  """Returns JSON like that of a file, with other values; or what nests deep."""
  try:
    lines = content.decode().splitlines() if suffix == ".jsonl" else [content.decode()]
    values = [json.loads(line) for line in lines]
  except (ValueError, RecursionError):
    values = []
  if not values or rng.random() < 0.3:
    depth = int(rng.integers(1, 50_000))
    return str(
      rng.choice(["[" * depth, '{"a":' * depth + "1" + "}" * depth, "9" * 9999])
    )
  for value in values if suffix == ".jsonl" else values * 3:
    _change(rng, value)
  return "\n".join(json.dumps(value) for value in values)


def _change(rng: np.random.Generator, tree) -> None:
  """Replaces, adds or removes a value somewhere in nested containers."""
  while isinstance(tree, dict | list) and tree:
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    key = keys[int(rng.integers(len(keys)))]
    inner = tree[key]
    if not isinstance(inner, dict | list) or not inner or rng.random() < 0.3:
      if isinstance(tree, dict) and rng.random() < 0.2:
        del tree[key]
      elif isinstance(tree, dict) and rng.random() < 0.2:
        tree["\x1b[2J\n" + key[:5]] = STRANGE[int(rng.integers(len(STRANGE)))]
      else:
        tree[key] = STRANGE[int(rng.integers(len(STRANGE)))]
      return
    tree = inner


def make_damaged(whole: pathlib.Path, rng: np.random.Generator, place: pathlib.Path):
  """Copies a whole folder and damages some of its files."""
  folder = place / "out" / "run"
  shutil.copytree(whole, folder)
  files = sorted(path for path in folder.rglob("*") if path.is_file())
  shallow = [path for path in files if "state" not in path.parts]
  done = []
  for _ in range(int(rng.integers(1, 4))):
    choice = shallow if rng.random() < 0.8 else files
    path = choice[int(rng.integers(len(choice)))]
    if path.is_file():
      done.append(damage(rng, path))
  return ", ".join(done), folder


# Each reader is a call of its own, so that the first that refuses hides no other.
def read_folder(folder: pathlib.Path) -> None:
  """Does all that reads a work folder; raises the first refusal at the end."""
  refusals = [refusal for read in READERS if (refusal := refused(read, folder))]
  if refusals:
    raise refusals[0]


def refused(read, folder):
  """Returns the `UserError` of a reader; None where it accepts."""
  try:
    read(folder)
  except UserError as error:
    line = str(error)
    if not line.isprintable() or len(line) > 1500:
      raise AssertionError(f"{read.__name__}: not one line: {line!r}") from error
    return error
  return None


@functools.cache
def placed():
  """Returns the shapes of the parameters, which take long to trace."""
  run = tiny_run.tiny_run(tiny_vdm.get_config())
  return sharding.place(run.mesh, trained.abstract_params(run, "base"))


@functools.cache
def state():
  """Returns the shapes of the training state."""
  tx, _ = program.make_optimizer("base", tiny_vdm.get_config().base.train)
  return jax.eval_shape(lambda params: init_state(params, tx), placed())


def load_folder(folder):
  """Loads the folder, looks up its rate, and restores its parameters."""
  loaded = lamd_jax.load(folder)
  with patched():
    assert float(loaded.fps) > 0


def load_exported(folder):
  """Loads what was exported."""
  with patched():
    lamd_jax.load(folder / "exported")


def check_resume(folder):
  """Does what a start that resumes looks at."""
  config = tiny_vdm.get_config()
  config.evaluate.update(num_clips=2, samples_per_clip=1)
  run = tiny_run.tiny_run(config, folder)
  with workdir.only_writer(folder):
    workdir.open_workdir(run)
    with patched():
      if trained.is_trained(run, "base"):
        trained.is_readable(run, "base")
    checkpoint.read_meta(folder / "base" / "checkpoints")


def check_samples(folder):
  """Does what sampling and measuring look at first."""
  run = tiny_run.tiny_run(tiny_vdm.get_config(), folder)
  with patched():
    generate.check_samples(run)


def read_logs(folder):
  """Reads scalars and examples."""
  training_log.read_scalars(folder / "base")
  examples.read(folder / "base")


def read_rows(folder):
  """Reads kept features."""
  kept = rows.Rows(folder / "features" / "features_0", {"a": 1})
  kept.get(bytes(32))


def write_report(folder):
  """Writes the report."""
  page.write_report(folder)


READERS = (
  *(write_report, load_folder, load_exported, check_resume, check_samples),
  *(read_logs, read_rows),
)


def patched():
  """Replaces the tracing of the network, the same for all folders, by its result."""
  shapes = placed()
  return mock.patch.object(trained, "abstract_params", lambda *args: shapes)


def make_array(rng: np.random.Generator, place: pathlib.Path):
  """Writes a file of arrays or text for one of the readers, damaged or strange."""
  kind = str(
    rng.choice(["safetensors", "header", "pickle", "opcodes", "json", "scalars"])
  )
  path = place / f"a.{kind}"
  arrays = {
    "a": rng.normal(size=(3, 4)).astype(np.float32),
    "b/\u00e9": rng.integers(0, 9, 5).astype(ml_dtypes.bfloat16),
  }
  match kind:
    case "safetensors":
      safetensors.numpy.save_file(arrays, path)
    case "header":
      path.write_bytes(safetensors_of(rng))
    case "pickle":
      values = {"a": arrays["a"], "b": {"c": np.arange(3)}}
      strange = (
        *(np.array([None, {}], dtype=object), np.zeros(2, "f4,i2"), [1, 2], "text"),
        *(
          np.array(["x"]),
          np.datetime64("2020"),
          {1: {2: np.zeros((0, 2))}},
          1j,
          Harmful(),
        ),
      )
      if rng.random() < 0.5:
        values["d"] = strange[int(rng.integers(len(strange)))]
      path.write_bytes(pickle.dumps(values, protocol=int(rng.integers(0, 6))))
    case "opcodes":
      path.write_bytes(opcodes(rng))
    case "json":
      depth = int(rng.integers(1, 60_000))
      tree = {"a": [1, {"b": "c"}], "d": 1.0}
      _change(rng, tree)
      texts = [
        "[" * depth,
        json.dumps(tree),
        '{"a":' * depth,
        "9" * 6000,
        "\ufeff{}",
        "",
      ]
      path.write_text(texts[int(rng.integers(len(texts)))], errors="surrogatepass")
    case "scalars":
      line = {"step": 1, "loss": 2.0}
      lines = []
      for i in range(20):
        values = line | {"step": i}
        if rng.random() < 0.5:
          _change(rng, values)
        lines.append(json.dumps(values))
      lines.append("[" * int(rng.integers(1, 40_000)))
      random.Random(int(rng.integers(2**30))).shuffle(lines)
      path.write_text("\n".join(lines))
  how = ""
  if rng.random() < 0.6 and kind not in ("json",):
    how = damage(rng, path)
  return f"{kind} {how}", path


class Harmful:
  """An object whose unpickling would run code."""

  def __reduce__(self):
    return os.mkdir, ("/tmp/lamd_jax_fuzz_ran_code",)


def opcodes(rng: np.random.Generator) -> bytes:
  """Returns a program for the unpickler made of pieces that touch NumPy's classes."""
  pieces = (
    *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"),
    b"cnumpy.core.multiarray\n_reconstruct\n",
    *(b"(", b"I3\n", b"I-1\n", b"VO8\n", b"Vf8\n", b"V<\n", b"N", b"t", b"R", b"b"),
    *(b"}", b"]", b"a", b"u", b"s", b"0", b"2", b"\x85", b"\x86", b"\x87", b"\x81"),
    *(b"I99999999999\n", b"q\x00", b"h\x00", b"Va\n", b"K\x01", b")", b"d", b"l"),
    *(b"e", b"C\x04abcd"),
  )
  picks = rng.integers(len(pieces), size=int(rng.integers(1, 40)))
  return b"\x80\x04" + b"".join(pieces[i] for i in picks) + b"."


def safetensors_of(rng: np.random.Generator) -> bytes:
  """Returns a safetensors file whose header says something strange."""
  known = ["F32", "F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F8_E5M2"]
  names = [*known, "F4", "F6_E2M3", "F8_E8M0", "C64", "", "X"]
  header = {}
  for name in ("a", "\x1b[2J\n", "b" * int(rng.integers(1, 4000))):
    shape = [int(x) for x in rng.integers(0, 5, size=int(rng.integers(0, 4)))]
    if rng.random() < 0.2:
      shape = [2**62, 4]
    header[name] = {
      "dtype": str(rng.choice(names)),
      "shape": shape,
      "data_offsets": [0, int(rng.integers(0, 64))],
    }
    if rng.random() < 0.3:
      _change(rng, header)
    if rng.random() < 0.5:
      break
  text = json.dumps(header).encode()
  size = len(text) if rng.random() < 0.9 else int(rng.integers(2**62))
  return struct.pack("<Q", size) + text + bytes(int(rng.integers(0, 64)))


def read_array(path: pathlib.Path) -> None:
  """Gives a file to the reader of its kind."""
  match path.suffix:
    case ".safetensors" | ".header":
      weights.read_safetensors(path, ORIGIN)
    case ".pickle" | ".opcodes":
      with reading.explain_damage(path, "get it again"):
        digest = weights.sha256(path)
      weights.read_pickled_arrays(path, digest)
    case ".json":
      reading.read_json(path)
    case ".scalars":
      for line in training_log.read_scalars(path):
        assert isinstance(line["step"], int)


def main() -> None:
  """Runs the cases that the command line asks for."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--folders", type=int, default=0)
  parser.add_argument("--arrays", type=int, default=0)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  logging.set_verbosity(logging.FATAL)
  bugs = 0
  if args.arrays:
    bugs += runner.fuzz(
      "arrays", make_array, read_array, count=args.arrays, seed=args.seed
    )
  if args.folders:
    with tempfile.TemporaryDirectory() as temporary:
      whole = pathlib.Path(temporary) / "run"
      # TensorStore, once used, cannot be forked: another process writes checkpoints.
      spawned = multiprocessing.get_context("spawn").Process(
        target=make_folder, args=[whole]
      )
      spawned.start()
      spawned.join()
      placed()  # Traced once for all forks.
      make = functools.partial(make_damaged, whole)
      bugs += runner.fuzz(
        "folders", make, read_folder, count=args.folders, seed=args.seed
      )
  sys.exit(bool(bugs))


if __name__ == "__main__":
  main()
