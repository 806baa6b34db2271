"""How few sampling steps a trained LaMD needs: FVD by sampler and number of steps.

    python tests/benchmarks/few_steps.py --workdir=runs/quickstart

Samples one video of each held-out clip of a trained work folder, from the same noise
each time: DDIM with 200 steps, the paper's, and DPM-Solver++ with 20 and fewer. Prints
FVD against the real clips, its ratio to that of DDIM, and how far the videos are apart.
Needs the extra `metrics`.
"""

import argparse
import json
import pathlib

import jax
import ml_collections
import numpy as np

from lamd_jax.data import sources
from lamd_jax.experiment import batches, trained, workdir
from lamd_jax.experiment.run import make_run
from lamd_jax.metrics import clip_set, image, measures, score
from lamd_jax.systems.pipeline import Sampler

SETTINGS = (("ddim", 200), ("dpmpp_2m", 20), ("dpmpp_2m", 10), ("ddim", 20))


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--num_clips", type=int, default=128)
  args = parser.parse_args()
  text = (args.workdir / workdir.CONFIG).read_text()
  config = ml_collections.ConfigDict(json.loads(text), convert_dict=True)
  config.unlock()
  run = make_run(config, args.workdir)
  name = run.stages[-1]
  source = sources.make_source(run.data(name), "eval")
  batch, _ = batches.eval_batch(run, name, source, args.num_clips)
  real = clip_set.of_array("real", batch["video"])
  made = measures.make_measures(["fvd"], measures.Options())
  first = None
  print(
    "| sampler | steps | FVD | over the first | PSNR to the first, dB |", flush=True
  )
  for sampler, steps in SETTINGS:
    config.sample.sampler, config.sample.num_steps = sampler, steps
    sample = Sampler(
      trained.load(run, name), trained.devices_of(run), config.sample.batch_size
    )
    videos = sample(batch, jax.random.key(config.seed))
    (card,) = score.score(
      made,
      real,
      clip_set.of_array(f"{sampler}_{steps}", videos),
      others=real.subset(0, 0),
      are_pairs=True,
      cache=args.workdir / workdir.FEATURES,
      num_draws=0,
    )
    first = first or (card["value"], videos)
    psnr = float(np.minimum(image.psnr(videos, first[1]), 99.9))
    ratio = card["value"] / first[0]
    cells = f"{card['value']:.1f} | {ratio:.3f} | {psnr:.1f}"
    print(f"| {sampler} | {steps} | {cells} |", flush=True)


if __name__ == "__main__":
  main()
