"""Every stage of every system computes the same on every mesh: training and sampling.

Eight devices against one, with parameters that are zero nowhere and, however small,
split as the large ones of real networks are.
"""

import functools
import pathlib
import tempfile
from typing import NamedTuple
from unittest import mock

from absl.testing import absltest, parameterized
import jax
from jax.sharding import AxisType
import numpy as np
import optax
import pytest
import tiny_config
from tiny_lamd import filled
import tiny_vdm

from lamd_jax.systems import stage as stage_lib
from lamd_jax.systems import table
from lamd_jax.training import checkpoint, optimizer, sharding
from lamd_jax.training import step as step_lib
from lamd_jax.training.state import init_adversarial_state, init_state

pytestmark = pytest.mark.mesh
KEY = jax.random.key(5)
F = 2
MESHES = {
  "data": {"data": 8},
  "fsdp": {"fsdp": 8},
  "tensor": {"data": 2, "fsdp": 2, "tensor": 2},
  "context": {"data": 4, "context": 2},
  "three": {"fsdp": 2, "tensor": 2, "context": 2},
}
STAGES = ("mcd_vae", "dmg", "base")


def lamd():
  config = tiny_config.get_config()
  config.data.num_frames = F
  config.mcd_vae.adversary.start = 0
  # Eight channels at least, so that all can be split over eight.
  config.mcd_vae.model.update(
    content_channels=8,
    encoder_channels=(8,),
    motion_encoder_channels=(8,),
    decoder_channels=(8,),
    decoder_blocks=(0,),
  )
  config.mcd_vae.adversary.model.update(channels=(8,), frame_strides=())
  config.dmg.model.update(attention_factors=(1,), head_channels=2)
  config.sample.num_steps = 2
  return config


def vdm():
  config = tiny_vdm.get_config()
  config.data.num_frames = F
  config.base.model.update(
    model_channels=8,
    attention_factors=(1,),
    head_channels=2,
    embedding_channels=8,
    max_frames=F,
  )
  return config


def batch_at(name, step=0):
  rng = np.random.default_rng(step)
  draw = lambda *shape: rng.integers(0, 256, (*shape, 8, 8, 3), np.uint8)
  batch = {"video": draw(8, F)}
  if name == "base":
    batch |= {"images": draw(8, 2), "label": rng.integers(0, 5, 8, np.int32)}
    batch["image_label"] = rng.integers(0, 5, (8, 2), np.int32)
  return batch


@functools.cache
def stage_and_params(name):
  """A stage with parameters for it, on the host."""
  config, earlier = (vdm() if name == "base" else lamd()), {}
  if name == "dmg":
    earlier["mcd_vae"] = stage_lib.Part(stage_and_params("mcd_vae")[1][0])
  stage = table.make_stage(config, name, earlier)
  trees = [jax.eval_shape(stage.init, KEY, batch_at(name))]
  if isinstance(stage, stage_lib.AdversarialStage):
    trees.append(jax.eval_shape(stage.init_critic, KEY, batch_at(name)))
  return stage, [jax.device_get(filled(tree, i)) for i, tree in enumerate(trees)]


class Run(NamedTuple):
  """A stage laid out on a mesh as the jobs do."""

  mesh: jax.sharding.Mesh
  stage: stage_lib.Stage
  state: object
  step: object
  sample: object


@functools.cache
def run(name, mesh_name):
  if mesh_name == "one":
    mesh = jax.make_mesh(
      (1,) * 4, sharding.AXES, (AxisType.Auto,) * 4, devices=jax.devices()[:1]
    )
  else:
    mesh = sharding.make_mesh(MESHES[mesh_name])
  stage, params = stage_and_params(name)
  tx, _ = optimizer.make_optimizer(10, 1e-3)
  init, make_step = init_state, step_lib.make_adversarial_step
  if len(params) > 1:
    init = init_adversarial_state
  else:
    make_step = functools.partial(
      step_lib.make_train_step,
      lambda stage, params, batch, key: stage.loss(params, batch, key, train=True),
    )
  state = jax.jit(functools.partial(init, tx=tx))(*params)
  where = sharding.state_sharding(mesh, (state, stage))
  state, stage = sharding.put((state, stage), where)
  everywhere = sharding.replicated(mesh)
  step = jax.jit(
    make_step(tx, 0.9),
    in_shardings=(where[0], None, everywhere, where[1]),
    out_shardings=(where[0], everywhere),
  )
  sample = jax.jit(lambda stage, *args: stage.sample(*args), out_shardings=everywhere)
  return Run(mesh, stage, state, step, sample)


def train(of, name, state, number):
  batch = sharding.shard_batch(batch_at(name, number), of.mesh)
  return of.step(state, batch, KEY, of.stage)


@functools.cache
def results(name, mesh_name):
  """Metrics and mean gradients of a step, and samples; on the host."""
  of = run(name, mesh_name)
  state, metrics = train(of, name, of.state, 0)
  moments = [optax.tree.get(state.opt_state, "mu")]
  if hasattr(state, "critic_opt_state"):
    moments.append(optax.tree.get(state.critic_opt_state, "mu"))
  batch = {k: x for k, x in batch_at(name).items() if "image" not in k}
  batch = sharding.put_batch(batch, of.mesh)
  samples = of.sample(of.stage, of.state.params, batch, KEY)
  return jax.device_get((metrics, moments, samples))


def axes_used(tree):
  """The axes of the mesh that split an array of the tree."""
  specs = [x.sharding.spec for x in jax.tree.leaves(tree)]
  return {axis for axis in sharding.AXES if axis in str(specs)}


class MeshesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    # Tiny networks are split like large ones.
    self.enterContext(mock.patch.object(sharding, "MIN_BYTES_TO_SPLIT", 0))

  def assert_close(self, found, expected, what):
    """That an error is small beside the whole of a tree, in every array."""
    size = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    error = jax.tree.map(lambda a, b: np.abs(a - b).max() / size, found, expected)
    self.assertLess(max(jax.tree.leaves(error)), 1e-5, (what, error))

  def check(self, name, mesh_name):
    one, other = results(name, "one"), results(name, mesh_name)
    self.assertIn("grad_norm", one[0])
    for key, value in one[0].items():
      # Of a vector of norms those count that are not nearly nothing.
      close = dict(rtol=1e-5, atol=1e-6 * np.max(value) if np.ndim(value) else 0)
      np.testing.assert_allclose(other[0][key], value, **close, err_msg=key)
    for found, expected in zip(other[1], one[1], strict=True):
      self.assert_close(found, expected, "gradient")
    self.assert_close(other[2], one[2], "samples")
    self.assertGreater(one[2].std(), 0.01)

    of, sizes = run(name, mesh_name), MESHES[mesh_name]
    axes = {axis for axis in ("fsdp", "tensor") if sizes.get(axis, 1) > 1}
    frozen = [of.stage] if name == "dmg" else []
    for tree in (of.state.params, of.state.ema_params, of.state.opt_state, *frozen):
      self.assertEqual(axes_used(tree), axes)

  def test_an_adversarial_step_and_a_sample_are_those_of_one_device(self):
    self.check("mcd_vae", "tensor")

  @parameterized.product(name=STAGES, mesh_name=tuple(MESHES))
  @pytest.mark.slow
  def test_every_stage_is_that_of_one_device_on_every_mesh(self, name, mesh_name):
    self.check(name, mesh_name)

  @pytest.mark.slow
  def test_going_on_on_another_mesh_is_not_visible(self):
    name = "dmg"
    here, there = run(name, "tensor"), run(name, "context")
    state = here.state
    for i in range(2):
      state, _ = train(here, name, state, i)
    with (
      tempfile.TemporaryDirectory() as temporary,
      checkpoint.open_manager(pathlib.Path(temporary)) as manager,
    ):
      checkpoint.save(manager, 2, state, {})
      checkpoint.finish(manager)
      placed = sharding.place(there.mesh, jax.eval_shape(lambda: here.state))
      restored = checkpoint.restore_latest(manager, placed)
    assert restored is not None
    self.assertEqual(axes_used(restored[0].params), set())
    straight, expected = train(here, name, state, 2)
    moved, found = train(there, name, restored[0], 2)
    self.assertEqual(int(moved.step), 3)
    for key in expected:
      close = dict(rtol=1e-5, atol=1e-6 * np.max(expected[key]))
      np.testing.assert_allclose(found[key], expected[key], **close, err_msg=key)
    self.assert_close(*jax.device_get((moved.params, straight.params)), "parameters")


if __name__ == "__main__":
  absltest.main()
