"""Weights that a test and its reference make alike, each in its own framework."""

import json
import math

import numpy as np


def pack(shapes):
  """Shapes by name as an array, to lie in a file beside others."""
  return np.array(json.dumps(shapes))


def random_weights(packed):
  """An array for each name: no two alike, none that can be left out unnoticed.

  Scaled for activations of order 1 in a network with ReLUs.
  """
  arrays = {}
  for i, (name, shape) in enumerate(sorted(json.loads(str(packed)).items())):
    rng = np.random.default_rng((0, i))
    if name.endswith("running_var"):
      array = rng.uniform(0.5, 2.0, shape).astype(np.float32)
    elif name.endswith("weight") and len(shape) == 1:  # Of a norm.
      array = rng.uniform(0.7, 1.3, shape).astype(np.float32)
    else:
      std = math.sqrt(2.0 / math.prod(shape[1:])) if len(shape) > 1 else 0.2
      array = rng.standard_normal(shape, np.float32) * np.float32(std)
    arrays[name] = np.asarray(array)
  return arrays
