"""LaMD: latent motion diffusion (Hu et al. 2023, arXiv:2304.11603)."""
