"""MCD-VAE: a video as the content of its first frame and a motion latent.

LaMD's motion-content decomposed video autoencoder, Hu et al. 2023
(arXiv:2304.11603), section 3.2. For a clip x_{0:L} of L frames

  f_x0, f^1 .. f^k = E_I(x_0)             content: features at several scales
  q(z_m | x_{0:L}) = N(mu, sigma^2)       motion: E_M(x_{0:L}) = mu, log sigma^2
  z_m = Norm(mu + eps sigma)              one map for the whole clip, no time axis
  x^_{0:L} = D_V(z_m, f_x0, f^1 .. f^k)   both fused, from coarse to fine

The latent has 1 / r_s of the frame's height and width and d channels; time is
removed (r_t = L). In the ablation that keeps time (r_t < L), the d channels of its
steps are stacked as channels of the one map.

The paper does not give widths, the axes of Norm or the fusion operator. By default
Norm is over all entries of one latent, without parameters, so that it applies unchanged
to a generated latent, and fusion is concatenation. The widths are those of LDM's kl-f4
encoder at the paper's size.
"""

from collections.abc import Sequence
import math
from typing import Annotated, ClassVar, NamedTuple

from einops import rearrange
import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lamd_jax.models.posterior import LOGVAR_RANGE, Posterior
from lamd_jax.nn.attention import SpatialAttention
from lamd_jax.nn.blocks import (
  Norm,
  ResBlock,
  doubling_lengths,
  interpolate_frames,
  upsample_space,
)
from lamd_jax.nn.conv import Conv
from lamd_jax.nn.remat import call_block
from lamd_jax.schema import (
  MAX_LEVELS,
  Blocks,
  Channels,
  Frames,
  Length,
  OneOf,
  VideoKernels,
  Widths,
)
from lamd_jax.types import PRNGKey, UserError

IMAGE_KERNELS = ((3, 3), (3, 3))
# Log-variance of a fresh encoder. At 0, noise would drown the fresh mean, and the
# decoder would learn to ignore the latent before the latent carries any information.
FIRST_LOGVAR = -6.0

# Norm takes mean and standard deviation over a whole latent, or over each channel.
# "affine" is the former, followed by a learned scale and shift of each channel.
NORMS = ("sample", "channel", "affine")
# Content is concatenated to motion, or scales and shifts it at each position.
FUSIONS = ("concat", "modulate")


class Content(NamedTuple):
  """Content features of one image, the output of E_I.

  Attributes:
    deepest: f_x0, on the grid of the motion latent.
    scales: f^1 .. f^k, from full resolution to the grid of the latent.
  """

  deepest: Float[Array, "b h w d"]
  scales: tuple[Float[Array, "b ..."], ...]


def normalize(
  z: Float[Array, "b h w d"], norm: str = "sample"
) -> Float[Array, "b h w d"]:
  """Applies Norm: mean 0 and standard deviation 1, per latent or per channel."""
  axes = (1, 2) if norm == "channel" else (1, 2, 3)
  mean = jnp.mean(z, axis=axes, keepdims=True)
  std = jnp.std(z, axis=axes, keepdims=True)
  return (z - mean) / (std + 1e-6)


class ContentEncoder(nn.Module):
  """E_I: the contracting half of a 2D U-Net, over the first frame.

  Attributes:
    channels: Width of each scale, from full resolution; each next scale is half the
      size, so r_s = 2 ** (len(channels) - 1).
    content_channels: d', the channels of f_x0.
    num_blocks: Number of residual blocks at each scale.
    dtype: Dtype of the computation.
    remat: Field of `MCDVAE`.
  """

  channels: Sequence[int]
  content_channels: int
  num_blocks: int
  dtype: DTypeLike | None = None
  remat: str = "none"

  @nn.compact
  def __call__(self, image: Float[Array, "b h w 3"]) -> Content:
    """Reads the content of an image with values in [-1, 1]."""

    def block(h, channels, name):
      res = ResBlock(channels, IMAGE_KERNELS, dtype=self.dtype, name=name)
      return call_block(res, self.remat, h)

    h = Conv(self.channels[0], (3, 3), dtype=self.dtype, name="conv_in")(image)
    scales = []
    for i, channels in enumerate(self.channels):
      if i > 0:
        h = Conv(channels, (3, 3), (2, 2), dtype=self.dtype, name=f"down_{i}")(h)
      for j in range(self.num_blocks):
        h = block(h, channels, f"res_{i}_{j}")
      scales.append(h)
    h = block(h, h.shape[-1], "mid_res_0")
    attention = SpatialAttention(dtype=self.dtype, name="mid_attention")
    h = call_block(attention, self.remat, h)
    h = block(h, h.shape[-1], "mid_res_1")
    h = nn.silu(Norm(dtype=self.dtype, name="norm_out")(h))
    h = Conv(self.content_channels, (3, 3), dtype=self.dtype, name="conv_out")(h)
    return Content(deepest=h, scales=tuple(scales))


class MotionEncoder(nn.Module):
  """E_M: a light 3D encoder that halves time until one step or a few remain.

  Attributes:
    channels: Width of the first convolution, then of each stage that halves height,
      width and time, so r_s = 2 ** (len(channels) - 1). Stages that only halve time
      follow, with the last width; their number does not depend on `latent_frames`.
    motion_channels: d, the channels of z_m.
    latent_frames: Number of steps in time that remain.
    kernels: Kernel sizes of the residual block in each stage.
    dtype: Dtype of the computation.
    remat: Field of `MCDVAE`.
  """

  channels: Sequence[int]
  motion_channels: int
  latent_frames: int
  kernels: Sequence[Sequence[int]]
  dtype: DTypeLike | None = None
  remat: str = "none"

  @nn.compact
  def __call__(self, video: Float[Array, "b f h w 3"]) -> Posterior:
    """Encodes a clip with values in [-1, 1], its first frame included."""
    h = Conv(self.channels[0], (3, 3, 3), dtype=self.dtype, name="conv_in")(video)
    num_halvings = math.ceil(math.log2(video.shape[1]))
    num_early = len(self.channels) - 1
    for i in range(max(num_early, num_halvings)):
      channels = self.channels[min(i + 1, num_early)]
      space = 2 if i < num_early else 1
      strides = (2 if h.shape[1] > self.latent_frames else 1, space, space)
      down = Conv(channels, (3, 3, 3), strides, dtype=self.dtype, name=f"down_{i}")
      res = ResBlock(channels, self.kernels, dtype=self.dtype, name=f"res_{i}")
      h = call_block(res, self.remat, down(h))
    h = nn.silu(Norm(dtype=self.dtype, name="norm_out")(h))
    f = h.shape[1]
    h = rearrange(h, "b f h w c -> (b f) h w c")
    h = Conv(2 * self.motion_channels, (1, 1), dtype=self.dtype, name="conv_out")(h)
    mean, logvar = (
      rearrange(x, "(b f) h w d -> b h w (f d)", f=f)
      for x in jnp.split(h.astype(jnp.float32), 2, axis=-1)
    )
    return Posterior(mean, jnp.clip(logvar + FIRST_LOGVAR, *LOGVAR_RANGE))


class GrowFrames(nn.Module):
  """Temporal interpolation to at most twice the frames.

  Linear interpolation, plus a convolution that gives each new frame features of its
  own. Interpolation alone would turn a single step in time into identical frames, which
  only the padding of later convolutions could tell apart.

  Attributes:
    num_frames: Number of output frames.
    dtype: Dtype of the computation.
  """

  num_frames: int
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f2 h w c"]:
    """Resamples x to `num_frames` frames."""
    if x.shape[1] == self.num_frames:
      return x
    own = Conv(2 * x.shape[-1], (3, 1, 1), dtype=self.dtype, name="conv")(x)
    own = rearrange(own, "b f h w (two c) -> b (f two) h w c", two=2)
    return interpolate_frames(x, self.num_frames) + own[:, : self.num_frames]


class FusionDecoder(nn.Module):
  """D_V: grows the motion latent in time and space, adding content at each scale.

  The motion latent is first joined with f_x0. Time then doubles on the grid of the
  latent (`GrowFrames`); from scale to scale height, width and time double. At each
  scale the content features f^k .. f^1, the same for all frames, are fused in.

  Fusion by "concat" is a convolution over the concatenated motion and content
  features. The content does not change over time, so its part of that convolution is
  computed once and added to every frame, which gives the same numbers for less work.
  With "modulate", maps computed from the content scale and shift normalized motion
  features at each position (SPADE, Park et al. 2019, arXiv:1903.07291).

  Attributes:
    num_frames: L.
    latent_frames: Number of steps in time of the motion latent.
    channels: Width of each scale, from full resolution.
    num_blocks: Number of residual blocks at each scale, from full resolution.
    kernels: Kernel sizes of the residual blocks.
    fusion: One of `FUSIONS`, described above.
    dtype: Dtype of the computation.
    remat: Field of `MCDVAE`.
  """

  num_frames: int
  latent_frames: int
  channels: Sequence[int]
  num_blocks: Sequence[int]
  kernels: Sequence[Sequence[int]]
  fusion: str
  dtype: DTypeLike | None = None
  remat: str = "none"

  @nn.compact
  def __call__(
    self, z: Float[Array, "b h w d"], content: Content
  ) -> Float[Array, "b f h2 w2 c"]:
    """Decodes a normalized motion latent and the content of an image to features."""

    def block(h, channels, name):
      res = ResBlock(channels, self.kernels, dtype=self.dtype, name=name)
      return call_block(res, self.remat, h)

    def grow(h, num_frames, name):
      return GrowFrames(num_frames, dtype=self.dtype, name=name)(h)

    def fuse(h, content, name):
      if self.fusion == "concat":
        own = Conv(h.shape[-1], (3, 3), dtype=self.dtype, name=name)(content)
        return h + own[:, None]
      maps = Conv(2 * h.shape[-1], (3, 3), dtype=self.dtype, name=name)(content)
      scale, shift = jnp.split(maps[:, None], 2, axis=-1)
      return Norm(dtype=self.dtype, name=f"{name}_norm")(h) * (1 + scale) + shift

    # The last doublings of time go with the doublings of space, the others before.
    lengths = doubling_lengths(self.num_frames)
    lengths = [n for n in lengths if n > self.latent_frames]
    num_late = min(len(self.channels) - 1, len(lengths))
    early, late = lengths[: -num_late or None], lengths[len(lengths) - num_late :]
    first = early[-1] if early else self.latent_frames
    late = [first] * (len(self.channels) - 1 - num_late) + late
    z = rearrange(
      z.astype(content.deepest.dtype), "b h w (f d) -> b f h w d", f=self.latent_frames
    )
    deepest = jnp.broadcast_to(
      content.deepest[:, None], (*z.shape[:-1], content.deepest.shape[-1])
    )
    h = rearrange(jnp.concatenate([z, deepest], axis=-1), "b f h w c -> (b f) h w c")
    h = Conv(self.channels[-1], (3, 3), dtype=self.dtype, name="conv_in")(h)
    h = rearrange(h, "(b f) h w c -> b f h w c", f=self.latent_frames)
    h = block(h, self.channels[-1], "res_in")
    for i, length in enumerate(early):
      h = grow(h, length, f"grow_{i}")
      h = block(h, self.channels[-1], f"res_grow_{i}")
    for i in reversed(range(len(self.channels))):
      channels = self.channels[i]
      h = Conv(channels, (1, 3, 3), dtype=self.dtype, name=f"fuse_motion_{i}")(h)
      if i == 0:
        # The last norm comes before the finest content: later, it would rescale, frame
        # by frame, the content to be copied (5 dB of the first frame's PSNR).
        h = Norm(dtype=self.dtype, name="norm_out")(h)
      if i < len(self.channels) - 1:
        h = upsample_space(grow(h, late.pop(0), f"grow_at_{i}"))
      h = fuse(h, content.scales[i], f"fuse_content_{i}")
      for j in range(self.num_blocks[i]):
        h = block(h, channels, f"res_{i}_{j}")
    return nn.silu(h)


class MCDVAE(nn.Module):
  """The whole autoencoder; see the module docstring.

  Attributes:
    num_frames: L, the frames of a clip, the given one included.
    motion_channels: d, the channels of the motion latent.
    content_channels: d', the channels of the deepest content feature.
    encoder_channels: Widths of E_I, from full resolution; r_s = 2 ** (len - 1).
    motion_encoder_channels: Widths of E_M, one per scale as well.
    decoder_channels: Widths of D_V, one per scale as well.
    encoder_blocks: Number of residual blocks at each scale of E_I.
    decoder_blocks: Number of residual blocks at each scale of D_V, from full
      resolution; on small machines full resolution, with all frames, takes most time.
    kernels: Kernel sizes of the residual blocks over videos: `((3, 3, 3), (3, 3, 3))`,
      or factorized `((1, 3, 3), (3, 1, 1))` at less than half the cost.
    latent_frames: L / r_t, the steps in time of the latent: 1 removes time, as the
      paper does in the end; or any length that halving L passes through.
    norm: Normalization of the latent, one of `NORMS`.
    fusion: Fusion of content and motion, one of `FUSIONS`.
    dtype: Dtype of the computation; parameters, norms and latents are float32.
    remat: Results of each block that the backward pass keeps, a key of
      `remat.POLICIES`.
  """

  num_frames: int
  motion_channels: Channels = 3
  content_channels: Channels = 512
  encoder_channels: Widths = (128, 256, 512)
  motion_encoder_channels: Widths = (64, 128, 256)
  decoder_channels: Widths = (64, 128, 256)
  encoder_blocks: Blocks = 2
  decoder_blocks: Annotated[Sequence[Blocks], Length(1, MAX_LEVELS)] = (2, 2, 2)
  kernels: VideoKernels = ((3, 3, 3), (3, 3, 3))
  latent_frames: Frames = 1
  norm: Annotated[str, OneOf(NORMS)] = "sample"
  fusion: Annotated[str, OneOf(FUSIONS)] = "concat"
  dtype: DTypeLike | None = None
  remat: str = "none"

  last_layer: ClassVar[str] = "conv_out"  # Its gradients size the adversarial ones.

  @property
  def latent_channels(self) -> int:
    """Number of channels of the latent's map: d for each of its steps in time."""
    return self.latent_frames * self.motion_channels

  @property
  def spatial_factor(self) -> int:
    """r_s, the height and width of a frame over those of the motion latent."""
    return 2 ** (len(self.encoder_channels) - 1)

  def setup(self):
    """Makes the three networks."""
    for name in ("motion_encoder_channels", "decoder_channels", "decoder_blocks"):
      if len(getattr(self, name)) != len(self.encoder_channels):
        raise UserError(
          f"{name} has {len(getattr(self, name))} numbers; expected one for each of"
          f" the {len(self.encoder_channels)} scales, as in encoder_channels"
        )
    for name, known in (("norm", NORMS), ("fusion", FUSIONS)):
      if getattr(self, name) not in known:
        raise UserError(f"{name}={getattr(self, name)!r}; known: {', '.join(known)}")
    if self.latent_frames not in (lengths := doubling_lengths(self.num_frames)[:-1]):
      raise UserError(
        f"latent_frames={self.latent_frames}: {self.num_frames} frames halve to"
        f" {', '.join(map(str, lengths))}"
      )
    self.content_encoder = ContentEncoder(
      self.encoder_channels,
      self.content_channels,
      self.encoder_blocks,
      self.dtype,
      self.remat,
    )
    self.motion_encoder = MotionEncoder(
      self.motion_encoder_channels,
      self.motion_channels,
      self.latent_frames,
      self.kernels,
      self.dtype,
      self.remat,
    )
    self.decoder = FusionDecoder(
      self.num_frames,
      self.latent_frames,
      self.decoder_channels,
      self.decoder_blocks,
      self.kernels,
      self.fusion,
      self.dtype,
      self.remat,
    )
    self.conv_out = Conv(3, (1, 3, 3), dtype=self.dtype)
    if self.norm == "affine":
      shape = (self.latent_channels,)
      self.norm_scale = self.param("norm_scale", nn.initializers.ones, shape)
      self.norm_shift = self.param("norm_shift", nn.initializers.zeros, shape)

  def encode_content(self, image: Float[Array, "b h w 3"]) -> Content:
    """Applies E_I: the content of an image with values in [-1, 1]."""
    return self.content_encoder(image)

  def encode_motion(self, video: Float[Array, "b f h w 3"]) -> Posterior:
    """Applies E_M: the posterior of the motion latent, before Norm."""
    return self.motion_encoder(video)

  def normalize(self, z: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
    """Applies Norm, whose output is diffused; normalizing twice changes nothing."""
    return normalize(z, self.norm)

  def decode(
    self, z: Float[Array, "b h w d"], content: Content
  ) -> Float[Array, "b f h2 w2 3"]:
    """Applies D_V: a video in about [-1, 1], not clipped. `z` is normalized here."""
    return self.to_pixels(self.decode_features(z, content))

  def decode_features(
    self, z: Float[Array, "b h w d"], content: Content
  ) -> Float[Array, "b f h2 w2 c"]:
    """Applies D_V up to its last layer."""
    z = self.normalize(z)
    if self.norm == "affine":
      z = z * self.norm_scale + self.norm_shift
    return self.decoder(z, content)

  def to_pixels(self, features: Float[Array, "b f h w c"]) -> Float[Array, "b f h w 3"]:
    """Applies the last layer of D_V."""
    return self.conv_out(features).astype(jnp.float32)

  def encode_decode_features(
    self, video: Float[Array, "b f h w 3"], key: PRNGKey
  ) -> tuple[Float[Array, "b f h w c"], Posterior]:
    """Encodes, samples the posterior and decodes up to the last layer."""
    posterior = self.encode_motion(video)
    content = self.encode_content(video[:, 0])
    return self.decode_features(posterior.sample(key), content), posterior

  def __call__(
    self, video: Float[Array, "b f h w 3"], key: PRNGKey
  ) -> tuple[Float[Array, "b f h w 3"], Posterior]:
    """Encodes, samples the posterior and decodes."""
    features, posterior = self.encode_decode_features(video, key)
    return self.to_pixels(features), posterior

  def reconstruct(self, video: Float[Array, "b f h w 3"]) -> Float[Array, "b f h w 3"]:
    """Returns the video decoded from the mean of the posterior."""
    content = self.encode_content(video[:, 0])
    return self.decode(self.encode_motion(video).mean, content)
