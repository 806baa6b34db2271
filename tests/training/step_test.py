"""The training step: right to six digits, equal on any mesh, resumed exactly."""

import functools
import pathlib
import tempfile

from absl.testing import absltest, parameterized
import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lamd_jax.training import checkpoint, optimizer, sharding
from lamd_jax.training import step as step_lib
from lamd_jax.training.state import TrainState, init_adversarial_state, init_state
from lamd_jax.types import UserError

KEY = jax.random.key(0)
WIDTH = 1040  # 1040 x 1040 float32 is 4.1 MiB: large enough to be sharded.


def quadratic(stage, params, batch, key):
  """Returns a loss with noise and a frozen matrix, whose gradient is dense."""
  noise = 0.01 * jax.random.normal(key, batch["x"].shape)
  error = (batch["x"] + noise) @ params["kernel"] + params["bias"] - stage["target"]
  return jnp.mean(jnp.square(error)), {"bias": jnp.mean(params["bias"])}


def init(tx, key):
  params = {
    "kernel": jax.random.normal(key, (WIDTH, WIDTH)) / 32,
    "bias": jnp.ones(WIDTH),
  }
  return init_state(params, tx)


def batch_at(step):
  rng = np.random.default_rng(step)
  return {"x": rng.normal(size=(8, WIDTH)).astype(np.float32)}


class Run:
  """Training on a mesh, set up as a job would do it."""

  def __init__(self, sizes, tx):
    self.mesh = sharding.make_mesh(sizes)
    abstract = jax.eval_shape(functools.partial(init, tx), KEY)
    self.abstract = sharding.place(self.mesh, abstract)
    where = sharding.state_sharding(self.mesh, abstract)
    self.init = jax.jit(functools.partial(init, tx), out_shardings=where)
    self.stage = {"target": jnp.ones(WIDTH)}
    whole = sharding.replicated(self.mesh)
    self.step = jax.jit(
      step_lib.make_train_step(quadratic, tx, ema_decay=0.9),
      in_shardings=(where, None, whole, whole),
      out_shardings=(where, whole),
      donate_argnums=0,
    )

  def train(self, state, first, last):
    for i in range(first, last):
      batch = sharding.shard_batch(batch_at(i), self.mesh)
      state, metrics = self.step(state, batch, KEY, self.stage)
    return state, metrics


def scalar_step(loss_fn, tx, ema_decay=0.9, learning_rate_fn=None):
  return jax.jit(step_lib.make_train_step(loss_fn, tx, ema_decay, learning_rate_fn))


class StepTest(parameterized.TestCase):
  def test_one_update_by_hand(self):
    slope = lambda stage, params, batch, key: (
      stage["a"] * jnp.sum(params["w"] * batch["g"]),
      {"first": params["w"][0]},
    )
    train_step = scalar_step(slope, optax.sgd(0.5), 0.99, lambda step: 0.1 * step)
    params = {"w": jnp.array([1.0, -2.0])}
    state = TrainState(
      step=jnp.array(7),
      params=params,
      ema_params={"w": jnp.array([10.0, 20.0])},
      opt_state=optax.sgd(0.5).init(params),
    )
    batch = {"g": jnp.array([3.0, 4.0])}
    state, metrics = train_step(state, batch, KEY, {"a": jnp.array(2.0)})
    # The gradient is (6, 8); the moving average decays by (1 + 7) / (10 + 7) = 8/17.
    w = np.array([1.0 - 0.5 * 6.0, -2.0 - 0.5 * 8.0])
    ema = 8 / 17 * np.array([10.0, 20.0]) + 9 / 17 * w
    self.assertEqual(state.step, 8)
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-6)
    np.testing.assert_allclose(state.ema_params["w"], ema, rtol=1e-6)
    expected = {"loss": -10.0, "grad_norm": 10.0, "learning_rate": 0.7, "first": 1.0}
    expected["grad_norms"] = [10.0]  # One norm per array.
    self.assertEqual(set(metrics), set(expected))
    for name, value in expected.items():
      np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)

  def test_the_average_warms_up_to_its_decay(self):
    decays = [float(step_lib.ema_decay_at(jnp.array(i), 0.99)) for i in (0, 8, 10**4)]
    np.testing.assert_allclose(decays, [1 / 10, 9 / 18, 0.99], rtol=1e-6)

  def test_a_short_run_has_an_average_that_forgot_its_start(self):
    count = lambda stage, params, batch, key: (-params["w"], {})
    train_step = scalar_step(count, optax.sgd(1.0), ema_decay=0.9999)
    state = init_state({"w": jnp.array(-1000.0)}, optax.sgd(1.0))
    for _ in range(100):
      state, _ = train_step(state, {}, KEY, None)
    self.assertEqual(state.params["w"], -900.0)
    self.assertBetween(float(state.ema_params["w"]), -920.0, -900.0)

  def test_an_adversarial_update_by_hand(self):
    @flax.struct.dataclass
    class Duel:
      """Networks of one number: w follows its slope, v its product with w's output."""

      critic_start: int = flax.struct.field(pytree_node=False)

      def gradients(self, params, critic_params, batch, key, step):
        grads = {"w": batch["g"] * critic_params["v"]}
        return jnp.float32(3.0), {"seen": step}, grads, params["w"]

      def critic_loss(self, critic_params, batch, decoded):
        return critic_params["v"] * decoded, {"v": critic_params["v"]}

    tx = optax.sgd(0.5)
    start = init_adversarial_state({"w": jnp.array(4.0)}, {"v": jnp.array(2.0)}, tx)
    train_step = jax.jit(step_lib.make_adversarial_step(tx, ema_decay=0.5))
    batch = {"g": jnp.array(3.0)}
    state, before = train_step(start, batch, KEY, Duel(critic_start=1))
    # The slope of w is 3 v = 6; v waits for step 1. The moving average decays by 1/10.
    self.assertEqual((state.params["w"], state.critic_params["v"]), (1.0, 2.0))
    self.assertEqual((before["critic_loss"], before["v"]), (0.0, 0.0))
    np.testing.assert_allclose(state.ema_params["w"], 0.1 * 4.0 + 0.9 * 1.0, rtol=1e-6)
    state, after = train_step(state, batch, KEY, Duel(critic_start=1))
    # v follows the w from before this update, 1.
    self.assertEqual((state.params["w"], state.critic_params["v"]), (-2.0, 1.5))
    self.assertEqual((after["critic_loss"], after["v"], after["seen"]), (2.0, 2.0, 1))
    self.assertEqual((after["loss"], after["grad_norm"], state.step), (3.0, 6.0, 2))

  def test_each_step_draws_its_own_noise(self):
    noise = lambda stage, params, batch, key: (params["w"] * jax.random.normal(key), {})
    train_step = scalar_step(noise, optax.sgd(0.0))
    start = init_state({"w": jnp.array(1.0)}, optax.sgd(0.0))
    state, first = train_step(start, {}, KEY, None)
    _, again = train_step(start, {}, KEY, None)
    _, second = train_step(state, {}, KEY, None)
    _, other = train_step(start, {}, jax.random.key(1), None)
    self.assertEqual(first["loss"], again["loss"])
    self.assertNotEqual(first["loss"], second["loss"])
    self.assertNotEqual(first["loss"], other["loss"])

  def test_a_stage_is_an_argument_and_not_a_constant(self):
    run = Run({}, optax.sgd(0.1))
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (batch_at(0), KEY, run.stage)
    )
    closed = jax.make_jaxpr(step_lib.make_train_step(quadratic, optax.sgd(0.1), 0.9))(
      run.abstract, *shapes
    )
    self.assertLess(sum(np.size(x) for x in closed.consts), 10)

  @pytest.mark.mesh
  def test_every_mesh_computes_the_same(self):
    # SGD, because Adam divides by small gradients and so amplifies rounding errors.
    results, split = [], []
    for sizes in ({"data": -1}, {"data": 2, "fsdp": 4}, {"data": 1, "fsdp": 8}):
      run = Run(sizes, optax.sgd(0.1))
      state, metrics = run.train(run.init(KEY), 0, 3)
      split.append(not state.params["kernel"].sharding.is_fully_replicated)
      results.append(jax.device_get((state, metrics)))
    self.assertEqual(split, [False, True, True])
    self.assertEqual(int(results[0][0].step), 3)
    for other in results[1:]:
      chex.assert_trees_all_close(other, results[0], atol=1e-5)

  @pytest.mark.mesh
  def test_resuming_is_not_visible(self):
    run = Run({"data": 2, "fsdp": 4}, optax.adam(1e-2))
    with (
      tempfile.TemporaryDirectory() as temporary,
      checkpoint.open_manager(pathlib.Path(temporary)) as manager,
    ):
      state, _ = run.train(run.init(KEY), 0, 2)
      checkpoint.save(manager, 2, state, {"seconds": 1.0})
      state, _ = run.train(state, 2, 4)  # Donates arrays that are still being written.
      straight = jax.device_get(state)
      checkpoint.finish(manager)

      restored = checkpoint.restore_latest(manager, run.abstract)
      assert restored is not None
      state, _ = run.train(restored[0], 2, 4)
    chex.assert_trees_all_equal(jax.device_get(state), straight)

  def test_clipping_limits_the_update_and_not_the_metric(self):
    steep = lambda stage, params, batch, key: (jnp.sum(100 * params["w"]), {})
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    state = init_state({"w": jnp.zeros(4)}, tx)
    state, metrics = scalar_step(steep, tx)(state, {}, KEY, None)
    np.testing.assert_allclose(metrics["grad_norm"], 200.0, rtol=1e-6)
    np.testing.assert_allclose(state.params["w"], -0.5, rtol=1e-6)

  def test_learning_brings_the_loss_down(self):
    tx, learning_rate_fn = optimizer.make_optimizer(60, 0.1, schedule="cosine")
    bowl = lambda stage, params, batch, key: (jnp.sum((params["w"] - 3.0) ** 2), {})
    train_step = scalar_step(bowl, tx, learning_rate_fn=learning_rate_fn)
    state = init_state({"w": jnp.zeros(2)}, tx)
    for _ in range(60):
      state, metrics = train_step(state, {}, KEY, None)
    self.assertLess(metrics["loss"], 0.1)


class AccumulateTest(parameterized.TestCase):
  @parameterized.parameters(2, 4)
  def test_parts_of_a_batch_give_the_update_of_the_whole(self, accumulate):
    def fit(stage, params, batch, key):
      del key
      x = batch["x"].reshape(len(batch["x"]), -1)
      error = jnp.tanh(x @ params["w"]) - batch["y"][:, None]
      return jnp.mean(error**2), {"largest": jnp.mean(jnp.max(error, axis=1))}

    rng = np.random.default_rng(1)
    batch = {"x": rng.normal(size=(8, 3, 2)), "y": rng.normal(size=8)}
    batch = jax.tree.map(jnp.float32, batch)
    tx = optax.sgd(0.5)
    state = init_state({"w": jnp.float32(rng.normal(size=(6, 5)))}, tx)
    whole = jax.jit(step_lib.make_train_step(fit, tx, 0.9))
    parts = jax.jit(step_lib.make_train_step(fit, tx, 0.9, accumulate=accumulate))
    chex.assert_trees_all_close(
      parts(state, batch, KEY, None), whole(state, batch, KEY, None), rtol=1e-6
    )

  def test_part_i_has_the_rows_i_and_every_kth_and_the_key_i(self):
    def seen(stage, params, batch, key):
      # Cubic in the part, so that no other split has the same mean.
      return params["w"] * jnp.sum(batch["x"]) ** 3 * jax.random.normal(key), {}

    state = init_state({"w": jnp.array(1.0)}, optax.sgd(1.0))
    parts = step_lib.make_train_step(seen, optax.sgd(1.0), 0.9, accumulate=2)
    batch = {"x": jnp.array([1.0, 2.0, 3.0, 5.0])}
    _, metrics = parts(state, batch, KEY, None)
    key = jax.random.fold_in(KEY, 0)
    noise = [float(jax.random.normal(jax.random.fold_in(key, i))) for i in (0, 1)]
    expected = (4.0**3 * noise[0] + 7.0**3 * noise[1]) / 2
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)

  def test_one_part_has_the_key_of_the_step(self):
    noise = lambda stage, params, batch, key: (params["w"] * jax.random.normal(key), {})
    state = init_state({"w": jnp.array(1.0)}, optax.sgd(1.0))
    _, metrics = scalar_step(noise, optax.sgd(1.0))(state, {}, KEY, None)
    expected = jax.random.normal(jax.random.fold_in(KEY, 0))
    self.assertEqual(metrics["loss"], expected)

  @parameterized.parameters(0, 1)
  def test_parts_train_the_discriminator_as_the_whole_does(self, critic_start):
    @flax.struct.dataclass
    class Duel:
      """A stage with losses that are means over rows, and distinct decoded rows."""

      critic_start: int = flax.struct.field(pytree_node=False)

      def gradients(self, params, critic_params, batch, key, step):
        decode = lambda params: batch["x"] * params["w"]
        loss = lambda params: jnp.mean((decode(params) * critic_params["v"] - 1) ** 2)
        value, grads = jax.value_and_grad(loss)(params)
        return value, {"step": step * 1.0}, grads, decode(params)

      def critic_loss(self, critic_params, batch, decoded):
        rows = jnp.tanh(critic_params["v"] * batch["x"]) * decoded**2
        return jnp.mean(rows), {"first": jnp.mean(rows)}

    tx = optax.sgd(0.5)
    params = {"w": jnp.array([0.5, -2.0])}, {"v": jnp.array([2.0, 0.3])}
    state = init_adversarial_state(*params, tx)
    rng = np.random.default_rng(2)
    batch = {"x": jnp.float32(rng.normal(size=(6, 2)))}
    stage = Duel(critic_start=critic_start)
    whole, parts = (
      jax.jit(step_lib.make_adversarial_step(tx, 0.5, accumulate=k))(
        state, batch, KEY, stage
      )
      for k in (1, 3)
    )
    chex.assert_trees_all_close(parts, whole, rtol=1e-6)
    moved = bool((parts[0].critic_params["v"] != state.critic_params["v"]).all())
    self.assertEqual(moved, critic_start == 0)

  @pytest.mark.mesh
  def test_rows_stay_on_their_devices(self):
    mesh = sharding.make_mesh({"data": 8})
    batch = {"x": jnp.ones((16, 5))}
    rows, whole = sharding.batch_sharding(mesh, batch), sharding.replicated(mesh)
    linear = lambda stage, params, batch, key: (jnp.mean(batch["x"] @ params["w"]), {})
    parts = step_lib.make_train_step(linear, optax.sgd(0.1), 0.9, accumulate=2)
    state = init_state({"w": jnp.ones(5)}, optax.sgd(0.1))
    compiled = jax.jit(parts, in_shardings=(whole, rows, whole, whole)).lower(
      state, batch, KEY, None
    )
    text = compiled.compile().as_text()
    for moving in ("all-to-all", "collective-permute", "all-gather"):
      self.assertNotIn(moving, text)
    self.assertIn("all-reduce", text)  # Reduces the gradient.

  @parameterized.parameters(
    (3, 64, 8, "accumulate=3 .* the 8 of 64 .* nearest: 2 or 4"),
    (16, 64, 8, "nearest: 8$"),
    (5, 6, 1, "the 6 of 6 .* nearest: 3 or 6"),
  )
  def test_parts_that_do_not_come_out_even_name_the_nearest(self, k, batch, n, text):
    step_lib.check_accumulate(1, batch, n)
    with self.assertRaisesRegex(UserError, text):
      step_lib.check_accumulate(k, batch, n)


if __name__ == "__main__":
  absltest.main()
