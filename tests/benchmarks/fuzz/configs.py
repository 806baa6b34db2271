"""Configurations and command lines with random mistakes, as people make them.

    PYTHONPATH=. python tests/benchmarks/fuzz/configs.py --configs=20000 --commands=150

A case takes a file of configs/ and changes one to three of its values, keys or blocks;
what then passes every check is traced as well, in one of so many cases. A command line
has flags of every kind, with values that no flag expects.
"""

import collections
import functools
import importlib.util
import math
import os
import pathlib
import signal
import sys
import tempfile
import time
from typing import Any

from absl import app, flags
import ml_collections
import numpy as np
import runner

from lamd_jax import main
from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import check

ROOT = pathlib.Path(__file__).resolve().parents[3]
FILES = sorted((ROOT / "configs").rglob("*.py"))
ARGUMENTS = (None, "smoke", "small")
TRACED = 0.1  # Share of the small ones that are accepted; tracing takes seconds.

NUMBERS = (
  *(0, 1, -1, 2, 3, 5, 7, 64, 1000, 2**31, 2**32, 2**63, 2**64, 10**11, -(10**9)),
  *(10**400, 10**5000, 0.5, 1.5, -0.5, 1e-30, 1e30, 1e300, -0.0),
  *(math.nan, math.inf, -math.inf),
)
TEXTS = (
  *(
    "",
    " ",
    "x",
    "3",
    "nan",
    "none",
    "None",
    "latest",
    "~",
    "~nobody-x/a",
    "/",
    "/dev",
  ),
  *("a\0b", "two\nlines", "\x1b[31m", "é" * 3000, "a" * 300, "../" * 2000, "\udcff"),
  *("http://a/b", "/proc/self/mem", "('a',)", "adam", "class", "caption", "words"),
)
OBJECTS = (
  *(None, True, False, (), (1,), (0, 0), (-1, 1, 1), (1, math.nan), ("a",), [3, [4]]),
  *(((3,),), (10**11,), (2,) * 50, b"x", {1: 2}, {}, {"a": {"b": 3}}, 1j, object),
  *(np.int64(3), np.float32("nan"), np.zeros(3), np.bool_(True), pathlib.Path("a")),
)


@functools.cache
def module(path: pathlib.Path) -> Any:
  """Loads a file of configs/."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec is not None and spec.loader is not None
  loaded = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(loaded)
  return loaded


def pick(rng: np.random.Generator, choices) -> Any:
  """Returns one of some choices."""
  return choices[int(rng.integers(len(choices)))]


def base(rng: np.random.Generator) -> tuple[str, Any]:
  """Returns the name and configuration that a case begins with."""
  while True:
    path, argument = pick(rng, FILES), pick(rng, ARGUMENTS)
    try:
      config = module(path).get_config(*([argument] if argument else []))
    except ValueError:  # This file has no such argument.
      continue
    return f"{path.stem}:{argument}", config


def places(node: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
  """Returns the paths of all values and blocks."""
  if not isinstance(node, ml_collections.ConfigDict):
    return [path]
  inner = [p for key in node for p in places(node[key], (*path, key))]
  return ([path] if path else []) + inner


def value(rng: np.random.Generator, old: Any) -> Any:
  """Returns another value in the place of one."""
  kind = rng.integers(6)
  is_number = isinstance(old, int | float) and not isinstance(old, bool)
  if kind == 0 and is_number:  # Of its own type, and perhaps possible.
    return type(old)(old * pick(rng, (-1, 0, 2, 3, 10, 1000)))
  if kind == 1 and isinstance(old, tuple) and old:
    return pick(rng, (old[1:], old + old, (*old[:-1], value(rng, old[-1])), list(old)))
  if kind == 2 and isinstance(old, str) and old:
    return pick(rng, (old[1:], old + "s", old.upper(), old[::-1]))
  return pick(rng, pick(rng, (NUMBERS, TEXTS, OBJECTS)))


def typo(rng: np.random.Generator, key: str) -> str:
  """Returns a key with a letter left out, doubled, or exchanged with the next."""
  i = int(rng.integers(max(len(key) - 1, 1)))
  return pick(
    rng,
    (
      key[:i] + key[i + 1 :] or "x",
      key[: i + 1] + key[i:],
      key[:i] + key[i + 1 : i + 2] + key[i : i + 1] + key[i + 2 :],
    ),
  )


def change(rng: np.random.Generator, config: Any) -> str:
  """Makes one mistake in a configuration; returns what it is."""
  path = pick(rng, places(config))
  *parents, key = path
  node: Any = functools.reduce(lambda node, key: node[key], parents, config)
  name, old = ".".join(path), node[key]
  what = pick(rng, ("value",) * 6 + ("delete", "typo", "extra", "move", "text"))
  with node.ignore_type():
    match what:
      case "value":
        node[key] = new = value(rng, old)
        return f"{name}={runner_shown(new)}"
      case "delete":
        del node[key]
      case "typo":
        del node[key]
        node[(other := typo(rng, key))] = old
        return f"{name} as {other}"
      case "extra":
        node[(other := typo(rng, key))] = value(rng, old)
        return f"{name} and {other}"
      case "move":
        other = pick(rng, [p for p in places(config) if len(p) == 1])[0]
        config[other] = old
        return f"{other} = {name}"
      case _:
        node[key] = str(old)
  return f"{what} {name}"


def runner_shown(new: Any) -> str:
  """Returns a value for the output."""
  try:
    return repr(new)[:60]
  except Exception:
    return f"<{type(new).__name__}>"


def make_config(rng: np.random.Generator, folder: pathlib.Path):
  """A case: a configuration with one to three mistakes."""
  name, config = base(rng)
  what = []
  for _ in range(int(pick(rng, (1, 1, 1, 2, 3)))):
    try:
      what.append(change(rng, config))
    except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError):
      continue  # ml_collections itself refuses it.
  is_traced = name.endswith("smoke") and bool(rng.random() < TRACED)
  return f"{name} {'; '.join(what)}", (config, folder / "out", is_traced)


def call_config(case) -> None:
  """Checks a configuration as main does before it trains."""
  config, folder, is_traced = case
  run = make_run(config, folder)
  check.check(run)
  if is_traced:
    check.trace(run)


PATHS = (
  *("", "nowhere", "a" * 300, "a/" * 3000, "~nobody-x/a", "~", "/dev/null", "/proc/1"),
  *(
    "/dev/full",
    "é\udcff",
    "two\nlines",
    "/",
    ".",
    "-",
    "http://a/b.mp4",
    "a:b",
    "\x1b[",
  ),
)
WORDS = ("nan", "inf", "-inf", "-1", "0", "1", "2", "1e400", "9" * 5000, "x", "", "1,2")
FLAGS = {
  **dict.fromkeys(("workdir", "image", "video", "motion", "flagfile"), PATHS),
  **dict.fromkeys(
    ("frames", "factor", "every", "label", "strength", "mix", "devices", "memory_gb"),
    (*WORDS, "1,nan", "1,,2"),
  ),
  **dict.fromkeys(("num_processes", "process_id", "init_timeout"), WORDS),
  "coordinator": ("", "x", "host:port", "localhost:99999", ":1", "[::1"),
  "profile_steps": ("", "1", "2:1", "1:2", f"1:{'9' * 5000}", "a:b", "-1:2"),
  "caption": ("", "a disc", "\udcff", "x" * 10**5),
  "task": ("", "predict", "extend", "upsample", "x"),
  "config.seed": WORDS,
  "config.data.num_frames": WORDS,
  "config.mcd_vae.model.decoder_blocks": ("(-1,1,1)", "()", "x", "(1", "None"),
  "config.evaluate.metrics": ("()", "('metrix',)", "3", "x"),
  "config.sede": ("1",),
  "config.data": ("None", "{}", "x"),
}
MODES = (
  "",
  "all",
  "train",
  "sample",
  "evaluate",
  "report",
  "transfer",
  "plan",
  "export",
)
SOURCES = (
  *(
    "return {'system': 'lamd'}",
    "return None",
    "return 3",
    "return",
    "raise SystemExit",
  ),
  *("import sys; sys.exit(7)", "raise KeyboardInterrupt", "raise OSError(5, 'x', 'y')"),
  *("raise Exception('two\\nlines')", "return [1]", "def", "return get_config()"),
  *("raise MemoryError", "raise GeneratorExit", "return {1: 2}", "return {'a.b': 3}"),
  *("return type('C', (), {})()", "return lambda: 0", "open('/nowhere/x')"),
)


def make_command(rng: np.random.Generator, folder: pathlib.Path):
  """A case: a command line with one to three flags, and perhaps a file of its own."""
  path = pick(rng, FILES)
  config = f"{path}:smoke"
  if rng.random() < 0.3:
    path = folder / "mine.py"
    path.write_text(f"def get_config():\n  {pick(rng, SOURCES)}\n")
    config = str(path)
  if rng.random() < 0.1:
    config = pick(rng, (*PATHS, "configs", "configs/bair.py:x", f"{path}:{'x' * 300}"))
  argv = [f"--config={config}"]
  if mode := pick(rng, MODES):
    argv.append(f"--mode={mode}")
  for _ in range(int(pick(rng, (0, 1, 1, 2, 3)))):
    flag = pick(rng, sorted(FLAGS))
    argv.append(f"--{flag}={pick(rng, FLAGS[flag])}")
  if not any(argument.startswith("--workdir") for argument in argv):
    argv.append(f"--workdir={folder / 'out'}")
  argv = [x for x in argv if "\0" not in x]
  return " ".join(x[:60] for x in argv)[:300], (argv, folder / "out")


def call_command(case) -> None:
  """Runs main as the shell does, but for training, which takes minutes."""
  argv, folder = case
  folder.mkdir()
  os.chdir(folder)
  for name in ("train", "sample_clips"):
    for job in (main.train, main.generate):
      if hasattr(job, name):
        setattr(job, name, lambda *args: None)
  main.plan.plan = lambda *args, **kwargs: None
  sys.argv = ["main", *argv]
  flags.FLAGS.unparse_flags()
  with tempfile.TemporaryFile("w+", errors="backslashreplace") as printed:
    sys.stderr = printed
    try:
      main.run()
    except SystemExit as e:
      printed.seek(0)
      text = printed.read()
      if "Traceback" in text or (e.code == 2 and not is_one_line(text)):
        raise RuntimeError(f"no one line: {text[-300:]}") from None
      raise


def is_one_line(text: str) -> bool:
  """Whether exactly one line is an error; others are of the log."""
  errors = [line for line in text.splitlines() if line.startswith("error: ")]
  return len(errors) == 1 and text.splitlines()[-1] == errors[0]


def fuzz_here(name: str, make, call, *, count: int, seed: int) -> int:
  """Does as `runner.fuzz` in this process: a fork takes longer than most cases."""
  outcomes, bugs, started = collections.Counter(), 0, time.monotonic()
  signal.signal(signal.SIGVTALRM, hang)
  for index in range(count):
    what, case = make(np.random.default_rng((seed, index)), pathlib.Path("/nowhere"))
    signal.setitimer(signal.ITIMER_VIRTUAL, runner.CPU_SECONDS)
    outcome, detail = runner.outcome_of(call, case)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    outcomes[outcome] += 1
    if outcome not in ("accepted", "refused"):
      bugs += 1
      print(f"{name} {index}: {what}: {outcome}: {detail}", flush=True)
  seconds = time.monotonic() - started
  print(f"{name}: {count} cases in {seconds:.0f} s, {seconds / max(count, 1):.4f} s")
  print(f"each: {dict(outcomes)}; {bugs} bugs", flush=True)
  return bugs


def hang(signum, frame):
  """Ends a case that takes too long."""
  del signum, frame
  raise TimeoutError("too much processor time")


_CONFIGS = flags.DEFINE_integer("configs", 20_000, "Number of configurations.")
_COMMANDS = flags.DEFINE_integer("commands", 150, "Number of command lines.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of all cases.")


def run(argv) -> None:
  """Runs all cases."""
  del argv
  seed = _SEED.value
  # First: JAX begins in each child, as its threads do not outlive a fork.
  count = _COMMANDS.value
  bugs = runner.fuzz("command", make_command, call_command, count=count, seed=seed)
  count = _CONFIGS.value
  bugs += fuzz_here("config", make_config, call_config, count=count, seed=seed)
  os._exit(bool(bugs))


if __name__ == "__main__":
  app.run(run)
