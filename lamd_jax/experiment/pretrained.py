"""Frozen networks that losses of a configuration ask for, with their weights."""

import pathlib

from lamd_jax.metrics import features, lpips
from lamd_jax.types import Config, Params, UserError


def perceptual_params(config: Config, name: str) -> dict[str, Params]:
  """Returns `{"perceptual": parameters}` for the loss of a stage; {} if it needs none.

  Raises:
    UserError: The weights are missing, or are another network's.
  """
  values = config[name].get("loss", {})
  kind = values.get("perceptual", "none")
  try:
    match kind:
      case "lpips_vgg":
        files = (None, None)
        if values.get("perceptual_weights"):
          folder = pathlib.Path(values.perceptual_weights).expanduser()
          files = folder / "vgg16.safetensors", folder / "lpips_vgg.safetensors"
        return {"perceptual": lpips.load("vgg", *files).params}
      case "i3d":
        params = features.load_i3d()[0]["params"]
        return {"perceptual": {"params": {"network": params}}}
  except UserError as e:
    raise UserError(
      f"{name}.loss.perceptual={kind!r}: {e}; --config.{name}.loss.perceptual=none"
      " does without"
    ) from e
  return {}
