"""Stages without a network, for tests of what is done around one."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.systems.pipeline import Devices, Trained

FPS = 10.0
# Nothing is traced, so a stage can note what it was told.
DEVICES = Devices(put=lambda x: x, jit=lambda fn: fn)


@dataclasses.dataclass(frozen=True)
class Grey:
  """Fills unknown frames with grey, and notes what it was told."""

  calls: list = dataclasses.field(default_factory=list, hash=False, compare=False)
  given_frames: int = 2
  overlap: int = 2

  # A video is continued window by window, and in no other way.
  init = loss = sample = protocol = mock.Mock(side_effect=AssertionError)

  def sample_window(
    self,
    params,
    conditions,
    key,
    video,
    is_known=None,
    low=None,
    has_low=None,
    on_step=None,
  ):
    self.calls.append((video, is_known, low, has_low, conditions, key))
    known = np.zeros(video.shape[1], bool) if is_known is None else np.asarray(is_known)
    return np.where(known[None, :, None, None, None], video, 0.0)


class Noise(Grey):
  """Draws unknown frames around the mean of the known ones."""

  def sample_window(self, params, conditions, key, video, is_known=None, *args, **kw):
    super().sample_window(params, conditions, key, video, is_known, *args, **kw)
    known = np.zeros(video.shape[1], bool) if is_known is None else is_known
    known = jnp.asarray(known)[None, :, None, None, None]
    mean = jnp.mean(video, axis=(1, 2, 3, 4), where=known, keepdims=True)
    drawn = jax.random.normal(key, video.shape)
    return np.asarray(jnp.tanh(jnp.nan_to_num(mean) + drawn))


class Clips(Grey):
  """Makes whole clips that keep the first frame, and draws the others."""

  sample_window = None  # It is no model of windows.

  def sample(self, params, batch, key, on_step=None):
    self.calls.append((batch, key))
    video = jnp.asarray(batch["video"], jnp.float32) / 127.5 - 1
    drawn = jax.random.uniform(key, video.shape, minval=-1.0)
    return drawn.at[:, :1].set(video[:, :1]) if self.given_frames else drawn


def trained(stage):
  """A stage as a pipeline gets it."""
  return Trained(stage, {}, {}, {"fps": FPS})
