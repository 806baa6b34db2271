"""LaMD: latent motion diffusion, in two stages.

Hu et al. 2023 (arXiv:2304.11603). Stage `mcd_vae` learns to write a clip as the
content of its first frame and one motion latent; stage `dmg`, with the first
frozen, learns to generate the latent from the content. To animate a picture:
E_I reads it, DMG samples a latent, Norm, D_V decodes.
"""

from collections.abc import Mapping
from typing import Any, get_args

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lamd_jax.diffusion import losses, process, samplers, schedules
from lamd_jax.models.dmg import DMG
from lamd_jax.models.mcd_vae import MCDVAE, Posterior
from lamd_jax.systems.build import apply, build, compute_dtype
from lamd_jax.systems.lamd_autoencoder import make_vae, nearest
from lamd_jax.systems.pixels import from_uint8
from lamd_jax.types import Batch, Config, Metrics, Params, PRNGKey, UserError


@struct.dataclass
class DMGStage:
  """Stage 2: diffusion of the normalized motion latent, given the first frame.

  Attributes:
    model: The network.
    vae: The network of stage 1.
    schedule: Noise levels.
    parameterization: What the network predicts; the paper's is "eps".
    num_steps: DDIM steps when sampling; the paper's is 200.
    eta: Of DDIM; 0 is deterministic.
    vae_params: Of stage 1, frozen.
  """

  model: DMG = struct.field(pytree_node=False)
  vae: MCDVAE = struct.field(pytree_node=False)
  schedule: schedules.Schedule = struct.field(pytree_node=False)
  parameterization: process.Parameterization = struct.field(pytree_node=False)
  num_steps: int = struct.field(pytree_node=False)
  eta: float = struct.field(pytree_node=False)
  vae_params: Params

  def init(self, key: PRNGKey, batch: Batch) -> Params:
    """See `Stage`."""
    z, content = self._encode(batch, key)
    timestep = jnp.zeros(z.shape[0])
    return self.model.init(key, z, timestep, content)["params"]

  def loss(
    self, params: Params, batch: Batch, key: PRNGKey, *, train: bool
  ) -> tuple[Float[Array, ""], Metrics]:
    """The denoising loss (equation 6) on a fresh draw from each posterior."""
    encode_key, loss_key, dropout_key = jax.random.split(key, 3)
    z, content = self._encode(batch, encode_key)

    def model_fn(z_t, logsnr):
      timestep = self.schedule.timestep(logsnr)
      rngs = {"dropout": dropout_key}
      return apply(self.model, params, z_t, timestep, content, train=train, rngs=rngs)

    return losses.denoising_loss(
      model_fn,
      z,
      loss_key,
      schedule=self.schedule,
      parameterization=self.parameterization,
    )

  def sample(
    self, params: Params, batch: Batch, key: PRNGKey
  ) -> Float[Array, "b f h w 3"]:
    """Animates the first frames of a batch; its other frames are not looked at."""
    image = from_uint8(batch["video"][:, 0])
    content = apply(self.vae, self.vae_params, image, method="encode_content")

    def model_fn(z_t, logsnr):
      timestep = self.schedule.timestep(logsnr)
      return apply(self.model, params, z_t, timestep, content.deepest)

    init_key, steps_key = jax.random.split(key)
    shape = (*content.deepest.shape[:-1], self.vae.latent_channels)
    z = samplers.sample(
      steps_key,
      jax.random.normal(init_key, shape),
      denoise_fn=process.make_denoise_fn(model_fn, self.parameterization),
      sampler=samplers.ddim(self.eta),
      logsnr_grid=self.schedule.sampling_grid(self.num_steps),
    )
    return apply(self.vae, self.vae_params, z, content, method="decode")

  @property
  def given_frames(self) -> int:
    """See `Stage`."""
    return 1

  def protocol(self) -> dict[str, Any]:
    """See `Stage`."""
    return {
      "given_frames": "1, as the model decodes it, measured too",
      "sampler": f"DDIM, eta {self.eta:g}",
      "sampling_steps": self.num_steps,
      "guidance": "none",
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


def make_dmg(config: Config, earlier: Mapping[str, Params]) -> DMGStage:
  """Builds stage 2 around the parameters of stage 1."""
  if "mcd_vae" not in earlier:
    raise UserError("config.stages has 'dmg' without 'mcd_vae' before it")
  vae = make_vae(config)
  model = build(DMG, config.dmg.model, "dmg.model", dtype=compute_dtype(config))
  resolution, levels = config.data.resolution, len(model.channel_mults)
  multiple = vae.spatial_factor * 2 ** (levels - 1)
  if resolution % multiple:
    raise UserError(
      f"data.resolution={resolution} does not divide by {multiple}: a motion latent"
      f" {vae.spatial_factor} times smaller, halved on the {levels} levels of"
      f" dmg.model.channel_mults; nearest: {nearest(resolution, multiple)}"
    )
  known = get_args(process.Parameterization)
  if config.dmg.diffusion.parameterization not in known:
    raise UserError(
      f"dmg.diffusion.parameterization is {config.dmg.diffusion.parameterization!r};"
      f" known: {', '.join(known)}"
    )
  if model.context_channels % 4:
    raise UserError(
      f"dmg.model.context_channels={model.context_channels} does not divide by 4;"
      f" nearest: {nearest(model.context_channels, 4)}"
    )
  if not 0 <= config.sample.eta <= 1:
    raise UserError(f"sample.eta={config.sample.eta}: expected 0 to 1")
  schedule = schedules.make_schedule(config.dmg.diffusion.schedule)
  schedule.sampling_grid(config.sample.num_steps)  # Raises what is impossible.
  return DMGStage(
    model=model,
    vae=vae,
    schedule=schedule,
    parameterization=config.dmg.diffusion.parameterization,
    num_steps=config.sample.num_steps,
    eta=config.sample.eta,
    vae_params=earlier["mcd_vae"],
  )
