"""Devices, compilation and its cache: what the tests set before JAX starts.

Tests run on one CPU device. Those marked `mesh` need eight, and the number cannot
change once JAX has started: `pytest -m mesh` runs them in processes of their own.

Compiling takes most of the time, so every program is compiled once: all workers, the
processes that tests start, and later runs share one cache in `.pytest_cache`. Its keys
cover the program, the versions and the flags, so an entry is never out of date.
`pytest --cache-clear` empties it; `JAX_ENABLE_COMPILATION_CACHE=false` turns it off.
"""

import gc
import importlib.metadata
import os
import pathlib
import re
import shutil
import sys
import tempfile

import pytest

NUM_MESH_DEVICES = 8
MAX_CACHE_GB = 4.0  # A larger cache is emptied at the start of a run.
MAX_MAPS = 30_000  # Linux ends a process at 65,530 (vm.max_map_count).
MAPS = pathlib.Path("/proc/self/maps")
# Tests run each program once or twice: compiling is what takes the time.
FLAGS = (
  "--xla_backend_optimization_level=0",
  "--xla_llvm_disable_expensive_passes=true",
  "--xla_cpu_opt_preset=FAST_COMPILE",
)
# Half of the time to compile; later versions have no other emitters.
FLAGS_BEFORE_0_11 = ("--xla_cpu_use_fusion_emitters=false",)
# Tracing makes many objects that live: by default 7 % of the time goes into looking at
# them again and again.
GC_THRESHOLD = (50_000, 20, 50)


def is_mesh_run(config: pytest.Config) -> bool:
  """Returns whether -m begins with `mesh`: a run of those tests, on eight devices."""
  return re.match(r"mesh\b", config.option.markexpr) is not None


def is_worker(config: pytest.Config) -> bool:
  """Returns whether this process is one that pytest-xdist has started."""
  return hasattr(config, "workerinput")


def share_compilation_cache(config: pytest.Config) -> None:
  """Chooses the folder of compiled programs; workers and child processes inherit it."""
  if "JAX_COMPILATION_CACHE_DIR" in os.environ or not hasattr(config, "cache"):
    return
  folder = config.cache.mkdir("compiled")
  size = sum(path.stat().st_size for path in folder.iterdir())
  if size > MAX_CACHE_GB * 1e9:
    shutil.rmtree(folder)
    folder.mkdir()
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def fast_compilation() -> tuple[str, ...]:
  """Returns the flags with which this version of XLA compiles fastest."""
  version = importlib.metadata.version("jaxlib").split(".")
  is_before = (int(version[0]), int(version[1])) < (0, 11)
  return (*FLAGS, *(FLAGS_BEFORE_0_11 if is_before else ()))


def pytest_configure(config: pytest.Config) -> None:
  """Sets the environment before anything imports JAX."""
  assert "jax" not in sys.modules, "JAX was imported before the tests could set it up"
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  gc.set_threshold(*GC_THRESHOLD)
  if is_worker(config):
    return  # What follows came with the environment.
  share_compilation_cache(config)
  if os.environ["JAX_PLATFORMS"] == "cpu":
    devices = NUM_MESH_DEVICES if is_mesh_run(config) else 1
    flags = (*fast_compilation(), f"--xla_force_host_platform_device_count={devices}")
    os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *flags))
  # For what is made once and shared by all workers: see helpers/made_once.py.
  config.stash[SHARED] = tempfile.mkdtemp(prefix="lamd_jax_tests_")
  os.environ["LAMD_JAX_TESTS"] = config.stash[SHARED]


SHARED = pytest.StashKey[str]()


def pytest_unconfigure(config: pytest.Config) -> None:
  """Removes what the workers shared."""
  if SHARED in config.stash:
    shutil.rmtree(config.stash[SHARED], ignore_errors=True)


def pytest_collection_modifyitems(
  config: pytest.Config, items: list[pytest.Item]
) -> None:
  """Skips tests that need another number of devices than this run has.

  `.ci/run` and `make test-all` run -m "not mesh" and -m mesh, which select no such test
  and together run every one. Others, such as -m slow, may select some.
  """
  is_mesh = is_mesh_run(config)
  reason = "needs one device" if is_mesh else "needs eight devices: pytest -m mesh"
  for item in items:
    if (item.get_closest_marker("mesh") is not None) != is_mesh:
      item.add_marker(pytest.mark.skip(reason=reason))


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
  """Frees compiled programs between files, before the process has too many of them.

  Each lies in several memory maps. Beyond the limit of the system the compiler ends the
  process with a segmentation fault.
  """
  if nextitem is None or nextitem.path == item.path or not MAPS.exists():
    return
  if MAPS.read_bytes().count(b"\n") > MAX_MAPS:
    import jax

    jax.clear_caches()
