"""Both stages of LaMD at the smallest size, with parameters that are zero nowhere."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import tiny_config

from lamd_jax.systems import table
from lamd_jax.systems.networks import apply
from lamd_jax.systems.stage import Part

CONFIG = tiny_config.get_config()
KEY = jax.random.key(11)
VIDEO = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3)).astype(np.uint8)
BATCH = {"video": jnp.asarray(VIDEO)}


def filled(shapes, seed):
  """Fills every parameter with normal numbers, those initialized to zero too."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda s: jnp.float32(rng.normal(0.0, 0.3, s.shape)), shapes)


@functools.cache
def autoencoder():
  """Returns stage 1 and its parameters."""
  stage = table.make_stage(CONFIG, "mcd_vae", {})
  return stage, filled(jax.eval_shape(stage.init, KEY, BATCH), 1)


def parts():
  """Returns the trained parts that stage 2 needs."""
  return {"mcd_vae": Part(autoencoder()[1])}


@functools.cache
def generator():
  """Returns stage 2, built around stage 1, and its parameters."""
  stage = table.make_stage(CONFIG, "dmg", parts())
  return stage, filled(jax.eval_shape(stage.init, KEY, BATCH), 2)


def configured(condition=None, **sample):
  """Returns the configuration with a condition and other sampling values."""
  config = copy.deepcopy(CONFIG)
  config.update({"sample": sample})
  if condition:
    config.condition = condition
  return config


def conditional(condition, batch, **sample):
  """Returns stage 2 with a condition, and parameters for batches like this one."""
  config = configured(condition, **sample)
  stage = table.make_stage(config, "dmg", parts())
  return stage, filled(jax.eval_shape(stage.init, KEY, batch), 3)


@functools.cache
def vae(method):
  """Returns a compiled method of stage 1's network, bound to its parameters."""
  stage, params = autoencoder()
  return jax.jit(functools.partial(apply, stage.model, params, method=method))
