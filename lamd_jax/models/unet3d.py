"""The space-time U-Net of Video Diffusion Models, for videos and images together.

Ho et al. 2022 (arXiv:2204.03458), section 3: the U-Net of image diffusion with
convolutions and attention inside each frame, and attention over frames after every
attention over space. Nothing else mixes frames, norms included, so a mask on that
attention makes any frame an image of its own. What the paper leaves open (the parts
of a residual block, where norms take their statistics, how a noise level is embedded,
the blocks of the way up) follows its first authors' image code of that time, Salimans
& Ho 2022 (arXiv:2202.00512), apart from the norms.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float
import numpy as np

from lamd_jax.nn.attention import SpatialAttention, TemporalAttention, count_heads
from lamd_jax.nn.blocks import Norm, ResBlock, upsample_space
from lamd_jax.nn.conv import Conv
from lamd_jax.nn.embeddings import logsnr_sinusoidal
from lamd_jax.nn.remat import call_block
from lamd_jax.types import UserError

KERNEL = (1, 3, 3)


def joint_mask(num_frames: int, num_images: int) -> Bool[np.ndarray, "f f"]:
  """Which frame (row) may look at which (column) in a video followed by images.

  The frames of the video see each other; an image sees itself alone.

  Args:
    num_frames: Of the video.
    num_images: How many follow it.
  """
  mask = np.eye(num_frames + num_images, dtype=bool)
  mask[:num_frames, :num_frames] = True
  return mask


class UNet3D(nn.Module):
  """Predicts from noised frames what it was trained to predict.

  The defaults are the paper's size for UCF101, about 1.17 billion parameters.

  Attributes:
    model_channels: Width at full resolution.
    channel_mults: Width of each level, as multiples; each next level has half the
      height and width, and as many frames.
    num_res_blocks: On each level of the way down; the way up has one more.
    attention_factors: Downsampling factors of the levels where attention over space
      and over frames follows every residual block. The middle always has both.
    head_channels: Channels of an attention head; every attended width must be a
      multiple.
    embedding_channels: Of the embedding of noise level and condition.
    num_embedding_layers: Of the perceptron that makes it.
    max_frames: Longest video; frames of shorter ones are as far apart as in it.
    scale_shift: Whether the embedding scales and shifts what residual blocks
      normalize; else it is added, which is all that the paper says.
    dropout_rate: In residual blocks.
    dtype: Of the computation; norms, softmax and the embedding are in float32.
    remat: What the backward pass keeps of each block, a key of `remat.POLICIES`.
  """

  model_channels: int = 256
  channel_mults: Sequence[int] = (1, 2, 4, 8)
  num_res_blocks: int = 2
  attention_factors: Sequence[int] = (2, 4, 8)
  head_channels: int = 64
  embedding_channels: int = 1024
  num_embedding_layers: int = 4
  max_frames: int = 16
  scale_shift: bool = True
  dropout_rate: float = 0.0
  dtype: DTypeLike | None = None
  remat: str = "none"

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b f h w c"],
    logsnr: Float[Array, " b"] | Float[Array, "b f"],
    cond: Float[Array, "b d"] | Float[Array, "b f d"] | None = None,
    *,
    num_images: int = 0,
    train: bool = False,
  ) -> Float[Array, "b f h w c"]:
    """Applies the network.

    Args:
      x: Noised frames; height and width divide by 2 ** (levels - 1).
      logsnr: Noise level in nats, of an example or of each frame.
      cond: Condition with `embedding_channels` features, of an example or of each
        frame (see `conditioning`); zeros are the same as None.
      num_images: How many frames, the last ones, are images: they see no other
        frame and no other frame sees them.
      train: Whether dropout is on.

    Returns:
      The prediction, float32.
    """
    self._check(x, logsnr, cond, num_images)
    num_frames = x.shape[1] - num_images
    mask = jnp.asarray(joint_mask(num_frames, num_images)) if num_images else None
    embedding = self._embed(logsnr, cond)

    def res(h, channels, name):
      block = ResBlock(
        channels,
        (KERNEL, KERNEL),
        self.dropout_rate,
        self.dtype,
        self.scale_shift,
        name=name,
      )
      return call_block(block, self.remat, h, embedding, train=train)

    def attend(h, name):
      heads = count_heads(h.shape[-1], self.head_channels)
      spatial = SpatialAttention(
        heads, self.dtype, float32_softmax=True, name=f"{name}_spatial_attention"
      )
      temporal = TemporalAttention(
        heads, self.max_frames, self.dtype, name=f"{name}_temporal_attention"
      )
      h = call_block(spatial, self.remat, h)
      return call_block(temporal, self.remat, h, mask)

    def block(h, level, name):
      h = res(h, self.model_channels * self.channel_mults[level], name)
      return attend(h, name) if 2**level in self.attention_factors else h

    def resample(h, strides, name):
      return Conv(h.shape[-1], KERNEL, strides, dtype=self.dtype, name=name)(h)

    h = Conv(self.model_channels, KERNEL, dtype=self.dtype, name="conv_in")(x)
    skips = [h]
    levels = range(len(self.channel_mults))
    for level in levels:
      for i in range(self.num_res_blocks):
        h = block(h, level, f"down_{level}_{i}")
        skips.append(h)
      if level < levels[-1]:
        h = resample(h, (1, 2, 2), f"downsample_{level}")
        skips.append(h)
    h = attend(res(h, h.shape[-1], "mid_0"), "mid")
    h = res(h, h.shape[-1], "mid_1")
    for level in reversed(levels):
      for i in range(self.num_res_blocks + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = block(h, level, f"up_{level}_{i}")
      if level > 0:
        h = resample(upsample_space(h), (1, 1, 1), f"upsample_{level}")
    h = nn.silu(Norm(dtype=self.dtype, name="norm_out")(h))
    zeros = nn.initializers.zeros
    conv_out = Conv(
      x.shape[-1], KERNEL, kernel_init=zeros, dtype=self.dtype, name="conv_out"
    )
    return conv_out(h).astype(jnp.float32)

  def _embed(self, logsnr, cond):
    """Returns `b d`, or `b f d` if one of the two is given for each frame."""
    h = logsnr_sinusoidal(logsnr, self.model_channels)
    h = nn.Dense(self.embedding_channels, name="embed_0")(h)
    if cond is not None:
      cond = cond.astype(jnp.float32)
      if cond.ndim < h.ndim:
        cond = cond[:, None]
      if h.ndim < cond.ndim:
        h = h[:, None]
      h += cond
    for i in range(1, self.num_embedding_layers):
      h = nn.Dense(self.embedding_channels, name=f"embed_{i}")(nn.silu(h))
    return h

  def _check(self, x, logsnr, cond, num_images):
    """Refuses sizes the network was not made for."""
    _, frames, height, width, _ = x.shape
    levels = len(self.channel_mults)
    deepest = 2 ** (levels - 1)
    if height % deepest or width % deepest:
      raise UserError(
        f"a U-Net of {levels} levels (channel_mults) needs a height and width"
        f" divisible by {deepest}, given {height}x{width}"
      )
    unknown = set(self.attention_factors) - {2**level for level in range(levels)}
    if unknown:
      raise UserError(
        f"attention_factors has {sorted(unknown)}, and {levels} levels"
        f" (channel_mults) have the factors {[2**level for level in range(levels)]}"
      )
    if not 0 <= num_images <= frames:
      raise UserError(
        f"num_images={num_images}: of {frames} frames 0 to {frames} can be images"
      )
    if frames - num_images > self.max_frames:
      raise UserError(
        f"a video of {frames - num_images} frames is longer than"
        f" max_frames={self.max_frames}; give fewer frames or train with more"
      )
    per_example, per_frame = x.shape[:1], x.shape[:2]
    if logsnr.shape not in (per_example, per_frame):
      raise UserError(
        f"logsnr has the shape {logsnr.shape}; expected {per_example}, one for each"
        f" example, or {per_frame}, one for each frame"
      )
    d = self.embedding_channels
    if cond is not None and cond.shape not in ((*per_example, d), (*per_frame, d)):
      raise UserError(
        f"cond has the shape {cond.shape}; expected {(*per_example, d)} or"
        f" {(*per_frame, d)}, with embedding_channels={d} features"
      )
