"""The command line's mistakes and messages: one line each, without a traceback."""

from collections.abc import Sequence
import difflib
import itertools
import logging as std_logging
import pathlib
import re
import sys
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from lamd_jax.schema import FilePath, check, shown
from lamd_jax.types import UserError, printable


def fail(message: str) -> int:
  """Prints an error in one line, whatever is in it; returns the exit status for it."""
  print(f"error: {printable(message)}", file=sys.stderr)
  return 2


def define_config(name: str, text: str) -> flags.FlagHolder:
  """Defines the flag of a configuration, which may be any Python file."""
  holder = config_flags.DEFINE_config_file(name, None, text, lock_config=True)
  flag = flags.FLAGS[name]
  flag.parser = _ConfigFile(flag.parser)
  return holder


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the command line; a mistake in it ends the program with one line."""
  try:
    _check_config_file(argv)
    return flags.FLAGS(list(argv))
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)
  except Exception as e:  # A configuration is a program, which may raise anything.
    sys.exit(fail(_explain(e, argv)))


class _ConfigFile(flags.ArgumentParser):
  """Loads a configuration, and says what is wrong with it if it is none."""

  def __init__(self, load: flags.ArgumentParser):
    """Wraps the parser of ml_collections."""
    self._load = load

  def parse(self, path: str) -> ml_collections.ConfigDict:
    """Returns what `get_config` of the file returns; a dict is as good."""
    try:
      config: Any = self._load.parse(path)
      # Its way to put off what opening the file raised.
      if type(config).__name__ == "_ErrorConfig":
        config.lock()
      if isinstance(config, dict):
        config = ml_collections.ConfigDict(config).lock()
    except (SystemExit, GeneratorExit) as e:
      raise UserError(
        f"--config={path}: the file ended the program ({type(e).__name__}:"
        f" {shown(str(e))}); get_config is to return a configuration"
      ) from e
    if not isinstance(config, ml_collections.ConfigDict):
      raise UserError(
        f"--config={path}: get_config returns {shown(config)}; expected an"
        " ml_collections.ConfigDict"
      )
    return config


def _check_config_file(argv: Sequence[str]) -> None:
  """Raises a `UserError` for a file that is not there.

  Left to itself, the flag only says so when its value is used.
  """
  for argument, following in itertools.pairwise([*argv, ""]):
    name, equals, value = argument.partition("=")
    if name not in ("-config", "--config"):
      continue
    text, _, _ = (value if equals else following).partition(":")
    path = pathlib.Path(check(text, FilePath, "--config"))
    if not path.is_file():
      there = {p.name: p for p in sorted(path.parent.glob("*.py"))}
      close = difflib.get_close_matches(path.name, there, n=1)
      hint = f"did you mean {there[close[0]]}?" if close else "see configs/"
      raise UserError(f"--config={path}: there is no such file; {hint}")


def _explain(error: BaseException, argv: Sequence[str]) -> str:
  """One line for what absl and ml_collections raise of a command line."""
  causes = [error]
  while cause := causes[-1].__cause__ or causes[-1].__context__:
    causes.append(cause)
  for cause in reversed(causes):
    if isinstance(cause, UserError):
      return str(cause)
  text = str(error.args[0] if error.args else error)
  if unknown := re.match(r"\W*(\w+)", text):
    # ml_collections names the key alone: which argument has it?
    key = re.compile(rf"--?(no)?config\.([\w.]+\.)?{unknown[1]}\b")
    close = re.search(r"Did you mean \W*(\w+)", text)
    for argument in argv:
      if isinstance(error, AttributeError | KeyError) and key.match(argument):
        hint = f"; did you mean {close[1]}?" if close else ""
        return f"{argument}: the configuration has no {unknown[1]!r}{hint}"
  if "whilst parsing config file" in text:  # Python's whole story of an error in it.
    root = causes[-1]
    return f"{text.partition(': ')[0]}: {type(root).__name__}: {one_line(root)}"
  if not isinstance(error, flags.Error):
    text = f"--config: {type(error).__name__}: {error}"
  if "get_config" in text:
    text = "the file of --config defines no function get_config"
  text = re.sub(r"invalid literal for int\(\).*", "expected a whole number", text)
  text = re.sub(r"could not convert string to float.*", "expected a number", text)
  return one_line(text)


def one_line(text: object) -> str:
  """Returns a text without line breaks."""
  return " ".join(str(text).split())


def is_ours_or_a_warning(record: std_logging.LogRecord) -> bool:
  """Whether to print a log record: orbax and others tell of every step they take."""
  path = pathlib.Path(record.pathname)
  if pathlib.Path(__file__).parent in path.parents:
    return True
  # Orbax warns of what it was asked to do.
  is_orbax = "orbax" in path.parts
  return record.levelno >= (std_logging.ERROR if is_orbax else std_logging.WARNING)


class Lines(std_logging.Formatter):
  """Formatter of log records whose names of files cannot command a terminal."""

  def formatMessage(self, record: std_logging.LogRecord) -> str:  # noqa: N802
    """Returns the message in one printable line."""
    return printable(super().formatMessage(record))
