"""The denoising loss of networks whose error is known."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.diffusion import losses, process, schedules
from lamd_jax.types import UserError

COSINE = schedules.CosineSchedule()
LDM = schedules.make_schedule("sqrt_linear")
KEY = jax.random.key(0)


def loss(model_fn, x, parameterization="eps", schedule=LDM, key=KEY, **kwargs):
  @jax.jit  # One compilation in place of one per operation.
  def run(x, key):
    return losses.denoising_loss(
      model_fn, x, key, schedule=schedule, parameterization=parameterization, **kwargs
    )

  return run(x, key)


def seen_by_network(x, **kwargs):
  """The arguments, x_t and log-SNR, that the loss gives to the network."""
  seen = []
  see = lambda *arrays: seen.append([np.asarray(x) for x in arrays])

  def model_fn(x_t, logsnr):
    jax.debug.callback(see, x_t, logsnr)
    return x_t

  loss(model_fn, x, **kwargs)
  jax.effects_barrier()
  (arguments,) = seen
  return arguments


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
    x_t, logsnr = seen_by_network(jnp.ones((50, 3)))
    steps = np.asarray(LDM.timestep(jnp.asarray(logsnr)))
    np.testing.assert_array_equal(steps, np.round(steps))
    self.assertGreater(len(np.unique(steps)), 40)
    self.assertGreater(len(np.unique(x_t)), 140)

  def test_time_and_noise_are_independent(self):
    x_t, logsnr = seen_by_network(jnp.zeros((3000, 1)), schedule=COSINE)
    eps = x_t[:, 0] * np.sqrt(1 + np.exp(logsnr.astype(np.float64)))
    self.assertLess(abs(np.corrcoef(COSINE.time(jnp.asarray(logsnr)), eps)[0, 1]), 0.07)

  def test_another_key_is_another_loss(self):
    x = jnp.ones((4, 3))
    values = [loss(lambda x_t, _: x_t, x, key=jax.random.key(i))[0] for i in (0, 1)]
    self.assertNotEqual(*values)

  def test_half_precision_outputs_are_compared_in_full(self):
    value, _ = loss(lambda x_t, _: x_t.astype(jnp.bfloat16), jnp.ones((4, 3)))
    self.assertEqual(value.dtype, jnp.float32)

  def test_every_frame_can_have_its_own_time(self):
    x = jnp.zeros((3, 5, 2000))
    x_t, logsnr = seen_by_network(x, schedule=COSINE, per_frame=True)
    self.assertEqual(logsnr.shape, (3, 5))
    self.assertLen(np.unique(logsnr), 15)
    sigma = np.sqrt(1 / (1 + np.exp(logsnr)))
    np.testing.assert_allclose(x_t.std(axis=-1), sigma, rtol=0.06)

  def test_a_loss_per_frame_of_a_known_error(self):
    # Error t at time t, as in the test of the metrics above.
    x = jnp.zeros((4000, 5, 1))
    model_fn = lambda x_t, logsnr: COSINE.time(logsnr)[..., None]
    value, metrics = loss(model_fn, x, "x", COSINE, per_frame=True)
    np.testing.assert_allclose(value, 1 / 3, rtol=0.03)
    np.testing.assert_allclose(metrics["loss_low_noise"], 1 / 6, rtol=0.05)


class WeightingTest(parameterized.TestCase):
  """Weights on the squared error of x, from the definitions, in float64."""

  LEVELS = np.array([-20.0, -3.0, 0.0, 1.0, 4.0, 20.0])

  def of_x(self, weighting):
    snr = np.exp(self.LEVELS)
    return {
      "snr": snr,
      "truncated_snr": np.maximum(snr, 1.0),
      "min_snr": np.minimum(snr, 5.0),
    }[weighting]

  @parameterized.product(
    weighting=("snr", "truncated_snr", "min_snr"), parameterization=("x", "eps", "v")
  )
  def test_the_loss_is_the_weighted_error_of_x(self, weighting, parameterization):
    logsnr = jnp.asarray(self.LEVELS, jnp.float32)
    x, wrong = jnp.full((6, 1), 0.3), jnp.full((6, 1), 0.3 + 2.0)
    x_t, target = process.diffuse(KEY, x, logsnr)
    output = getattr(process.convert(wrong, x_t, logsnr, "x"), parameterization)
    target = getattr(target, parameterization)
    error = np.square(np.asarray(output - target, np.float64))[:, 0]
    weight = losses.loss_weight(logsnr, parameterization, weighting)
    # Where x_t is all but x, eps is all rounding: those weights are looked at below.
    clear = slice(0, 5)
    expected = (self.of_x(weighting) * 2.0**2)[clear]
    np.testing.assert_allclose((weight * error)[clear], expected, rtol=2e-3)

  @parameterized.product(
    weighting=("snr", "truncated_snr", "min_snr"), parameterization=("x", "eps", "v")
  )
  def test_weights_are_ratios(self, weighting, parameterization):
    snr = np.exp(self.LEVELS)
    of_output = {"x": 1.0, "eps": snr, "v": 1.0 + snr}[parameterization]
    logsnr = jnp.asarray(self.LEVELS, jnp.float32)
    got = losses.loss_weight(logsnr, parameterization, weighting)
    np.testing.assert_allclose(got, self.of_x(weighting) / of_output, rtol=1e-5)

  def test_uniform_is_one_whatever_is_predicted(self):
    for form in ("x", "eps", "v"):
      got = losses.loss_weight(jnp.array([-20.0, 3.0]), form, "uniform")
      np.testing.assert_array_equal(got, [1.0, 1.0])

  def test_the_weight_reaches_the_loss(self):
    x = jnp.ones((500, 4))
    zero = lambda x_t, logsnr: 0.0 * x_t
    # SNR times the error of x is the error of eps: 1 for eps of 0.
    value, _ = loss(zero, x, "eps", COSINE, weighting="snr")
    np.testing.assert_allclose(value, 1.0, rtol=0.1)
    value, _ = loss(zero, x, "v", COSINE, weighting="min_snr")
    self.assertBetween(value, 0.0, 1.0)

  def test_an_unknown_weighting_lists_the_known_ones(self):
    call = getattr(losses.loss_weight, "__wrapped__", losses.loss_weight)
    with self.assertRaisesRegex(UserError, "'p2'; known: uniform, snr, truncated"):
      call(jnp.zeros(1), "eps", "p2")


if __name__ == "__main__":
  absltest.main()
