"""The ablations of LaMD's latent in miniature, on two cores, as one table.

    python tests/benchmarks/lamd_ablations.py --data=shapes
    python tests/benchmarks/lamd_ablations.py --data=bair --data_dir=DIR

Trains each variant of `configs/ablations` with `mini=` (32x32, 16 frames, L1 and KL
terms only), reconstructs held-out clips, for beta also samples, and prints PSNR and
SSIM of frames 1 to 15, and FVD. What is done is not done again, so it can be
interrupted. Half an hour to an hour for each set of clips; needs the extra `metrics`.
"""

import pathlib
import sys

from absl import app, flags
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from configs.ablations import beta, motion_channels, time_axis
from lamd_jax.experiment import workdir
from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import evaluate, generate, train
from lamd_jax.metrics import clip_set, measures, score

_DATA = flags.DEFINE_enum("data", "shapes", ("shapes", "bair"), "Which clips.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where TFDS keeps BAIR.")
_FOLDER = flags.DEFINE_string("folder", "runs/ablations", "For the work folders.")
_KL = flags.DEFINE_enum(
  "kl_reduction", "latents", ("latents", "pixels"), "What the KL is divided by."
)
_STEPS = flags.DEFINE_integer("steps", 0, "Of the first stage; 0 as configured.")
_ONLY = flags.DEFINE_multi_string("only", [], "Variants to run; all by default.")

VARIANTS = {
  "d=3, beta=1e-2": (beta, "beta=1e-2,channels=3"),
  "d=4, beta=1e-5": (beta, "beta=1e-5,channels=4"),
  "d=3, beta=1e-3": (beta, "beta=1e-3,channels=3"),
  "d=3, beta=0": (motion_channels, "channels=3"),
  "d=1": (motion_channels, "channels=1"),
  "d=2": (motion_channels, "channels=2"),
  "d=4": (motion_channels, "channels=4"),
  "time kept": (time_axis, "frames=4"),
}


def run(name: str, folder: pathlib.Path) -> dict[str, float]:
  """Trains a variant, unless that is done, and measures it."""
  module, arg = VARIANTS[name]
  config = module.get_config(f"mini={_DATA.value},{arg}")
  config.mcd_vae.loss.kl_reduction = _KL.value
  if name.endswith("beta=0"):
    config.mcd_vae.loss.kl_weight = 0.0
  if _DATA.value == "bair":
    config.data.data_dir = _DATA_DIR.value
  if _STEPS.value:
    config.mcd_vae.train.steps = _STEPS.value
  config.lock()
  experiment = make_run(config, folder)
  workdir.open_workdir(experiment)
  train.train(experiment)
  generate.sample_clips(experiment)
  figures = evaluate.evaluate(experiment, 0.0)
  with np.load(folder / workdir.CLIPS) as file:
    real, made = file["real"], {"reconstruction": file["reconstructed"]}
    if file["sampled"].shape[1]:
      made["sample"] = file["sampled"][:, 0]
  for what, videos in made.items():
    (card,) = score.score(
      measures.make_measures(["fvd"], measures.Options()),
      clip_set.of_array("real", real),
      clip_set.of_array(what, videos),
      are_pairs=True,
      cache=folder.parent / "features",
    )
    figures[f"{what}_fvd"] = card["value"]
  return figures


def main(_) -> None:
  """Prints the table."""
  folder = pathlib.Path(_FOLDER.value) / f"{_DATA.value}_{_KL.value}"
  keys = ("reconstruction_psnr", "reconstruction_ssim", "reconstruction_fvd")
  keys += ("sample_fvd", "mcd_vae_seconds")
  print(f"| {_DATA.value} |", " | ".join(keys), "|", flush=True)
  for name in VARIANTS:
    if not _ONLY.value or name in _ONLY.value:
      figures = run(name, folder / "".join(c if c.isalnum() else "_" for c in name))
      cells = (f"{figures[k]:.4g}" if k in figures else "" for k in keys)
      print(f"| {name} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
  app.run(main)
