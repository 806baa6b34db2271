"""The denoising loss of networks whose error is known."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.diffusion import losses, process, schedules

COSINE = schedules.CosineSchedule()
LDM = schedules.make_schedule("sqrt_linear")
KEY = jax.random.key(0)


def loss(model_fn, x, parameterization="eps", schedule=LDM, key=KEY):
  @jax.jit  # One compilation in place of one per operation.
  def run(x, key):
    return losses.denoising_loss(
      model_fn, x, key, schedule=schedule, parameterization=parameterization
    )

  return run(x, key)


class DenoisingLossTest(parameterized.TestCase):
  @parameterized.product(
    parameterization=("x", "eps", "v"),
    schedule=(schedules.CosineSchedule(logsnr_min=-8.0, logsnr_max=8.0), LDM),
  )
  def test_a_network_that_knows_the_data_has_no_loss(self, parameterization, schedule):
    x = jax.random.normal(jax.random.key(1), (6, 3, 4))

    def oracle(x_t, logsnr):
      return getattr(process.convert(x, x_t, logsnr, "x"), parameterization)

    value, metrics = loss(oracle, x, parameterization, schedule)
    chex.assert_trees_all_close((value, metrics), jax.tree.map(
      jnp.zeros_like, (value, metrics)), atol=1e-5)  # fmt: skip

  def test_predicting_zero_noise_costs_the_variance_of_noise(self):
    x = 3.0 * jnp.ones((500, 40))
    value, metrics = loss(lambda x_t, logsnr: 0.0 * x_t, x)
    np.testing.assert_allclose(value, 1.0, rtol=0.03)
    np.testing.assert_allclose(metrics["loss_low_noise"], 1.0, rtol=0.05)
    np.testing.assert_allclose(metrics["loss_high_noise"], 1.0, rtol=0.05)

  def test_predicting_zero_data_costs_its_power(self):
    x = 3.0 * jnp.ones((5, 40))
    value, _ = loss(lambda x_t, logsnr: 0.0 * x_t, x, "x")
    np.testing.assert_allclose(value, 9.0, rtol=1e-6)

  def test_metrics_tell_low_from_high_noise(self):
    # Error t at time t: E[t^2 (1 - t)] / E[1 - t] = 1/6 and E[t^3] / E[t] = 1/2.
    x = jnp.zeros((20_000, 1))
    model_fn = lambda x_t, logsnr: COSINE.time(logsnr)[:, None]
    value, metrics = loss(model_fn, x, "x", COSINE)
    np.testing.assert_allclose(value, 1 / 3, rtol=0.03)
    np.testing.assert_allclose(metrics["loss_low_noise"], 1 / 6, rtol=0.05)
    np.testing.assert_allclose(metrics["loss_high_noise"], 1 / 2, rtol=0.03)

  def test_the_network_sees_trained_levels_and_the_noised_data(self):
    seen = []
    see = lambda *arrays: seen.append([np.asarray(x) for x in arrays])

    def model_fn(x_t, logsnr):
      jax.debug.callback(see, x_t, logsnr)
      return x_t

    loss(model_fn, jnp.ones((50, 3)))
    jax.effects_barrier()
    ((x_t, logsnr),) = seen
    steps = np.asarray(LDM.timestep(jnp.asarray(logsnr)))
    np.testing.assert_array_equal(steps, np.round(steps))
    self.assertGreater(len(np.unique(steps)), 40)
    self.assertGreater(len(np.unique(x_t)), 140)

  def test_time_and_noise_are_independent(self):
    seen = []
    see = lambda *arrays: seen.append([np.asarray(x) for x in arrays])

    def model_fn(x_t, logsnr):
      _, sigma = process.alpha_sigma(logsnr, 2)
      jax.debug.callback(see, COSINE.time(logsnr), (x_t / sigma)[:, 0])
      return x_t

    loss(model_fn, jnp.zeros((3000, 1)), schedule=COSINE)
    jax.effects_barrier()
    self.assertLess(abs(np.corrcoef(*seen[0])[0, 1]), 0.07)

  def test_another_key_is_another_loss(self):
    x = jnp.ones((4, 3))
    values = [loss(lambda x_t, _: x_t, x, key=jax.random.key(i))[0] for i in (0, 1)]
    self.assertNotEqual(*values)

  def test_half_precision_outputs_are_compared_in_full(self):
    value, _ = loss(lambda x_t, _: x_t.astype(jnp.bfloat16), jnp.ones((4, 3)))
    self.assertEqual(value.dtype, jnp.float32)


if __name__ == "__main__":
  absltest.main()
