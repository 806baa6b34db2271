"""The least that trains: an autoencoder without a discriminator, for real processes."""

import ml_collections
import tiny_config


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; `:steps=6` trains for so many steps."""
  config = tiny_config.get_config(arg)
  config.stages = ("mcd_vae",)
  del config.mcd_vae.adversary
  config.mcd_vae.train.sample_every = 0
  config.run.log_examples = True
  return config
