"""Embeddings against their formulas in float64."""

from absl.testing import absltest, parameterized
import jax.numpy as jnp
import numpy as np

from lamd_jax.nn import embeddings


class SinusoidalTest(parameterized.TestCase):
  @parameterized.parameters(10_000.0, 100.0)
  def test_it_is_the_formula_all_cosines_first(self, max_period):
    steps = np.array([[0.0, 1.0, 7.5], [250.0, 998.0, 999.0]])
    got = embeddings.sinusoidal(jnp.asarray(steps, jnp.float32), 10, max_period)
    expected = np.empty((2, 3, 10))
    for i in range(5):
      angle = steps / max_period ** (i / 5)
      expected[..., i], expected[..., 5 + i] = np.cos(angle), np.sin(angle)
    np.testing.assert_allclose(got, expected, atol=3e-4)

  def test_all_thousand_steps_differ(self):
    got = np.asarray(embeddings.sinusoidal(jnp.arange(1000.0), 8))
    apart = np.linalg.norm(got[:, None] - got[None], axis=-1) + 9.0 * np.eye(1000)
    self.assertGreater(apart.min(), 0.1)

  def test_half_precision_steps_are_embedded_in_float32(self):
    got = embeddings.sinusoidal(jnp.array([3.0], jnp.bfloat16), 4)
    self.assertEqual(got.dtype, jnp.float32)
    np.testing.assert_allclose(
      got[0], [np.cos(3), np.cos(0.03), np.sin(3), np.sin(0.03)], atol=1e-6
    )


class LogsnrSinusoidalTest(absltest.TestCase):
  def test_it_embeds_the_time_of_a_cosine_schedule(self):
    # alpha = cos(pi t / 2) and sigma = sin(pi t / 2); 250 of 1000 is t = 1/4.
    times = np.array([[0.25, 0.5], [0.75, 0.9]])
    logsnr = 2.0 * np.log(1.0 / np.tan(0.5 * np.pi * times))
    got = embeddings.logsnr_sinusoidal(jnp.asarray(logsnr, jnp.float32), 6)
    expected = embeddings.sinusoidal(jnp.asarray(1000.0 * times, jnp.float32), 6)
    np.testing.assert_allclose(got, expected, atol=1e-3)

  def test_no_log_snr_is_too_large(self):
    got = embeddings.logsnr_sinusoidal(jnp.array([-jnp.inf, -300, 300, jnp.inf]), 4)
    ends = embeddings.sinusoidal(jnp.array([1000.0, 1000.0, 0.0, 0.0]), 4)
    np.testing.assert_allclose(got, ends, atol=1e-3)


class GridPositionsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.positions = np.asarray(embeddings.grid_positions(5, 7, 16))

  def test_every_place_has_its_own(self):
    self.assertEqual(self.positions.shape, (35, 16))
    apart = self.positions[:, None] - self.positions[None]
    apart = np.linalg.norm(apart, axis=-1) + 9.0 * np.eye(35)
    self.assertGreater(apart.min(), 0.1)

  def test_one_half_is_the_row_and_the_other_the_column(self):
    grid = self.positions.reshape(5, 7, 16)
    rows = np.asarray(embeddings.sinusoidal(jnp.arange(5.0), 8))
    columns = np.asarray(embeddings.sinusoidal(jnp.arange(7.0), 8))
    for row in range(5):
      for column in range(7):
        np.testing.assert_array_equal(grid[row, column, :8], rows[row])
        np.testing.assert_array_equal(grid[row, column, 8:], columns[column])


if __name__ == "__main__":
  absltest.main()
