"""The mathematics of diffusion: arrays in, arrays out; no network, no data."""
