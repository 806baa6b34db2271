"""Video diffusion models in JAX: train, sample and measure."""

__version__ = "0.1.0"
