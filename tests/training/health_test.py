"""Updates that are not finite: never applied, reported, and then handled by policy."""

import functools
import math

from absl.testing import absltest, parameterized
import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lamd_jax.training import health, optimizer, reader, sharding
from lamd_jax.training import step as step_lib
from lamd_jax.training.state import init_adversarial_state, init_state
from lamd_jax.types import UserError

KEY = jax.random.key(0)
TX = optax.adam(1e-2)
PARAMS = {
  "a": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
  "b": {"c": {"scale": jnp.full(3, 4.0)}},
}


def loss_fn(stage, params, batch, key):
  hidden = batch["x"] @ params["a"]["kernel"] + params["a"]["bias"]
  # Where `root` is 0, the root has an infinite slope but a finite value.
  root = jnp.sum(jnp.sqrt(params["b"]["c"]["scale"] * batch["root"]))
  return jnp.mean(jnp.square(hidden)) + root + jax.random.normal(key), {}


def batch_at(i):
  rng = np.random.default_rng(i)
  return {"x": rng.normal(size=(4, 2)).astype(np.float32), "root": np.float32(1)}


def bad_batch(kind):
  batch = batch_at(99)
  if kind == "loss":
    batch["x"][1, 0] = np.nan
  else:  # A zero times the infinite slope of the root is NaN.
    batch["root"] = np.float32(0)
  return batch


train_step = jax.jit(step_lib.make_train_step(loss_fn, TX, ema_decay=0.9))


def trained(batches):
  """Returns state and metrics of every step; for None only the step is counted."""
  state, seen = init_state(PARAMS, TX), []
  for batch in batches:
    if batch is None:
      state = state.replace(step=state.step + 1)
      continue
    state, metrics = train_step(state, batch, KEY, None)
    seen.append(jax.device_get(metrics))
  return state, seen


class GuardTest(parameterized.TestCase):
  @parameterized.parameters("loss", "gradient")
  def test_a_run_with_a_bad_update_is_one_that_never_saw_it(self, kind):
    good = [batch_at(i) for i in range(5)]
    with_bad, metrics = trained([*good[:3], bad_batch(kind), *good[3:]])
    without, _ = trained([*good[:3], None, *good[3:]])
    self.assertFalse(np.isfinite(metrics[3]["grad_norm"]))
    self.assertEqual(np.isfinite(metrics[3]["loss"]), kind == "gradient")
    chex.assert_trees_all_equal(with_bad, without)
    chex.assert_tree_all_finite(with_bad)

  @parameterized.parameters("adam", "muon")
  def test_a_bad_update_leaves_the_learning_rate_where_it_was(self, name):
    tx, rate_fn = optimizer.make_optimizer(9, 0.1, optimizer=name, schedule="linear")
    step = jax.jit(step_lib.make_train_step(loss_fn, tx, 0.9, rate_fn))
    state, seen = init_state(PARAMS, tx), []
    for batch in (batch_at(0), bad_batch("loss"), batch_at(1), batch_at(2)):
      state, metrics = step(state, batch, KEY, None)
      seen.append(float(metrics["learning_rate"]))
    # The skipped update logs the rate it would have used; the next one uses it.
    expected = [0.1 * (1 - i / 9) for i in (0, 1, 1, 2)]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)

  def test_the_norms_of_the_arrays_make_the_norm_of_the_gradient(self):
    batch = batch_at(1)
    grads = jax.grad(loss_fn, argnums=1, has_aux=True)(None, PARAMS, batch, KEY)[0]
    _, (metrics,) = trained([batch])
    each = [np.linalg.norm(np.ravel(x)) for x in jax.tree.leaves(grads)]
    np.testing.assert_allclose(metrics["grad_norms"], each, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-6)

  def test_autoencoder_and_discriminator_are_guarded_each_for_itself(self):
    @flax.struct.dataclass
    class Duel:
      critic_start: int = flax.struct.field(pytree_node=False, default=0)

      def gradients(self, params, critic_params, batch, key, step):
        return batch["g"], {}, {"w": batch["g"]}, params["w"]

      def critic_loss(self, critic_params, batch, decoded):
        return critic_params["net"]["v"] * batch["c"], {}

    start = init_adversarial_state(
      {"w": jnp.array(1.0)}, {"net": {"v": jnp.array(2.0)}}, TX
    )
    update = jax.jit(step_lib.make_adversarial_step(TX, ema_decay=0.9))
    for g, c, named in ((jnp.nan, 1.0, "loss"), (1.0, jnp.inf, "critic_loss")):
      batch = {"g": jnp.array(g), "c": jnp.array(c)}
      state, metrics = update(start, batch, KEY, Duel())
      changed = lambda name, now=state: (
        not np.array_equal(
          jax.tree.leaves(getattr(now, name))[0],
          jax.tree.leaves(getattr(start, name))[0],
        )
      )
      is_critic = named == "critic_loss"
      self.assertEqual(changed("params"), is_critic)
      self.assertEqual(changed("ema_params"), is_critic)
      self.assertEqual(changed("opt_state"), is_critic)
      self.assertEqual(changed("critic_params"), not is_critic)
      self.assertEqual(changed("critic_opt_state"), not is_critic)
      self.assertEqual(state.step, 1)
      modules = {"loss": [""], "critic_loss": ["net"]}
      found = health.find_bad(7, jax.device_get(metrics), modules)
      assert found is not None
      self.assertStartsWith(found.what, f"{named} is ")


def watch(policy, locate=lambda step: ""):
  return health.Watch("dmg", policy, init_state(PARAMS, TX), locate)


@functools.cache
def metrics_of(kind):
  """Returns the metrics of a real update, on the host."""
  return trained([batch_at(0) if kind == "good" else bad_batch(kind)])[1][0]


def window(*kinds, first=1):
  return [(first + i, metrics_of(kind)) for i, kind in enumerate(kinds)]


class LocatorTest(absltest.TestCase):
  """The loss that is computed again is the loss of the update."""

  def setUp(self):
    super().setUp()

    def open_batches(start_step, **options):
      return Batches(start_step)

    self.reader = self.enterContext(reader.Reader(open_batches, 4, passed_over=3))
    mesh = sharding.make_mesh({"context": -1})  # Any batch size will do.
    compiled = jax.jit(loss_fn)

    def find_module(stage, params, batch, key):
      self.assertEqual(stage, "stage")
      return str(float(compiled(None, params, batch, key)[0]))

    self.locate = health.Locator(find_module, "stage", self.reader, mesh, KEY)

  def test_it_takes_the_batch_and_the_key_of_the_update(self):
    state = init_state(PARAMS, TX).replace(step=jnp.array(4, jnp.int32))
    for step in (5, 6, 7):
      params = state.params
      state, metrics = train_step(state, next(self.reader), KEY, None)
      again = float(self.locate(step, params))
      np.testing.assert_allclose(again, metrics["loss"], rtol=1e-6)
      self.assertEqual(self.reader.step, step)

  def test_a_watch_asks_it_with_the_parameters_it_is_given(self):
    for _ in range(3):
      next(self.reader)
    looking = watch("stop", self.locate)
    expected = self.locate(6, PARAMS)
    self.assertNotEqual(expected, self.locate(5, PARAMS))
    with self.assertRaisesRegex(UserError, f"step 6 of dmg, first in {expected}, "):
      looking.look(window("good", "loss", first=5), PARAMS)


class Batches:
  """Batches of `batch_at`, by their numbers."""

  def __init__(self, start_step):
    self.number = start_step

  def __next__(self):
    self.number += 1
    # Each entry has rows, as a batch to be placed on devices does.
    return {"x": batch_at(self.number - 1)["x"], "root": np.ones((4, 1), np.float32)}

  def close(self):
    pass


class WatchTest(parameterized.TestCase):
  def test_shapes_of_a_state_name_the_same_modules(self):
    shapes = jax.eval_shape(lambda: init_state(PARAMS, TX))
    looking = health.Watch("dmg", "stop", shapes, lambda step: "")
    looking.saw(3, np.array([5]))
    with self.assertRaisesRegex(UserError, "step 3 of dmg, gradient of b/c, examples"):
      looking.look(window("gradient", first=3))

  def test_the_first_bad_step_of_a_window_is_named_with_its_module_and_examples(self):
    asked = []
    locate = lambda step: asked.append(step) or "encoder/conv (Conv)"
    looking = watch("stop", locate)
    for step in range(11, 15):
      looking.saw(step, np.array([step, 100 + step]))
    with self.assertRaises(UserError) as caught:
      looking.look(window("good", "loss", "loss", "good", first=11))
    text = str(caught.exception)
    self.assertNotIn("\n", text)
    self.assertIn(
      "loss is nan at step 12 of dmg, first in encoder/conv (Conv), examples 12 112;",
      text,
    )
    self.assertEqual(asked, [12])

  def test_a_gradient_that_is_not_finite_is_named_by_its_modules_alone(self):
    looking = watch("stop", lambda step: self.fail("the loss is finite"))
    looking.saw(3, np.array([5]))
    with self.assertRaisesRegex(
      UserError, r"grad_norm is (inf|nan) at step 3 of dmg, gradient of b/c, examples 5"
    ):
      looking.look(window("gradient", first=3))

  def test_examples_are_kept_until_their_update_is_looked_at(self):
    looking = watch("stop")
    for step in (1, 2, 3):
      looking.saw(step, np.array([40 + step]))
    self.assertIsNone(looking.look(window("good", "good")))  # The third is under way.
    with self.assertRaisesRegex(UserError, "at step 3 of dmg, .*, examples 43;"):
      looking.look(window("loss", first=3))

  def test_large_gradients_whose_squares_overflow_are_all_named(self):
    metrics = {"loss": 1.0, "grad_norm": math.inf, "grad_norms": np.array([1e19] * 3)}
    found = health.find_bad(4, metrics, {"loss": ["a", "a", "b/c"]})
    assert found is not None
    self.assertEqual(found.modules, ("a", "b/c"))

  def test_finite_numbers_pass(self):
    metrics = {"loss": 1e30, "grad_norm": 0.0, "other": math.nan, "grad_norms": 0}
    self.assertIsNone(health.find_bad(4, metrics, {"loss": []}))
    self.assertIsNone(watch("stop").look(window("good", "good")))

  def test_skipping_warns_and_ends_after_ten_in_a_row(self):
    looking = watch("skip")
    with self.assertLogs("absl", "WARNING") as logs:
      self.assertIsNone(looking.look(window(*["loss"] * 9, "good", "loss")))
      self.assertIsNone(looking.look(window(*["loss"] * 8, first=12)))
    self.assertLen(logs.output, 2)
    self.assertRegex(logs.output[0], "skipped, and 9 more since: loss .* at step 1 ")
    with self.assertRaisesRegex(UserError, "10 updates in a row .* last 20;"):
      looking.look(window("loss", first=20))

  def test_going_back_ends_after_three_times_without_getting_further(self):
    looking = watch("rollback")
    with self.assertLogs("absl", "WARNING") as logs:
      self.assertIsNone(looking.look(window("good")))
      for bad in (5, 5, 3, 8, 8, 8):  # Past step 5 it counts anew.
        self.assertEqual(looking.look(window("good", "loss", first=bad - 1)), bad)
    self.assertLen(logs.output, 6)
    with self.assertRaisesRegex(UserError, "no way past step 8 with 3 rollbacks"):
      looking.look(window("loss", first=7))

  def test_an_unknown_policy_is_refused(self):
    with self.assertRaisesRegex(UserError, "'ignore'; known: stop, skip, rollback"):
      health.check_policy("ignore")


class SpikeTest(parameterized.TestCase):
  def looks(self, losses):
    looking = watch("stop")
    for i, loss in enumerate(losses):
      looking.look([(10 * i + 10, {"loss": loss, "grad_norm": 1.0})])

  def test_a_loss_three_times_the_median_is_warned_of_once(self):
    with self.assertLogs("absl", "WARNING") as logs:
      self.looks([1.0, 2.0, 3.0] * 3 + [6.5, 6.5, 2.0])
    self.assertLen(logs.output, 1)
    self.assertRegex(logs.output[0], "step 100 of dmg: 6.5, 3.2 times .* of the 9 ")

  @parameterized.parameters(
    dict(losses=[1.0, 2.0, 3.0] * 3 + [5.5]),  # Not enough above.
    dict(losses=[1.0, 9.0]),  # Too early to say.
    dict(losses=[-0.1, 0.1, -0.2] * 4 + [50.0]),  # Around zero.
  )
  def test_nothing_is_said_of(self, losses):
    with self.assertNoLogs("absl", "WARNING"):
      self.looks(losses)


if __name__ == "__main__":
  absltest.main()
