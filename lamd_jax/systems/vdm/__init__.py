"""VDM: Video Diffusion Models (Ho et al. 2022, arXiv:2204.03458)."""
