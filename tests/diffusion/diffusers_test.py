"""Trajectories beside those of Hugging Face diffusers.

The reference was written by tests/benchmarks/diffusers_reference.py, which says how
theirs was set up; diffusers 0.42.1 with torch 2.13.0.
"""

import functools
import pathlib

from absl.testing import absltest, parameterized
import analytic
import jax
import numpy as np

from lamd_jax.diffusion import samplers, schedules

REFERENCE = pathlib.Path(__file__).with_name("diffusers_reference.npz")
SAMPLERS = {
  "ddim": samplers.ddim(),
  "ddpm": samplers.ancestral(),
  "heun": samplers.heun(),
  "dpm": samplers.dpm_solver_2m(),
  "dpm_sde": samplers.dpm_solver_2m(stochastic=True),
}
FORMS = {"epsilon": "eps", "v_prediction": "v"}
SCHEDULES = {
  "linear": schedules.make_schedule("linear"),
  "scaled_linear": schedules.make_schedule("stable_diffusion"),
  "cosine": schedules.make_schedule("cosine_beta"),
}


@functools.partial(jax.jit, static_argnames=("name", "form"))
def run(name, form, grid):
  return samplers.sample_trajectory(
    jax.random.key(1),
    jax.random.normal(jax.random.key(0), (2, 4)),
    denoise_fn=analytic.denoiser(analytic.mixture(), form),
    sampler=SAMPLERS[name],
    logsnr_grid=grid,
  )


def rounding(name, form, grid):
  """Returns the float32 error of the first step, with r = sigma / alpha at its start.

  The cosine betas begin at r = 20000. There x = (x_t - sigma eps) / alpha turns the
  rounding of eps into r times as much, which reaches the end of the step times
  alpha_s. Heun's method, in x / alpha, rounds a number of the size of r, divides it by
  the r of the end to get the second eps, and multiplies by half of r. Theirs, run in
  float32, differs from itself in float64 by as much.
  """
  r = np.exp(-0.5 * grid[:2].astype(np.float64))
  alpha_s = 1 / np.sqrt(1 + r[1] ** 2)
  ulp = 2.0**-23
  if name == "heun":
    return ulp * alpha_s * (3 * r[0] + 0.5 * r[0] ** 2 / r[1])
  return ulp * alpha_s * 3 * r[0] if form == "eps" else 0.0


class DiffusersTest(parameterized.TestCase):
  @parameterized.product(
    name=tuple(SAMPLERS), prediction_type=tuple(FORMS), num_steps=(10, 25, 50)
  )
  def test_trajectories_agree(self, name, prediction_type, num_steps):
    with np.load(REFERENCE) as reference:
      for betas, schedule in SCHEDULES.items():
        case = f"{name} {betas} {prediction_type} {num_steps}"
        with self.subTest(case):
          grid, path = reference[f"{case} logsnr"], reference[f"{case} path"]
          if name == "ddim":  # Levels and places of ours.
            np.testing.assert_allclose(
              schedule.sampling_grid(num_steps), grid, atol=1e-3
            )
          form = FORMS[prediction_type]
          allowed = 1e-4 * np.abs(path).max() + rounding(name, form, grid)
          np.testing.assert_allclose(run(name, form, grid), path, atol=allowed)


if __name__ == "__main__":
  absltest.main()
