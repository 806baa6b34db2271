"""A patch discriminator of videos.

LaMD's discriminator judges whole clips (Hu et al. 2023, arXiv:2304.11603, equation 2);
the paper gives no details. Here it is the PatchGAN of Isola et al. 2017
(arXiv:1611.07004), as VQGAN and latent diffusion use it, with 3D convolutions.
"""

from collections.abc import Sequence
from typing import Annotated

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lamd_jax.nn.blocks import Norm
from lamd_jax.nn.conv import Conv
from lamd_jax.schema import MAX_LEVELS, Length, Range, Widths

KERNEL = (4, 4, 4)


class VideoDiscriminator(nn.Module):
  """Strided convolutions to a logit for each patch in space and time.

  Attributes:
    channels: Width of each layer. All but the last halve height and width.
    frame_strides: Stride over frames, 1 or 2, of each layer but the last.
    dtype: Dtype of the computation.
  """

  channels: Widths = (64, 128, 256, 512)
  frame_strides: Annotated[
    Sequence[Annotated[int, Range(1, 2)]], Length(0, MAX_LEVELS - 1)
  ] = (2, 2, 2)
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, video: Float[Array, "b f h w 3"]) -> Float[Array, "b f2 h2 w2"]:
    """Judges videos with values in about [-1, 1].

    Returns:
      Logits, float32: above 0 where a patch looks real.
    """
    h = video
    for i, channels in enumerate(self.channels):
      is_strided = i < len(self.channels) - 1
      strides = (self.frame_strides[i], 2, 2) if is_strided else (1, 1, 1)
      h = Conv(channels, KERNEL, strides, dtype=self.dtype, name=f"conv_{i}")(h)
      if i > 0:
        h = Norm(dtype=self.dtype, name=f"norm_{i}")(h)
      h = nn.leaky_relu(h, 0.2)
    logits = Conv(1, KERNEL, dtype=self.dtype, name="conv_out")(h)
    return logits[..., 0].astype("float32")
