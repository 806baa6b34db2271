"""Runs the samplers of Hugging Face diffusers and keeps their trajectories.

    pip install torch==2.13.0 diffusers==0.42.1
    python tests/benchmarks/diffusers_reference.py

Computes in float64 where theirs lets it (its tables are float32), and writes
tests/diffusion/diffusers_reference.npz, which `diffusers_test.py` compares
with. Neither torch nor diffusers is needed for that.

All predict with the same closed form, the best denoiser of a mixture of two Gaussians
(`predict_x` below), so that only schedule and solver differ. Random samplers get their
noise from `jax.random`, as ours do: the key 1, folded with the number of the step.

Where theirs and ours are set up differently:

  DDIM          theirs with steps_offset=1, set_alpha_to_one=False: as latent diffusion
  DDPM          theirs visits steps 0, c, 2c, ... and ends at clean data
  Heun, DPM++   theirs places levels by interpolating sigma / alpha; the levels are
                kept with the trajectory, and ours takes them as its grid. Heun's
                trajectory is in x / alpha; it is kept multiplied by alpha.
"""

import pathlib

import diffusers
import jax
import numpy as np
import torch

OUT = pathlib.Path(__file__).resolve().parents[1] / "diffusion/diffusers_reference.npz"
SHAPE = (2, 4)
BETAS = {
  "linear": dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
  "scaled_linear": dict(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
  ),
  "cosine": dict(beta_schedule="squaredcos_cap_v2"),
}
WEIGHTS, MEANS, STD = np.array([0.3, 0.7]), np.array([-1.5, 1.0]), 0.5


def predict_x(x_t, alpha, sigma):
  """The conditional mean of x given x_t, in float64."""
  variance = alpha**2 * STD**2 + sigma**2
  distance = x_t[..., None] - alpha * MEANS
  log = np.log(WEIGHTS) - 0.5 * distance**2 / variance
  belongs = np.exp(log - log.max(axis=-1, keepdims=True))
  belongs /= belongs.sum(axis=-1, keepdims=True)
  return (belongs * (MEANS + alpha * STD**2 / variance * distance)).sum(axis=-1)


def network(x_t, snr, prediction_type):
  """Returns the output of the optimal network as a torch tensor."""
  alpha, sigma = np.sqrt(snr / (1 + snr)), np.sqrt(1 / (1 + snr))
  x_t = x_t.double().numpy()
  x = predict_x(x_t, alpha, sigma)
  eps = (x_t - alpha * x) / sigma
  out = eps if prediction_type == "epsilon" else alpha * eps - sigma * x
  return torch.from_numpy(out)


def noise(i):
  key = jax.random.fold_in(jax.random.key(1), i)
  return torch.from_numpy(np.array(jax.random.normal(key, SHAPE)))


def logsnr_of(snr):
  with np.errstate(divide="ignore"):
    return np.log(np.asarray(snr, np.float64))


def discrete(scheduler, prediction_type, num_steps, stochastic):
  """DDIM and DDPM: levels are trained steps."""
  scheduler.set_timesteps(num_steps)
  abar = scheduler.alphas_cumprod.double().numpy()
  x = torch.from_numpy(np.array(jax.random.normal(jax.random.key(0), SHAPE))).double()
  path, levels = [x.numpy()], []
  for i, t in enumerate(scheduler.timesteps):
    snr = abar[t] / (1 - abar[t])
    levels.append(logsnr_of(snr))
    out = network(x, snr, prediction_type)
    if stochastic:
      ddpm = diffusers.schedulers.scheduling_ddpm
      ddpm.randn_tensor = lambda *a, i=i, **k: noise(i)
    x = scheduler.step(out, t, x).prev_sample
    path.append(x.numpy())
  last = np.inf if stochastic else logsnr_of(abar[0] / (1 - abar[0]))
  return np.stack(path), np.array([*levels, last])


def in_sigma(scheduler, prediction_type, num_steps, stochastic):
  """DPM-Solver++ and Heun: levels are the sigma / alpha of the scheduler."""
  scheduler.set_timesteps(num_steps)
  is_heun = isinstance(scheduler, diffusers.HeunDiscreteScheduler)
  sigmas = scheduler.sigmas.double().numpy()
  x = torch.from_numpy(np.array(jax.random.normal(jax.random.key(0), SHAPE))).double()
  alpha = lambda sigma: 1 / np.sqrt(1 + sigma**2)
  if is_heun:
    x = x / alpha(sigmas[0])
  path, levels = [], []
  for i, t in enumerate(scheduler.timesteps):
    sigma = sigmas[i]  # Heun's come twice: as the end of a step, as a start.
    scaled = scheduler.scale_model_input(x, t)
    if not is_heun or scheduler.state_in_first_order:
      path.append((x * alpha(sigma) if is_heun else x).numpy())
      levels.append(sigma)
    out = network(scaled, 1 / sigma**2, prediction_type)
    kwargs = dict(variance_noise=noise(i)) if stochastic else {}
    x = scheduler.step(out, t, x, **kwargs).prev_sample
  path.append(x.numpy())
  levels = -2 * np.log(np.array(levels))
  return np.stack(path), np.array([*levels, np.inf])


def main():
  """Writes the file."""
  out = {}
  for betas, options in BETAS.items():
    for prediction_type in ("epsilon", "v_prediction"):
      for num_steps in (10, 25, 50):
        common = dict(options, prediction_type=prediction_type)
        dpm = dict(common, algorithm_type="dpmsolver++", final_sigmas_type="zero")
        leading = dict(common, clip_sample=False, timestep_spacing="leading")
        ddim = dict(leading, steps_offset=1, set_alpha_to_one=False)
        sde = dict(dpm, algorithm_type="sde-dpmsolver++")
        cases = {
          "ddim": (discrete, diffusers.DDIMScheduler(**ddim), False),
          "ddpm": (discrete, diffusers.DDPMScheduler(**leading), True),
          "heun": (in_sigma, diffusers.HeunDiscreteScheduler(**common), False),
          "dpm": (in_sigma, diffusers.DPMSolverMultistepScheduler(**dpm), False),
          "dpm_sde": (in_sigma, diffusers.DPMSolverMultistepScheduler(**sde), True),
        }
        for name, (run, scheduler, stochastic) in cases.items():
          path, levels = run(scheduler, prediction_type, num_steps, stochastic)
          case = f"{name} {betas} {prediction_type} {num_steps}"
          out[f"{case} path"] = path.astype(np.float32)
          out[f"{case} logsnr"] = levels.astype(np.float32)
  np.savez_compressed(OUT, **out)
  print(f"{len(out) // 2} trajectories in {OUT} ({OUT.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
  main()
