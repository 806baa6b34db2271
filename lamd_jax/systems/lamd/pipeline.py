"""LaMD as a pipeline: animates pictures, goes on with videos, transfers motion."""

from collections.abc import Callable, Iterator, Mapping
import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from lamd_jax.systems import pixels
from lamd_jax.systems.clip import Clip, clip_of
from lamd_jax.systems.lamd import dmg, mcd_vae, motion
from lamd_jax.systems.pipeline import (
  Devices,
  Keep,
  Pipeline,
  Plan,
  Reading,
  Request,
  Segment,
  Stages,
  Trained,
  WindowPipeline,
)
from lamd_jax.systems.stage import OnStep, Part
from lamd_jax.types import Config, PRNGKey, UserError


class LaMDPipeline:
  """Motion transfer by the autoencoder alone; all other tasks by the generator.

  Options of the task `transfer`:

    strengths  place between the latents of a still (0) and of the motion (1), or past
               it; see `motion.scale` for how much moves then; (1.0,) by default
    mix        in place of two motions, so many from the first to the second

  Its videos are, for each motion in turn, those of all strengths.
  """

  def __init__(self, config: Config, trained: Stages, devices: Devices):
    """Restores no stage before a task needs it."""
    self._config, self._trained, self._devices = config, trained, devices
    self._clip: Clip = clip_of(config, "mcd_vae")

  @functools.cached_property
  def _generating(self) -> Pipeline:
    if not self._can_generate:
      raise UserError(
        f"this model only reconstructs: config.stages={tuple(self._config.stages)} has"
        " no stage that generates"
      )
    return self._around(self._trained["dmg"])

  def _around(self, generator: Trained) -> WindowPipeline:
    return WindowPipeline(
      "lamd",
      clip_of(self._config, "dmg"),
      generator,
      self._devices,
      self._config.sample.batch_size,
    )

  @property
  def tasks(self) -> Mapping[str, str]:
    """See `Pipeline`; restores no stage."""
    transfer = {
      "transfer": "a picture that moves like a clip (--image or --video, and --motion)"
    }
    if not self._can_generate:
      return transfer
    bare = dmg.make_dmg(self._config, {"mcd_vae": Part(None)})
    return transfer | dict(self._around(Trained(bare, None, {}, {})).tasks)

  @property
  def _can_generate(self) -> bool:
    return "dmg" in self._config.stages

  def reading(self, task: str, options: Mapping[str, Any]) -> Reading | None:
    """See `Pipeline`."""
    if task == "transfer":
      return Reading(self._clip.resolution, self._clip.frame_stride, most=1)
    return self._generating.reading(task, options)

  def plan(self, request: Request) -> Plan:
    """See `Pipeline`."""
    if request.task != "transfer":
      return self._generating.plan(request)
    strengths, mix = _options(request)
    count, clips = len(strengths), len(request.motions)
    if not clips or not count or not all(map(math.isfinite, strengths)):
      raise UserError(
        f"--mode=transfer: {clips} motions at the strengths {list(strengths)}; expected"
        " one or more, and finite numbers"
      )
    if mix is not None and (mix < 2 or clips != 2):
      raise UserError(
        f"--mix={mix} with {clips} motions: expected 2 or more videos, from the first"
        " of two motions to the second"
      )
    fps = float(self._trained["mcd_vae"].meta["fps"])
    return Plan(self._clip.num_frames, fps)

  def run(
    self,
    request: Request,
    key: PRNGKey,
    keep: Keep | None = None,
    on_step: OnStep | None = None,
  ) -> Iterator[Segment]:
    """See `Pipeline`."""
    if request.task == "transfer":
      self.plan(request)
      yield Segment(0, self._transfer(request))
    else:
      yield from self._generating.run(request, key, keep, on_step)

  @functools.cached_property
  def _motion(self) -> tuple[Callable[..., Any], ...]:
    """The functions of `motion` for the trained autoencoder, compiled once."""
    vae, params = mcd_vae.make_vae(self._config), self._trained["mcd_vae"].params
    # The parameters are inputs of the programs; the network is a constant.
    bound = lambda fn: functools.partial(
      self._devices.jit(functools.partial(fn, vae)), params
    )
    functions = (motion.encode_motion, motion.encode_still, motion.decode_motion)
    return tuple(map(bound, functions))

  def _transfer(self, request: Request) -> np.ndarray:
    strengths, mix = _options(request)
    assert request.video is not None
    encode, encode_still, decode = self._motion
    content = pixels.from_uint8(jnp.asarray(request.video[:1]))
    # One at a time: they are few.
    motions = [
      encode(pixels.from_uint8(jnp.asarray(clip[None]))) for clip in request.motions
    ]
    still = encode_still(content)
    if mix is not None:
      first, second = motions
      weights = np.linspace(0.0, 1.0, mix).tolist()
      motions = [motion.interpolate(first, second, weight) for weight in weights]
    edited = [motion.scale(z, still, x) for z in motions for x in strengths]
    return np.stack(
      [np.asarray(pixels.to_uint8(decode(z, content)[0])) for z in edited]
    )


def _options(request: Request) -> tuple[tuple[float, ...], int | None]:
  return tuple(request.options.get("strengths", (1.0,))), request.options.get("mix")
