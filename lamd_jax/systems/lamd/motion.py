"""Motion as an object: taken from one clip, edited, and given to another picture.

Motion transfer of LaMD (Hu et al. 2023, arXiv:2304.11603): E_M reads the motion of
clip A, D_V decodes it with the content that E_I reads in picture B. For motion as it
was encoded this is

  z = Norm(mu(A));  video = D_V(z, E_I(B))

Here a motion is mu, the mean of the posterior before Norm: that is where motions can
be added and scaled. Norm divides by the standard deviation, so after it a code and
twice that code are one and the same. For that reason a clip without motion cannot
have the code 0 either: its code is what E_M makes of it, `encode_still`. How strong a
motion is, is therefore its distance from a still.

All functions are pure and work on batches; an edit of one example looks at no other.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from lamd_jax.models.mcd_vae import MCDVAE
from lamd_jax.systems.networks import apply
from lamd_jax.types import Params, UserError


def encode_motion(
  vae: MCDVAE, params: Params, video: Float[Array, "b f h w 3"]
) -> Float[Array, "b h2 w2 d"]:
  """Returns the motion of clips: the mean of the posterior, before Norm.

  Args:
    vae: The network of the stage `mcd_vae`.
    params: Parameters of that stage.
    video: Clips of the network's length, in [-1, 1].

  Raises:
    UserError: The clips are longer or shorter.
  """
  if video.shape[1] != vae.num_frames:
    raise UserError(
      f"motion of {video.shape[1]} frames; this model's clips have {vae.num_frames}"
    )
  return apply(vae, params, video, method="encode_motion").mean


def encode_still(
  vae: MCDVAE, params: Params, image: Float[Array, "b h w 3"]
) -> Float[Array, "b h2 w2 d"]:
  """Returns the motion of clips in which nothing moves: pictures, repeated."""
  video = jnp.repeat(image[:, None], vae.num_frames, axis=1)
  return encode_motion(vae, params, video)


def interpolate(
  a: Float[Array, "b h w d"], b: Float[Array, "b h w d"], weight: float
) -> Float[Array, "b h w d"]:
  """Returns motions between two, in a straight line: `a` at weight 0, `b` at 1."""
  return (1.0 - weight) * a + weight * b


def scale(
  motion: Float[Array, "b h w d"], still: Float[Array, "b h w d"], strength: float
) -> Float[Array, "b h w d"]:
  """Returns motions on the line from that of a still through their own.

  How much moves in the video is not in proportion: the norm of the latent takes away
  how much a clip moves. After the quickstart (seed 0, commit fe4769a), 32 held-out
  clips given back their own motion at strengths 0, 0.5, 1, 1.5, 2 and 3 had 0.21, 0.35,
  0.56, 0.65, 0.69 and 0.73 of it (mean absolute difference of frames).

  Args:
    motion: Motions of clips.
    still: `encode_still` of the pictures that the motions are for. The still of another
      picture need not keep these still.
    strength: 0 gives the latent of the still, 1 that of the motion; more goes past it.
  """
  return interpolate(still, motion, strength)


def decode_motion(
  vae: MCDVAE,
  params: Params,
  motion: Float[Array, "b h2 w2 d"],
  image: Float[Array, "b2 h w 3"],
) -> Float[Array, "b f h w 3"]:
  """Returns videos that begin with pictures and move as told, in about [-1, 1].

  Args:
    vae: The network of the stage `mcd_vae`.
    params: Parameters of that stage.
    motion: Edited or not; Norm is applied here.
    image: As many pictures, in [-1, 1].

  Raises:
    UserError: The motions do not fit the pictures.
  """
  if len(motion) != len(image):
    raise UserError(
      f"{len(motion)} motions for {len(image)} pictures; expected as many"
    )
  grid, size = motion.shape[1:3], image.shape[1:3]
  fitting = tuple(n * vae.spatial_factor for n in grid)
  if fitting != size:
    raise UserError(
      f"motion of {_by(grid)} is for pictures of {_by(fitting)}, not of {_by(size)};"
      " encode it from a clip of the pictures' size"
    )

  def decode(vae: MCDVAE):
    return vae.decode(motion, vae.encode_content(image))

  return apply(vae, params, method=decode)


def _by(size: tuple[int, ...]) -> str:
  return "x".join(map(str, size))
