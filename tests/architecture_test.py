"""Who may import whom, read from the source of lamd_jax.

A package imports itself and what its row lists; the drawing in lamd_jax/README.md
shows the same. Whoever changes a rule changes row and drawing in one commit.
"""

import ast
import pathlib

from absl.testing import absltest

ROOT = pathlib.Path(__file__).parents[1]
MAY_IMPORT = {
  "types": set(),
  "schema": {"types"},
  "config": {"types"},
  "files": {"types"},
  # Siblings that do not know each other: mathematics, layers, videos, other weights.
  "diffusion": {"types"},
  "nn": {"types"},
  "data": {"types", "schema"},
  "interop": {"types", "files"},
  "models": {"types", "schema", "nn"},
  "training": {"types", "schema", "files"},
  "metrics": {"types", "files", "interop", "models", "data"},
  "systems": {"types", "schema", "nn", "models", "diffusion"},
  # Here all of them meet: first in one experiment, then in what is done with it.
  "experiment": {
    *(
      "types",
      "schema",
      "files",
      "data",
      "interop",
      "models",
      "systems",
      "metrics",
    ),
    "training",
  },
  "report": {"types", "files", "data", "metrics", "training"},
  "jobs": {
    *("types", "files", "data", "systems", "metrics", "training"),
    "experiment",
  },
  "command_line": {"types", "schema"},
  "main": {
    *("types", "schema", "command_line", "training", "experiment", "jobs", "report")
  },
}
# Of `metrics`, what reads videos.
READ_VIDEOS = {"metrics/score.py", "metrics/clip_set.py", "metrics/__main__.py"}
# Networks that are not trained here: of the models, measures know these alone.
FROZEN = {"clip", "i3d", "inception", "perceptual", "vgg"}
# What may be imported only in these packages.
ONLY_IN = {
  "ml_collections": {
    "main", "command_line", "config", "systems", "experiment", "jobs"
  },
  "flax.linen": {"nn", "models"},
  "tensorflow_datasets": {"data"},
  "tensorflow": set(),
  "torch": set(),
  "torchvision": set(),
  "pickle": {"interop"},
  # Deprecated in the supported range of JAX; `jax.jit` with shardings does all.
  "jax.pmap": set(),
  "jax.experimental.pjit": set(),
  "jax.experimental.shard_map": set(),
  "jax.experimental.maps": set(),
  "jax.sharding.PositionalSharding": set(),
}  # fmt: skip
NOT_IN = {"jax": {"data", "config"}, "flax": {"data", "metrics", "diffusion", "config"}}


def is_within(name, package):
  """Whether a dotted name is a package or inside it."""
  return name == package or name.startswith(f"{package}.")


def imported(tree):
  """Yields dotted names: imports, and what is reached through an imported name."""
  aliases = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name
        bound = alias.name if alias.asname else alias.name.partition(".")[0]
        aliases[alias.asname or bound] = bound
    elif isinstance(node, ast.ImportFrom):
      module = "." * node.level + (node.module or "")
      for alias in node.names:
        yield f"{module}.{alias.name}"
        aliases[alias.asname or alias.name] = f"{module}.{alias.name}"
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute):
      text = ast.unparse(node)
      first, _, rest = text.partition(".")
      if first in aliases:
        yield f"{aliases[first]}.{rest}"


def rules_broken(path, package, text):
  """Returns a line for each import of a source file that a rule forbids."""
  bad = set()
  for name in imported(ast.parse(text)):
    own, _, inside = name.partition(".")
    target = inside.partition(".")[0]
    if name.startswith("."):
      bad.add(f"{path}: relative import {name}")
    is_own = own == "lamd_jax" and target in MAY_IMPORT
    if is_own and target not in {package, *MAY_IMPORT.get(package, ())}:
      bad.add(f"{path}: {package} must not import {target}")
    if package == "metrics" and target == "data" and str(path) not in READ_VIDEOS:
      bad.add(f"{path}: of metrics only {', '.join(sorted(READ_VIDEOS))} read videos")
    is_network = package == "metrics" and target == "models"
    if is_network and inside.split(".")[1] not in FROZEN:
      bad.add(f"{path}: {package} must not know {inside}")
    for module, packages in ONLY_IN.items():
      if is_within(name, module) and package not in packages:
        bad.add(f"{path}: {module} must not be used in {package}")
    for module, packages in NOT_IN.items():
      if is_within(name, module) and package in packages:
        bad.add(f"{path}: {package} must do without {module}")
  return sorted(bad)


def sources():
  """Yields path, package and text of every module of the library."""
  for path in sorted((ROOT / "lamd_jax").rglob("*.py")):
    relative = path.relative_to(ROOT / "lamd_jax")
    if str(relative) != "__init__.py":
      yield relative, relative.with_suffix("").parts[0], path.read_text()


class ArchitectureTest(absltest.TestCase):
  def test_every_module_keeps_the_rules(self):
    broken = [line for source in sources() for line in rules_broken(*source)]
    self.assertEqual(broken, [])

  def test_every_package_has_a_row(self):
    self.assertLessEqual({package for _, package, _ in sources()}, set(MAY_IMPORT))

  def test_the_rules_have_teeth(self):
    for package, text in (
      ("types", "from lamd_jax.config import parse_arg"),
      ("diffusion", "from lamd_jax import nn"),
      ("nn", "import lamd_jax.diffusion.process as process"),
      ("models", "def f():\n  from lamd_jax.systems import lamd"),
      ("systems", "from lamd_jax.data.sources import make_source"),
      ("data", "from lamd_jax.metrics import image"),
      ("metrics", "from lamd_jax.training.state import TrainState"),
      ("metrics", "from lamd_jax.models import dmg"),
      ("metrics", "from lamd_jax.data import media"),
      ("training", "from lamd_jax.diffusion import losses"),
      ("jobs", "from lamd_jax.diffusion import samplers"),
      ("experiment", "from lamd_jax.jobs import train"),
      ("report", "from lamd_jax.systems import lamd"),
      ("data", "from lamd_jax.experiment import captions"),
      ("main", "from lamd_jax.systems import lamd"),
      ("nn", "import ml_collections"),
      ("systems", "from flax import linen as nn"),
      ("training", "import flax.linen as nn"),
      ("training", "import flax\nflax.linen.Dense(3)"),
      ("metrics", "import tensorflow_datasets as tfds"),
      ("data", "import tensorflow as tf"),
      ("models", "from torch import nn"),
      ("data", "import jax.numpy as jnp"),
      ("training", "import jax\nf = jax.pmap(g)"),
      ("training", "from jax.experimental.pjit import pjit"),
      ("training", "from jax.experimental import shard_map"),
      ("systems", "from . import stage"),
    ):
      with self.subTest(f"{package}: {text}"):
        self.assertLen(rules_broken("a.py", package, text), 1)

  def test_what_is_allowed_passes(self):
    for package, text in (
      ("systems", "from lamd_jax.diffusion import losses\nimport ml_collections"),
      ("models", "from flax import linen as nn\nfrom lamd_jax.nn import blocks"),
      ("data", "import tensorflow_datasets as tfds\nimport numpy as np"),
      ("training", "import flax.struct\nimport jax\njax.jit(f)"),
      ("jobs", "from lamd_jax.training import step\nfrom lamd_jax import data"),
      ("metrics", "from lamd_jax.models import i3d"),
      ("main", "from lamd_jax.jobs import train\nimport ml_collections"),
    ):
      with self.subTest(f"{package}: {text}"):
        self.assertEqual(rules_broken("a.py", package, text), [])


if __name__ == "__main__":
  absltest.main()
