"""Where videos come from: NumPy and grain, no JAX."""
