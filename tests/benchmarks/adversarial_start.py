"""Cost of an adversary to LaMD's autoencoder, and the effect of its start on the loss.

    JAX_PLATFORMS=cpu python tests/benchmarks/adversarial_start.py

On moving shapes, with the networks of `configs/quickstart.py`, a discriminator and the
perceptual term on I3D (extra `metrics`). First the time of a gradient with the adaptive
lambda over that of the same terms with a constant one, in turns; then a training in
which the discriminator starts half way, and the mean reconstruction loss of each ten
steps around its start over that of the ten before it.
"""

import argparse
import pathlib
import statistics
import sys
import time

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from configs import quickstart
from lamd_jax.data import pipeline, sources
from lamd_jax.experiment import trained
from lamd_jax.experiment.run import make_run
from lamd_jax.systems import autoencoder
from lamd_jax.systems import stage as stage_lib
from lamd_jax.systems.networks import apply
from lamd_jax.systems.pixels import from_uint8
from lamd_jax.training import optimizer, step
from lamd_jax.training.state import init_adversarial_state


def constant_gradients(stage, params, critic_params, batch, key):
  """The gradient of the sum, lambda being one number."""
  video = from_uint8(batch["video"])

  def total(params):
    decoded, posterior = apply(stage.model, params, video, key)
    fake = apply(stage.critic, critic_params, decoded)
    gan = autoencoder.generator_loss(stage.adversary.form, fake)
    rec, _ = stage._reconstruction_loss(decoded, video, key)
    return rec + stage._kl_loss(posterior, video) + 0.01 * gan

  return jax.value_and_grad(total)(params)


def main() -> None:
  """Prints the ratio, then the loss around the start."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--steps", type=int, default=400)
  parser.add_argument("--rounds", type=int, default=15)
  args = parser.parse_args()
  config = quickstart.get_config()
  start = args.steps // 2
  config.mcd_vae.loss.perceptual = "i3d"
  config.mcd_vae.adversary = dict(
    start=start, weight=0.5, model=dict(channels=(16, 32, 64), frame_strides=(2, 2))
  )
  values = config.mcd_vae.train
  values.steps = args.steps
  run = make_run(config, pathlib.Path())
  stage = trained.make_stage(run, "mcd_vae", for_training=True)
  assert isinstance(stage, stage_lib.AdversarialStage)
  names = ("learning_rate", "warmup_steps", "schedule", "optimizer", "b2")
  tx, _ = optimizer.make_optimizer(args.steps, **{name: values[name] for name in names})
  source = sources.make_source(config.data.to_dict(), "train")
  batches = pipeline.batches(
    source, num_frames=16, frame_stride=1, batch_size=values.batch_size, seed=0
  )
  batch, key = {"video": next(batches)["video"]}, jax.random.key(0)
  params, critic = stage.init(key, batch), stage.init_critic(key, batch)

  adaptive = jax.jit(lambda stage, *x: stage.gradients(*x, start)[2])
  constant = jax.jit(lambda *x: constant_gradients(*x)[1])
  seconds: dict[str, list[float]] = {"adaptive": [], "constant": []}
  for i in range(args.rounds + 1):
    for name, find in (("adaptive", adaptive), ("constant", constant)):
      began = time.monotonic()
      jax.block_until_ready(find(stage, params, critic, batch, key))
      if i:
        seconds[name].append(time.monotonic() - began)
  ratios = [a / c for a, c in zip(*seconds.values(), strict=True)]
  medians = {name: statistics.median(x) for name, x in seconds.items()}
  print("seconds a gradient:", {k: f"{v:.3f}" for k, v in medians.items()})
  print(f"adaptive over constant, median: {statistics.median(ratios):.3f}")

  state = init_adversarial_state(params, critic, tx)
  train_step = jax.jit(step.make_adversarial_step(tx, 0.99), donate_argnums=0)
  losses, lambdas = [], []
  for _ in range(args.steps):
    batch = {"video": next(batches)["video"]}
    state, metrics = train_step(state, batch, key, stage)
    losses.append(float(metrics["l1"] + metrics["i3d"]))
    lambdas.append(float(metrics["lambda"]))
  before = np.mean(losses[start - 10 : start])
  after = np.array(losses[start:])
  after = after[: len(after) // 10 * 10].reshape(-1, 10).mean(1) / before
  print(f"reconstruction loss before the start: {before:.4f}; after it, over that:")
  print(" ".join(f"{x:.2f}" for x in after))
  used = lambdas[start:]
  print(f"largest {after.max():.2f}; lambda {min(used):.3g} to {max(used):.3g}")


if __name__ == "__main__":
  main()
