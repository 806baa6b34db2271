"""Guidance: denoise functions made of denoise functions."""

from lamd_jax.diffusion import process


def classifier_free(
  conditional: process.DenoiseFn, unconditional: process.DenoiseFn, scale: float
) -> process.DenoiseFn:
  """Pushes away from the unconditional prediction.

  eps = eps_u + scale (eps_c - eps_u): Ho & Salimans 2022 (arXiv:2207.12598),
  equation 6, whose w is `scale - 1`.

  Args:
    conditional: With the condition bound.
    unconditional: With the null condition bound; not evaluated at scale 1.
    scale: Guidance scale: 1 is the conditional model, 0 the unconditional one.

  Returns:
    The guided denoise function.
  """
  if scale == 1.0:
    return conditional

  def denoise_fn(x_t, logsnr):
    eps_c, eps_u = conditional(x_t, logsnr).eps, unconditional(x_t, logsnr).eps
    return process.convert(eps_u + scale * (eps_c - eps_u), x_t, logsnr, "eps")

  return denoise_fn
