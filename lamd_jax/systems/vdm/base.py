"""VDM: Video Diffusion Models, one network trained on videos and images together.

Ho et al. 2022 (arXiv:2204.03458), not the Variational Diffusion Models of Kingma et al.
2021. The one stage, `base`, diffuses pixels. It is trained on whole videos only; to
continue given frames, fill in between them or raise their resolution, reconstruction
guidance makes samples agree with the known part, and `systems/windows.py` extends that
to any length.
"""

from collections.abc import Mapping
import dataclasses
from typing import Annotated, Any, Literal

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lamd_jax.diffusion import guidance, losses, process, samplers, schedules
from lamd_jax.models import conditioning
from lamd_jax.models.unet3d import UNet3D
from lamd_jax.schema import (
  Field,
  Fraction,
  Frames,
  Guidance,
  Range,
  Weight,
  block,
  build,
)
from lamd_jax.systems import blocks
from lamd_jax.systems.clip import clip_of
from lamd_jax.systems.networks import OF_COMPUTATION, apply, of_computation
from lamd_jax.systems.pixels import from_uint8
from lamd_jax.systems.stage import OnStep, Part
from lamd_jax.types import Batch, Config, Metrics, Params, PRNGKey, UserError

Method = Literal["reconstruction", "replacement"]
BLOCK = block(
  taker="the stage base",
  model=Field(block(UNet3D, without=OF_COMPUTATION)),
  diffusion=Field(block(blocks.Diffusion)),
)


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Sampling settings.

  Attributes:
    num_steps: Steps of the ancestral sampler.
    gamma: Its variance, between the lower bound at 0 and the upper bound at 1.
    langevin_delta: Step size of the Langevin corrector, 0.1 in the paper; 0 for no
      corrector, which halves the work.
    guidance: Classifier-free guidance scale; 1 for none.
    given_frames: Leading frames taken from the batch; 0 for none.
    overlap: Frames that neighbouring windows of a longer video share.
    method: Makes the other frames agree with known ones.
    frames_weight: w_r of reconstruction guidance for known frames; 50 and 9 in the
      paper.
    size_weight: w_r for a low resolution; from 1 to 6 at factor 2.
  """

  num_steps: Annotated[int, Range(1, 10**5)] = 256
  gamma: Fraction = 0.0
  langevin_delta: Weight = 0.0
  guidance: Guidance = 1.0
  given_frames: Annotated[int, Range(0, 2**14)] = 0
  overlap: Frames = 8
  method: Method = "reconstruction"
  frames_weight: Weight = 9.0
  size_weight: Weight = 4.0


@struct.dataclass
class VDMStage:
  """The one stage: a denoiser of pixels.

  A batch has `video`; where it has `images` (`b n h w 3`), these are trained as n
  further frames that see no other. With a condition it has `label`, or `text` and
  `text_mask`, of the video, and the same after `image_` of each image.

  Attributes:
    model: The network.
    condition: Network that embeds the condition; None for none.
    schedule: Noise levels.
    parameterization: Quantity that the network predicts.
    cond_dropout: Share of videos, and of images, that are trained without condition.
    sampling: Sampling settings.
  """

  model: UNet3D = struct.field(pytree_node=False)
  condition: conditioning.Condition | None = struct.field(pytree_node=False)
  schedule: schedules.Schedule = struct.field(pytree_node=False)
  parameterization: process.Parameterization = struct.field(pytree_node=False)
  cond_dropout: float = struct.field(pytree_node=False)
  sampling: Sampling = struct.field(pytree_node=False)

  def init(self, key: PRNGKey, batch: Batch) -> Params:
    """See `Stage`."""
    model_key, cond_key = jax.random.split(key)
    # No parameter depends on the number of frames.
    x = from_uint8(batch["video"][:1, :1])
    level = jnp.zeros(1)
    params = {"model": self.model.init(model_key, x, level)["params"]}
    if self.condition is not None:
      given = [value[:1] for value in self._given(batch, "")]
      params["condition"] = self.condition.init(cond_key, *given)["params"]
    return params

  def loss(
    self, params: Params, batch: Batch, key: PRNGKey, *, train: bool
  ) -> tuple[Float[Array, ""], Metrics]:
    """The denoising loss, over all frames of videos and all images alike."""
    loss_key, cond_key, dropout_key = jax.random.split(key, 3)
    x = from_uint8(batch["video"])
    num_frames, num_images = x.shape[1], 0
    if "images" in batch:
      num_images = batch["images"].shape[1]
      x = jnp.concatenate([x, from_uint8(batch["images"])], axis=1)
    cond = self._cond(params, batch)
    if cond is not None:
      is_null = self._draw_null(cond_key, len(x), num_images)
      cond = conditioning.drop(cond, is_null[:, 0])
      of_images = self._cond(params, batch, "image_")
      if of_images is not None:
        of_images = conditioning.drop(of_images, is_null[:, 1:])
        cond = conditioning.per_frame(cond, of_images, num_frames)

    def model_fn(x_t, logsnr):
      return apply(
        self.model,
        params["model"],
        x_t,
        logsnr,
        cond,
        num_images=num_images,
        train=train,
        rngs={"dropout": dropout_key},
      )

    return losses.denoising_loss(
      model_fn,
      x,
      loss_key,
      schedule=self.schedule,
      parameterization=self.parameterization,
    )

  def sample(
    self, params: Params, batch: Batch, key: PRNGKey, on_step: OnStep | None = None
  ) -> Float[Array, "b f h w 3"]:
    """Videos under the batch's conditions, and from its first frames if so set."""
    video = from_uint8(batch["video"])
    is_known = jnp.arange(video.shape[1]) < self.sampling.given_frames
    return self.sample_window(
      params,
      batch,
      key,
      video,
      is_known if self.sampling.given_frames else None,
      on_step=on_step,
    )

  def sample_window(
    self,
    params: Params,
    conditions: Batch,
    key: PRNGKey,
    video: Float[Array, "b f h w 3"],
    is_known: Bool[Array, " f"] | None = None,
    low: Float[Array, "b f h2 w2 3"] | None = None,
    has_low: Bool[Array, " f"] | None = None,
    on_step: OnStep | None = None,
  ) -> Float[Array, "b f h w 3"]:
    """Draws the frames that are not known, given those that are.

    Args:
      params: Parameters of this stage.
      conditions: As in a batch.
      key: For all noise.
      video: Known frames in [-1, 1]; arbitrary elsewhere.
      is_known: True for known frames; None if there are none.
      low: Frames in a low resolution; None if there are none.
      has_low: True for frames with a low resolution; None for all.
      on_step: Called on the host after each denoising step.

    Returns:
      The video; known frames are as they were given.
    """
    init_key, steps_key, known_key = jax.random.split(key, 3)
    how = self.sampling
    cond = self._cond(params, conditions)
    with_cond = self._denoise_fn(params, cond)
    denoise_fn = with_cond
    if cond is not None:
      without = self._denoise_fn(params, None)
      denoise_fn = guidance.classifier_free(with_cond, without, how.guidance)
    observations, known = [], None
    if is_known is not None:
      known = guidance.Known(is_known[None, :, None, None, None], video)
      if how.method == "reconstruction":
        observations.append(guidance.known_frames(known, how.frames_weight))
    if low is not None:
      observations.append(self._low(video, low, has_low))
    if observations:
      denoise_fn = guidance.reconstruction(denoise_fn, observations)
    if known is not None:
      denoise_fn = guidance.replacement(denoise_fn, known, known_key)
    sampler = samplers.ancestral(how.gamma)
    if how.langevin_delta:
      sampler = samplers.langevin(sampler, how.langevin_delta)
    return samplers.sample(
      steps_key,
      jax.random.normal(init_key, video.shape),
      denoise_fn=guidance.clip(denoise_fn),
      sampler=sampler,
      logsnr_grid=samplers.ending_clean(self.schedule.sampling_grid(how.num_steps)),
      on_step=on_step,
    )

  @property
  def given_frames(self) -> int:
    """See `Stage`."""
    return self.sampling.given_frames

  @property
  def overlap(self) -> int:
    """See `WindowStage`."""
    return self.sampling.overlap

  def protocol(self) -> dict[str, Any]:
    """See `Stage`."""
    how = self.sampling
    corrector = f", Langevin delta {how.langevin_delta:g}" if how.langevin_delta else ""
    given = f"{how.given_frames}, as they were, measured too"
    return {
      "given_frames": given if how.given_frames else "none",
      "sampler": f"ancestral, gamma {how.gamma:g}{corrector}",
      "sampling_steps": how.num_steps,
      "guidance": f"classifier-free {how.guidance:g}"
      + (f", {how.method} {how.frames_weight:g}" if how.given_frames else ""),
    }

  def _denoise_fn(self, params: Params, cond: Array | None) -> process.DenoiseFn:
    model_fn = lambda x_t, logsnr: apply(self.model, params["model"], x_t, logsnr, cond)
    return process.make_denoise_fn(model_fn, self.parameterization)

  def _low(self, video, low, has_low) -> guidance.Observation:
    """Observes a low resolution of the frames that have one."""
    factor = video.shape[2] // low.shape[2]
    every = guidance.low_resolution(low, factor, self.sampling.size_weight)
    if has_low is None:
      return every
    some = lambda x: jnp.where(has_low[None, :, None, None, None], x, 0.0)
    return guidance.Observation(
      lambda x: some(every.observe(x)), some(every.value), every.weight
    )

  def _given(self, batch: Batch, prefix: str) -> list[Array]:
    """The arrays of the batch that its condition is made of; [] if it has none."""
    keys = (f"{prefix}{key}" for key in ("label", "text", "text_mask"))
    return [batch[key] for key in keys if key in batch]

  def _cond(self, params: Params, batch: Batch, prefix: str = "") -> Array | None:
    given = self._given(batch, prefix)
    if self.condition is None or not given:
      return None
    return apply(self.condition, params["condition"], *given)

  def _draw_null(self, key, num_videos, num_images) -> Bool[Array, "b n"]:
    """Draws which videos (column 0) and images lose their condition."""
    shape = (num_videos, 1 + num_images)
    return jax.random.bernoulli(key, self.cond_dropout, shape)


def make_base(config: Config, parts: Mapping[str, Part]) -> VDMStage:
  """Builds the stage."""
  del parts
  num_frames = clip_of(config, "base").num_frames
  model = build(UNet3D, config.base.model, "base.model", **of_computation(config))
  if num_frames > model.max_frames:
    raise UserError(
      f"data.num_frames={num_frames} is more than base.model.max_frames="
      f"{model.max_frames}"
    )
  sampling = blocks.read_sampling(Sampling, config)
  _check_sampling(sampling, num_frames)
  said, diffusion = blocks.read_condition(config), blocks.read_diffusion(config, "base")
  schedule = schedules.make_schedule(diffusion.schedule)
  schedule.sampling_grid(sampling.num_steps)  # Raises what is impossible.
  return VDMStage(
    model=model,
    condition=_make_condition(said, model.embedding_channels),
    schedule=schedule,
    parameterization=diffusion.parameterization,
    cond_dropout=said.dropout,
    sampling=sampling,
  )


def _make_condition(
  said: blocks.ConditionSettings, features: int
) -> conditioning.Condition | None:
  match said.kind:
    case "class":
      return conditioning.ClassCondition(said.num_classes, features)
    case "caption":
      return conditioning.CaptionCondition(features)
    case "words":
      raise UserError("condition.kind='words'; VDM knows: none, class, caption")
  return None


def _check_sampling(how: Sampling, num_frames: int) -> None:
  if not 0 <= how.given_frames < num_frames:
    raise UserError(
      f"sample.given_frames={how.given_frames} of {num_frames}: expected 0 to"
      f" {num_frames - 1}"
    )
  if not 0 < how.overlap < num_frames:
    raise UserError(
      f"sample.overlap={how.overlap}: expected 1 to {num_frames - 1} of {num_frames}"
      " frames"
    )
