"""LaMD: latent motion diffusion, in two stages.

Hu et al. 2023 (arXiv:2304.11603). Stage `mcd_vae` learns to write a clip as the
content of its first frame and one motion latent; stage `dmg`, with the first
frozen, learns to generate the latent from the content, and from a class or a text if
there is one. To animate a picture: E_I reads it, DMG samples a latent, Norm, D_V
decodes.

The paper stops at one clip. Here a video goes on by windows (`systems/windows.py`):
each takes its content from its own first frame, the last one of the window before.
So what a first frame does not show never comes in, and errors of last frames add up.
Further frames that a window shares with the one before, and those that interpolation
is between, are met by reconstruction guidance through the frozen decoder.
"""

from collections.abc import Mapping
import dataclasses
from typing import Annotated, Any

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lamd_jax.diffusion import guidance, losses, process, samplers, schedules
from lamd_jax.models import conditioning
from lamd_jax.models.dmg import DMG, Condition
from lamd_jax.models.mcd_vae import MCDVAE, Content
from lamd_jax.models.posterior import Posterior
from lamd_jax.models.word_encoder import WordEncoder
from lamd_jax.schema import (
  Field,
  Fraction,
  Frames,
  Guidance,
  OneOf,
  Range,
  Weight,
  block,
  build,
)
from lamd_jax.systems import blocks
from lamd_jax.systems.clip import clip_of
from lamd_jax.systems.lamd.mcd_vae import make_vae, nearest
from lamd_jax.systems.networks import OF_COMPUTATION, apply, of_computation
from lamd_jax.systems.pixels import from_uint8
from lamd_jax.systems.stage import OnStep, Part
from lamd_jax.types import Batch, Config, Metrics, Params, PRNGKey, UserError

BLOCK = block(
  taker="the stage dmg",
  model=Field(block(DMG, without=("condition", *OF_COMPUTATION))),
  diffusion=Field(block(blocks.Diffusion)),
)


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Sampling settings.

  Attributes:
    num_steps: Steps of the sampler; 200 in the paper.
    sampler: A key of `samplers.SAMPLERS`.
    eta: Fraction of fresh noise in "ddim"; 0 is deterministic.
    guidance: Classifier-free guidance scale for a class or text; 1 for none, as in the
      paper's numbers.
    overlap: Frames that neighbouring windows of a longer video share. All but the first
      cost a gradient through network and decoder in each step.
    frames_weight: Weight of the guidance towards these further frames, on the squared
      error in [-1, 1], summed over a frame and averaged over frames. Too large a weight
      overshoots: from about 3 with 50 steps, earlier with fewer.
  """

  num_steps: Annotated[int, Range(1, 10**5)] = 200
  sampler: Annotated[str, OneOf(samplers.SAMPLERS)] = "ddim"
  eta: Fraction = 0.0
  guidance: Guidance = 1.0
  overlap: Frames = 1
  frames_weight: Weight = 1.0


@struct.dataclass
class DMGStage:
  """Stage 2: diffusion of the normalized motion latent, given the first frame.

  With a condition a batch has `label`, or `text` and `text_mask`, or `words`.

  Attributes:
    model: The network.
    vae: The network of stage 1.
    schedule: Noise levels.
    parameterization: Quantity that the network predicts; "eps" in the paper.
    cond_dropout: Share of videos that are trained without class or text; the first
      frame is always there.
    sampling: Sampling settings.
    vae_params: Frozen parameters of stage 1.
  """

  model: DMG = struct.field(pytree_node=False)
  vae: MCDVAE = struct.field(pytree_node=False)
  schedule: schedules.Schedule = struct.field(pytree_node=False)
  parameterization: process.Parameterization = struct.field(pytree_node=False)
  cond_dropout: float = struct.field(pytree_node=False)
  sampling: Sampling = struct.field(pytree_node=False)
  vae_params: Params

  def init(self, key: PRNGKey, batch: Batch) -> Params:
    """See `Stage`."""
    z, content = self._encode(batch, key)
    given = self._given(batch)

    def run(model: DMG):
      cond = model.read_condition(*given) if given else None
      return model(z, jnp.zeros(len(z)), content, cond)

    return self.model.init(key, method=run)["params"]

  def loss(
    self, params: Params, batch: Batch, key: PRNGKey, *, train: bool
  ) -> tuple[Float[Array, ""], Metrics]:
    """The denoising loss (equation 6) on a fresh draw from each posterior."""
    encode_key, loss_key, dropout_key, null_key = jax.random.split(key, 4)
    z, content = self._encode(batch, encode_key)
    kwargs: dict[str, Any] = {"train": train, "rngs": {"dropout": dropout_key}}
    cond = self._cond(params, batch, **kwargs)
    if cond is not None:
      is_null = jax.random.bernoulli(null_key, self.cond_dropout, z.shape[:1])
      cond = conditioning.drop_tokens(cond, is_null)

    def model_fn(z_t, logsnr):
      timestep = self.schedule.timestep(logsnr)
      return apply(self.model, params, z_t, timestep, content, cond, **kwargs)

    return losses.denoising_loss(
      model_fn,
      z,
      loss_key,
      schedule=self.schedule,
      parameterization=self.parameterization,
    )

  def sample(
    self, params: Params, batch: Batch, key: PRNGKey, on_step: OnStep | None = None
  ) -> Float[Array, "b f h w 3"]:
    """Animates the first frames of a batch; its other frames are not looked at."""
    content = self._content(from_uint8(batch["video"][:, 0]))
    denoise_fn = self._denoise_fn(params, batch, content)
    return self._decode(self._draw(denoise_fn, content, key, on_step), content)

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
    """Animates the first frame of a window, and meets the others that are known.

    Args:
      params: Parameters of this stage.
      conditions: As in a batch.
      key: For all noise.
      video: Known frames in [-1, 1], the first one among them; anything elsewhere. At
        most as many as the model makes.
      is_known: True for known frames.
      low: Must be None, as `has_low`: there is no upsampling.
      has_low: Must be None, as `low`.
      on_step: Called on the host after each denoising step.

    Returns:
      The video; known frames are as they were given.

    Raises:
      UserError: There is a low resolution, or no frame is known.
    """
    del has_low
    if low is not None or is_known is None:
      raise UserError(
        "LaMD goes on from a frame in its own resolution and does not upsample; give"
        " it --task=extend, predict or interpolate"
      )
    content = self._content(video[:, 0])
    denoise_fn = self._denoise_fn(params, conditions, content)
    if self.sampling.frames_weight:
      denoise_fn = self._meeting(denoise_fn, content, video, is_known)
    made = self._decode(self._draw(denoise_fn, content, key, on_step), content)
    is_known = is_known[None, :, None, None, None]
    return jnp.where(is_known, video, made[:, : video.shape[1]])

  @property
  def given_frames(self) -> int:
    """See `Stage`."""
    return 1

  @property
  def overlap(self) -> int:
    """See `WindowStage`."""
    return self.sampling.overlap

  def protocol(self) -> dict[str, Any]:
    """See `Stage`."""
    how = self.sampling
    sampler, _ = samplers.SAMPLERS[how.sampler]
    is_guided = self.model.condition is not None and how.guidance != 1
    return {
      "given_frames": "1, as the model decodes it, measured too",
      "sampler": f"{sampler}, eta {how.eta:g}" if how.sampler == "ddim" else sampler,
      "sampling_steps": how.num_steps,
      "guidance": f"classifier-free {how.guidance:g}" if is_guided else "none",
    }

  def precompute(self, batch: Batch) -> Batch:
    """See `PrecomputingStage`: the posterior of the latent, and the first frame."""
    video = from_uint8(batch["video"])
    posterior = apply(self.vae, self.vae_params, video, method="encode_motion")
    return {
      "video": batch["video"][:, :1],
      "motion_mean": posterior.mean,
      "motion_logvar": posterior.logvar,
    }

  def _content(self, image: Float[Array, "b h w 3"]) -> Content:
    return apply(self.vae, self.vae_params, image, method="encode_content")

  def _decode(
    self, z: Float[Array, "b h w d"], content: Content
  ) -> Float[Array, "b f h2 w2 3"]:
    return apply(self.vae, self.vae_params, z, content, method="decode")

  def _draw(
    self,
    denoise_fn: process.DenoiseFn,
    content: Content,
    key: PRNGKey,
    on_step: OnStep | None,
  ) -> Float[Array, "b h w d"]:
    """Samples a motion latent, not yet normalized."""
    init_key, steps_key = jax.random.split(key)
    shape = (*content.deepest.shape[:-1], self.vae.latent_channels)
    _, make_sampler = samplers.SAMPLERS[self.sampling.sampler]
    return samplers.sample(
      steps_key,
      jax.random.normal(init_key, shape),
      denoise_fn=denoise_fn,
      sampler=make_sampler(self.sampling.eta),
      logsnr_grid=self.schedule.sampling_grid(self.sampling.num_steps),
      on_step=on_step,
    )

  def _denoise_fn(
    self, params: Params, batch: Batch, content: Content
  ) -> process.DenoiseFn:
    """Network, content, condition and classifier-free guidance in one."""

    def bound(cond: conditioning.Tokens | None) -> process.DenoiseFn:
      def model_fn(z_t, logsnr):
        timestep = self.schedule.timestep(logsnr)
        return apply(self.model, params, z_t, timestep, content.deepest, cond)

      return process.make_denoise_fn(model_fn, self.parameterization)

    cond = self._cond(params, batch)
    if cond is None:
      return bound(None)
    return guidance.classifier_free(bound(cond), bound(None), self.sampling.guidance)

  def _meeting(
    self,
    denoise_fn: process.DenoiseFn,
    content: Content,
    video: Float[Array, "b f h w 3"],
    is_known: Bool[Array, " f"],
  ) -> process.DenoiseFn:
    """Guides towards the known frames after the first, where there are any."""
    num_frames = video.shape[1]
    later = is_known & (jnp.arange(num_frames) > 0)
    known = guidance.Known(later[None, :, None, None, None], video)
    # The more frames are seen, the steeper: a mean keeps one weight right for all.
    weight = self.sampling.frames_weight / jnp.maximum(later.sum(), 1)
    frames = guidance.known_frames(known, weight)
    observe = lambda z: frames.observe(self._decode(z, content)[:, :num_frames])
    guided = guidance.reconstruction(
      denoise_fn, [guidance.Observation(observe, frames.value, weight)]
    )
    # Which frames are known is not compiled in; a gradient nobody needs is not taken.
    is_any = later.any()
    return lambda z_t, logsnr: jax.lax.cond(is_any, guided, denoise_fn, z_t, logsnr)

  def _given(self, batch: Batch) -> list[Array]:
    """The arrays of the batch that its condition is made of; [] if it has none."""
    if self.model.condition is None:
      return []
    keys = ("label", "text", "text_mask", "words")
    return [batch[key] for key in keys if key in batch]

  def _cond(self, params: Params, batch: Batch, **kwargs) -> conditioning.Tokens | None:
    given = self._given(batch)
    if not given:
      return None
    return apply(self.model, params, *given, method="read_condition", **kwargs)

  def _encode(
    self, batch: Batch, key: PRNGKey
  ) -> tuple[Float[Array, "b h w d"], Float[Array, "b h w c"]]:
    """Returns a normalized draw of the motion latent, and f_x0."""
    video = from_uint8(batch["video"])

    def encode(vae: MCDVAE):
      if "motion_mean" in batch:
        posterior = Posterior(batch["motion_mean"], batch["motion_logvar"])
      else:
        posterior = vae.encode_motion(video)
      content = vae.encode_content(video[:, 0])
      return vae.normalize(posterior.sample(key)), content.deepest

    encoded = apply(self.vae, self.vae_params, method=encode)
    return jax.lax.stop_gradient(encoded)


def make_dmg(config: Config, parts: Mapping[str, Part]) -> DMGStage:
  """Builds stage 2 around the parameters of stage 1."""
  clip = clip_of(config, "dmg")
  vae = make_vae(config)
  model = build(
    DMG, config.dmg.model, "dmg.model", condition=None, **of_computation(config)
  )
  said = blocks.read_condition(config)
  condition = _make_condition(said, model.context_channels)
  model = model.clone(condition=condition)
  resolution, levels = clip.resolution, len(model.channel_mults)
  multiple = vae.spatial_factor * 2 ** (levels - 1)
  if resolution % multiple:
    raise UserError(
      f"data.resolution={resolution} does not divide by {multiple}: a motion latent"
      f" {vae.spatial_factor} times smaller, halved on the {levels} levels of"
      f" dmg.model.channel_mults; nearest: {nearest(resolution, multiple)}"
    )
  diffusion = blocks.read_diffusion(config, "dmg")
  if model.context_channels % 4:
    raise UserError(
      f"dmg.model.context_channels={model.context_channels} does not divide by 4;"
      f" nearest: {nearest(model.context_channels, 4)}"
    )
  side = resolution // vae.spatial_factor
  if model.context_pool < 1 or side % model.context_pool:
    raise UserError(
      f"dmg.model.context_pool={model.context_pool}: expected a divisor of {side}, the"
      " side of the motion latent"
    )
  sampling = blocks.read_sampling(Sampling, config)
  _check_sampling(sampling, clip.num_frames, condition is not None)
  schedule = schedules.make_schedule(diffusion.schedule)
  schedule.sampling_grid(sampling.num_steps)  # Raises what is impossible.
  return DMGStage(
    model=model,
    vae=vae,
    schedule=schedule,
    parameterization=diffusion.parameterization,
    cond_dropout=said.dropout,
    sampling=sampling,
    vae_params=parts["mcd_vae"].params,
  )


def _make_condition(said: blocks.ConditionSettings, features: int) -> Condition | None:
  """Builds the network that turns a class or text into tokens; None without one."""
  match said.kind:
    case "class":
      return conditioning.ClassToken(said.num_classes, features)
    case "caption":
      return conditioning.CaptionTokens(features)
    case "words":
      return WordEncoder(said.num_words, features)
  return None


def _check_sampling(how: Sampling, num_frames: int, has_condition: bool) -> None:
  if how.eta and how.sampler != "ddim":
    raise UserError(
      f"sample.eta={how.eta} is of the sampler 'ddim', not of {how.sampler!r}; leave it"
      " at 0"
    )
  if how.guidance != 1 and not has_condition:
    raise UserError(
      f"sample.guidance={how.guidance} guides a class or a text, and this model has"
      " none (condition.kind); leave it at 1"
    )
  if not 0 < how.overlap < num_frames:
    raise UserError(
      f"sample.overlap={how.overlap}: expected 1 to {num_frames - 1} of {num_frames}"
      " frames"
    )
