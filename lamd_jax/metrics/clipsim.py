"""CLIPSIM: how well frames match their caption (Wu et al. 2021, arXiv:2104.14806)."""

from jaxtyping import Float
import numpy as np

from lamd_jax.types import UserError


def clipsim(
  frames: Float[np.ndarray, "n f d"], captions: Float[np.ndarray, "n d"]
) -> float:
  """Mean cosine between CLIP's features of each frame and of its video's caption.

  The plain cosine, in [-1, 1]: 0.24 to 0.31 for models on MSR-VTT; some print it times
  100. Numbers compare only with one CLIP, ViT-B/32 as a rule, and one set of captions.

  Args:
    frames: Features of the frames of n videos, normalized or not; see `frame_features`.
    captions: Features of the videos' captions, likewise.

  Returns:
    The mean over frames and videos.

  Raises:
    UserError: There are no frames, or a feature is zero or not finite.
  """
  if not frames.size:
    raise UserError(
      f"CLIPSIM was asked for of no frames: features of shape {frames.shape}; expected"
      " at least one video of one frame"
    )
  frames, captions = _unit(frames, "frames"), _unit(captions, "captions")
  return float(np.einsum("nfd,nd->nf", frames, captions).mean())


def _unit(x, name):
  """Of length 1, in float64."""
  x = np.asarray(x, np.float64)
  length = np.linalg.norm(x, axis=-1, keepdims=True)
  good = np.isfinite(length) & (length > 0)
  if not good.all():
    raise UserError(
      f"{np.sum(~good)} of {length.size} features of {name} are zero or not finite:"
      " the input has NaN or infinite values, or the weights have"
    )
  return x / length
