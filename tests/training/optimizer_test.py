"""The optimizers against the formulas of their papers, in float64."""

import math

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.training import optimizer
from lamd_jax.types import UserError

PARAMS = {
  "conv": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full((3,), 2.0)},
  "norm": {"scale": jnp.full((1, 3), 2.0)},
}


def rates(steps, **kwargs):
  learning_rate_fn = optimizer.make_learning_rate(10, 0.2, **kwargs)
  return [float(learning_rate_fn(step)) for step in steps]


def update(tx, grads, params):
  """Returns parameters after one update for each gradient."""
  state = tx.init(params)
  for g in grads:
    updates, state = tx.update(g, state, params)
    params = {k: params[k] + updates[k] for k in params}
  return params


class LearningRateTest(parameterized.TestCase):
  def test_a_constant_rate_is_constant(self):
    np.testing.assert_allclose(rates((0, 5, 10, 99)), 0.2, rtol=1e-6)

  def test_warmup_rises_in_equal_parts_and_never_is_zero(self):
    got = rates(range(6), warmup_steps=4)
    np.testing.assert_allclose(got, [0.05, 0.1, 0.15, 0.2, 0.2, 0.2], rtol=1e-6)

  @parameterized.parameters(0.0, 0.25)
  def test_cosine_falls_as_its_formula(self, end):
    got = rates(range(2, 13), warmup_steps=2, schedule="cosine", end_fraction=end)
    shape = [0.5 * (1 + math.cos(math.pi * min(i / 8, 1))) for i in range(11)]
    expected = [0.2 * (end + (1 - end) * x) for x in shape]
    np.testing.assert_allclose(got, expected, atol=1e-7)

  def test_linear_falls_on_a_line_to_its_end(self):
    got = rates((0, 5, 10, 20), schedule="linear", end_fraction=0.1)
    np.testing.assert_allclose(got, [0.2, 0.11, 0.02, 0.02], rtol=1e-5)

  def test_an_unknown_schedule_lists_the_known_ones(self):
    with self.assertRaisesRegex(UserError, "'cos'; known: constant, cosine, linear"):
      rates((0,), schedule="cos")

  def test_a_warmup_longer_than_the_training_says_so(self):
    with self.assertRaisesRegex(UserError, "warmup_steps=11 .*steps=10.*0 to 10"):
      rates((0,), warmup_steps=11)


class OptimizerTest(parameterized.TestCase):
  def test_updates_of_adam_by_hand(self):
    tx, _ = optimizer.make_optimizer(9, 0.1, b1=0.8, b2=0.7, clip_norm=0.0)
    # With equal gradients, both means would equal them whatever the decay rates.
    grads = [np.array([3.0, -0.5]), np.array([-1.0, 4.0]), np.array([0.2, 0.3])]
    got = update(tx, [{"w": jnp.asarray(g)} for g in grads], {"w": jnp.ones(2)})
    w, m, v = np.ones(2), 0.0, 0.0
    for i, g in enumerate(grads, 1):  # Kingma & Ba 2015, algorithm 1.
      m, v = 0.8 * m + 0.2 * g, 0.7 * v + 0.3 * g**2
      w = w - 0.1 * (m / (1 - 0.8**i)) / (np.sqrt(v / (1 - 0.7**i)) + 1e-8)
    np.testing.assert_allclose(got["w"], w, rtol=1e-5)

  def test_weight_decay_spares_biases_and_scales(self):
    tx, _ = optimizer.make_optimizer(9, 0.1, weight_decay=0.3)
    zeros = {
      layer: {name: 0.0 * x for name, x in arrays.items()}
      for layer, arrays in PARAMS.items()
    }
    updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.1 * 0.3 * 2.0, rtol=1e-6)
    np.testing.assert_array_equal(updates["conv"]["bias"], 0.0)
    np.testing.assert_array_equal(updates["norm"]["scale"], 0.0)

  def test_decay_is_chosen_by_name_and_by_axes(self):
    self.assertEqual(
      optimizer.decay_mask({**PARAMS, "null_token": jnp.ones(5)}),
      {
        "conv": {"kernel": True, "bias": False},
        "norm": {"scale": False},
        "null_token": False,
      },
    )

  def test_the_rate_of_the_schedule_is_the_rate_of_the_update(self):
    tx, learning_rate_fn = optimizer.make_optimizer(4, 0.1, schedule="linear")
    grads = {"w": jnp.array(1.0)}  # Each step of Adam is then one rate long.
    got = update(tx, [grads] * 3, {"w": jnp.array(0.0)})
    expected = -sum(float(learning_rate_fn(i)) for i in range(3))
    np.testing.assert_allclose(got["w"], expected, rtol=1e-5)
    np.testing.assert_allclose(expected, -0.1 * (1 + 0.75 + 0.5), rtol=1e-5)

  def test_clipping_makes_a_long_gradient_the_unit_vector(self):
    clipped, _ = optimizer.make_optimizer(9, 0.1, clip_norm=1.0)
    free, _ = optimizer.make_optimizer(9, 0.1, clip_norm=0.0)
    params = {"w": jnp.zeros(2)}
    moments = [
      tx.update({"w": jnp.array(g)}, tx.init(params), params)[1]
      for tx, g in ((clipped, [30.0, 40.0]), (free, [0.6, 0.8]))
    ]
    np.testing.assert_allclose(
      moments[0][1][0].mu["w"], moments[1][1][0].mu["w"], rtol=1e-5
    )

  def test_an_unknown_optimizer_lists_the_known_ones(self):
    with self.assertRaisesRegex(UserError, "'sgd'; known: adam, muon"):
      optimizer.make_optimizer(9, 0.1, optimizer="sgd")

  @parameterized.parameters(
    dict(steps=0),
    dict(learning_rate=0.0),
    dict(learning_rate=-1e-3),
    dict(learning_rate=1e4),
    dict(end_fraction=1.5),
    dict(weight_decay=-0.1),
    dict(clip_norm=-1.0),
    dict(b1=1.0),
    dict(b2=-0.1),
  )
  def test_an_impossible_value_is_named(self, **kwargs):
    ((name, value),) = kwargs.items()
    with self.assertRaisesRegex(UserError, f"{name}={value}: expected"):
      optimizer.make_optimizer(**{"steps": 9, "learning_rate": 0.1, **kwargs})


def muon_by_hand(grads, rate, rms=0.2):
  """Returns updates of a matrix by Jordan et al. 2024, scaled by Liu et al. 2025."""
  momentum, updates = np.zeros_like(grads[0]), []
  for i, g in enumerate(grads, 1):
    momentum = 0.95 * momentum + 0.05 * g
    # Nesterov momentum with bias correction, as in optax.
    x = 0.95 * momentum / (1 - 0.95 ** (i + 1)) + 0.05 * g / (1 - 0.95**i)
    x = x / np.linalg.norm(x)
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(5):
      a = x @ x.T
      x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    x = x if x.shape == g.shape else x.T
    updates.append(-rate * rms * max(g.shape) ** 0.5 * x)
  return updates


class MuonTest(absltest.TestCase):
  def updates(self, grads, **kwargs):
    params = [jnp.zeros_like(x) for x in jax.tree.leaves(grads[0])]
    params = jax.tree.unflatten(jax.tree.structure(grads[0]), params)
    tx, _ = optimizer.make_optimizer(9, 0.1, optimizer="muon", clip_norm=0.0, **kwargs)
    state, out = tx.init(params), []
    for g in grads:
      update, state = tx.update(g, state, params)
      out.append(update)
    return out

  def test_a_convolution_is_one_matrix_from_its_inputs_to_its_outputs(self):
    rng = np.random.default_rng(0)
    grads = [rng.normal(size=(1, 3, 3, 6, 8)) for _ in range(3)]
    got = self.updates([{"kernel": jnp.asarray(g, jnp.float32)} for g in grads])
    expected = muon_by_hand([g.reshape(54, 8) for g in grads], rate=0.1)
    for g, e in zip(got, expected, strict=True):
      np.testing.assert_allclose(g["kernel"].reshape(54, 8), e, rtol=2e-3, atol=1e-5)
      # The point of Muon: all directions move by about the same amount.
      singular = np.linalg.svd(np.reshape(g["kernel"], (54, 8)), compute_uv=False)
      size = 0.1 * 0.2 * 54**0.5
      self.assertBetween(singular.min() / size, 0.65, 1.25)
      self.assertBetween(singular.max() / size, 0.65, 1.25)

  def test_each_head_is_a_matrix_of_its_own(self):
    rng = np.random.default_rng(1)
    g = rng.normal(size=(8, 2, 6)).astype(np.float32)  # 2 heads.
    (got,) = self.updates([{"query": {"kernel": jnp.asarray(g)}}])
    for head in range(2):
      (expected,) = muon_by_hand([g[:, head].astype(np.float64)], rate=0.1)
      update = got["query"]["kernel"][:, head]
      np.testing.assert_allclose(update, expected, rtol=2e-3, atol=1e-5)

  def test_out_projection_of_heads_is_one_matrix(self):
    g = np.random.default_rng(2).normal(size=(2, 6, 8)).astype(np.float32)
    (got,) = self.updates([{"out": {"kernel": jnp.asarray(g)}}])
    (expected,) = muon_by_hand([g.reshape(12, 8).astype(np.float64)], rate=0.1)
    update = got["out"]["kernel"].reshape(12, 8)
    np.testing.assert_allclose(update, expected, rtol=2e-3, atol=1e-5)

  def test_the_rest_is_adam(self):
    grads = {
      "bias": jnp.array([3.0, -0.5, 1e-3, 7.0, -2.0, 0.1]),
      "scale": jnp.array([0.1, -4.0]),
      "pixels": {"kernel": jnp.full((3, 3, 3, 16), -0.3)},
    }
    (got,) = self.updates([grads])
    for update, g in zip(jax.tree.leaves(got), jax.tree.leaves(grads), strict=True):
      # The first step does not depend on the size of g. Nesterov momentum takes 0.9 of
      # the next unbiased mean, 0.1 g / (1 - 0.9^2), and 0.1 of g / (1 - 0.9).
      length = 0.1 * (0.9 * 0.1 / (1 - 0.9**2) + 1.0)
      np.testing.assert_allclose(update, -length * np.sign(g), rtol=1e-3)

  def test_its_adam_uses_the_given_decay_rates(self):
    grads = [np.array([3.0, -0.5]), np.array([-1.0, 4.0]), np.array([0.2, 0.3])]
    got = self.updates([{"bias": jnp.asarray(g)} for g in grads], b1=0.6, b2=0.7)
    m = v = 0.0
    for i, g in enumerate(grads, 1):  # Dozat 2016, with a constant b1.
      m, v = 0.6 * m + 0.4 * g, 0.7 * v + 0.3 * g**2
      ahead = 0.6 * m / (1 - 0.6 ** (i + 1)) + 0.4 * g / (1 - 0.6**i)
      expected = -0.1 * ahead / (np.sqrt(v / (1 - 0.7**i)) + 1e-8)
      np.testing.assert_allclose(got[i - 1]["bias"], expected, rtol=1e-5)

  def test_weight_decay_acts_on_kernels_alone(self):
    params = {"kernel": jnp.full((6, 8), 2.0), "bias": jnp.full((6, 8), 2.0)}
    tx, _ = optimizer.make_optimizer(9, 0.1, optimizer="muon", weight_decay=0.3)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.3 * 2.0, rtol=1e-5)
    np.testing.assert_array_equal(updates["bias"], 0.0)


if __name__ == "__main__":
  absltest.main()
