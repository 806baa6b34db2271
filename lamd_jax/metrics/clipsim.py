"""CLIPSIM: how well frames match their caption (Wu et al. 2021, arXiv:2104.14806)."""

from jaxtyping import Float
import numpy as np

from lamd_jax.types import UserError


def clipsim(
  frames: Float[np.ndarray, "n f d"], captions: Float[np.ndarray, "n d"]
) -> float:
  """Returns the mean cosine between CLIP's features of frames and of their captions.

  The plain cosine, in [-1, 1]: models score 0.24 to 0.31 on MSR-VTT; some papers
  multiply it by 100. Scores are comparable only for the same CLIP, usually ViT-B/32,
  and the same captions.

  Args:
    frames: Features of the frames of n videos, not necessarily normalized; see
      `frame_features`.
    captions: Features of the captions of the videos, not necessarily normalized.

  Returns:
    The mean over frames and videos.

  Raises:
    UserError: There are no frames, or a feature is zero or not finite.
  """
  if not frames.size:
    raise UserError(
      f"CLIPSIM got no frames: features of shape {frames.shape}; expected at least one"
      " video of one frame"
    )
  frames, captions = _unit(frames, "frames"), _unit(captions, "captions")
  return float(np.einsum("nfd,nd->nf", frames, captions).mean())


def _unit(x, name):
  """Normalizes rows to unit length in float64."""
  x = np.asarray(x, np.float64)
  length = np.linalg.norm(x, axis=-1, keepdims=True)
  good = np.isfinite(length) & (length > 0)
  if not good.all():
    raise UserError(
      f"{np.sum(~good)} of {length.size} features of {name} are zero or not finite:"
      " the input or the weights have NaN or infinite values"
    )
  return x / length
