"""Videos from sources to batches, in NumPy and grain, without JAX."""
