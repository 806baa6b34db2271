"""A frozen autoencoder as a latent diffusion stage uses it.

Latents are normalized, (z - shift) / scale, with numbers measured after the training
of the autoencoder (`MeasuredStage`), and long videos are decoded in chunks.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from lamd_jax.systems.networks import apply
from lamd_jax.types import Params, PRNGKey, UserError


@struct.dataclass
class FirstStage:
  """A frozen autoencoder with the scale of its latents.

  The network has `encode`, from a video to a posterior with `mean` and `sample`, and
  `decode`, from latents to a video. Both keep time in order: latent step i stands for
  frames from `i * frames_per_latent` on.

  Attributes:
    model: The network.
    frames_per_latent: Frames of the video for one step in time of the latent.
    params: Its parameters.
    shift: Mean of its latents, for each channel or for all.
    scale: Standard deviation of its latents, for each channel or for all.
  """

  model: Any = struct.field(pytree_node=False)
  frames_per_latent: int = struct.field(pytree_node=False)
  params: Params
  shift: Any
  scale: Any

  def encode(
    self, video: Float[Array, "b f h w 3"], key: PRNGKey | None = None
  ) -> Float[Array, "b f2 h2 w2 c"]:
    """Returns normalized latents: a draw of the posterior, without a key its mean."""
    posterior = apply(self.model, self.params, video, method="encode")
    z = posterior.mean if key is None else posterior.sample(key)
    return (z - self.shift) / self.scale

  def decode(self, z: Float[Array, "b f2 h2 w2 c"]) -> Float[Array, "b f h w 3"]:
    """Returns videos of normalized latents, in about [-1, 1]."""
    z = z * self.scale + self.shift
    return apply(self.model, self.params, z, method="decode")

  def decode_chunks(
    self, z: Float[Array, "b f2 h2 w2 c"], *, chunk: int, overlap: int
  ) -> Iterator[Float[Array, "b f h w 3"]]:
    """Yields the frames of a long video, decoded a chunk at a time.

    Memory is bounded by a chunk whatever the length, and all chunks have one shape: one
    compilation. Each is decoded with `overlap` latent steps of context on both sides,
    as far as there are any; with as many as the decoder looks around, the result is
    that of decoding all at once.

    Args:
      z: Normalized latents.
      chunk: Latent steps decoded at once, context included.
      overlap: Latent steps of context on each side.

    Raises:
      UserError: A chunk would be nothing but context.
    """
    total = z.shape[1]
    chunk = min(chunk, total)
    if overlap < 0 or (chunk < total and chunk <= 2 * overlap):
      raise UserError(
        f"chunks of {chunk} latent steps with {overlap} of context on both sides:"
        " expected more than the context"
      )
    decode = jax.jit(lambda stage, z: stage.decode(z))
    done = 0  # Latent steps whose frames were given.
    while done < total:
      first = min(max(done - overlap, 0), total - chunk)
      last = first + chunk
      end = total if last == total else last - overlap
      frames = decode(self, z[:, first:last])
      cut = slice((done - first) * self.frames_per_latent,
                  (end - first) * self.frames_per_latent)  # fmt: skip
      yield frames[:, cut]
      done = end


class Moments:
  """Mean and standard deviation of latents, gathered batch by batch in float64."""

  def __init__(self):
    """Starts with nothing seen."""
    self._count, self._sum, self._squares = 0, 0.0, 0.0

  def add(self, z: Float[np.ndarray, "b *s c"]) -> None:
    """Adds a batch of latents."""
    z = np.asarray(z, np.float64)
    axes = tuple(range(z.ndim - 1))
    self._count += z[..., 0].size
    self._sum = self._sum + z.sum(axis=axes)
    self._squares = self._squares + np.square(z).sum(axis=axes)

  def result(self) -> Mapping[str, list[float]]:
    """Returns `shift` and `scale` for each channel, as `FirstStage` takes them."""
    mean = self._sum / self._count
    variance = self._squares / self._count - np.square(mean)
    return {"shift": np.atleast_1d(mean).tolist(),
            "scale": np.sqrt(np.atleast_1d(variance)).tolist()}  # fmt: skip


def normalization(statistics: Mapping[str, Any]) -> tuple[Array, Array]:
  """Returns shift and scale from a part's statistics, in float32.

  Raises:
    UserError: They were not measured.
  """
  if not {"shift", "scale"} <= statistics.keys():
    raise UserError(
      "the latents of the autoencoder were not measured: train it to its last step"
    )
  shift, scale = (jnp.asarray(statistics[x], jnp.float32) for x in ("shift", "scale"))
  return shift, scale
