"""The Gaussian posterior of a variational autoencoder."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lamd_jax.types import PRNGKey

# Range of a log-variance, as in LDM: keeps the exponential finite.
LOGVAR_RANGE = (-30.0, 20.0)


class Posterior(NamedTuple):
  """Gaussian over latents, independent in every entry."""

  mean: Float[Array, " b *s"]
  logvar: Float[Array, " b *s"]

  def sample(self, key: PRNGKey) -> Float[Array, " b *s"]:
    """Draws from the posterior, differentiably."""
    noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
    return self.mean + jnp.exp(0.5 * self.logvar) * noise

  def kl(self) -> Float[Array, " b"]:
    """Returns KL(q || N(0, I)) in nats, summed over the latent."""
    terms = jnp.square(self.mean) + jnp.exp(self.logvar) - 1.0 - self.logvar
    return 0.5 * jnp.sum(terms, axis=tuple(range(1, terms.ndim)))
