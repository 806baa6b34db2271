"""Rematerialisation: same parameters, same results, less memory, as much as it says."""

import functools

from absl.testing import absltest, parameterized
import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.experiment import program
from lamd_jax.models.mcd_vae import MCDVAE
from lamd_jax.models.unet import UNet
from lamd_jax.models.unet3d import UNet3D
from lamd_jax.nn.blocks import ResBlock
from lamd_jax.nn.remat import POLICIES, call_block
from lamd_jax.training.flops import count_flops

KEY = jax.random.key(5)
SIDE, TOKENS = 16, 5


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def unet(remat):
  module = UNet(8, (1,), 0, (1,), head_channels=4, dropout_rate=0.5, remat=remat)
  x, cond = normal(2, SIDE, SIDE, 3), normal(2, TOKENS, 6, seed=2)
  mask = jnp.array([[True] * 4 + [False]] * 2)
  return module, (x, jnp.array([3.0, 700.0]), cond, mask), {"train": True}


def unet3d(remat):
  module = UNet3D(
    4,
    (1,),
    num_res_blocks=0,
    attention_factors=(1,),
    head_channels=4,
    embedding_channels=6,
    num_embedding_layers=2,
    max_frames=3,
    dropout_rate=0.5,
    remat=remat,
  )
  args = normal(2, 5, 4, 6, 3), jnp.array([-1.0, 2.0]), normal(2, 6, seed=2)
  return module, args, {"train": True, "num_images": 2}


def mcd_vae(remat):
  module = MCDVAE(
    3,
    motion_channels=2,
    content_channels=5,
    encoder_channels=(4, 6),
    motion_encoder_channels=(4, 8),
    decoder_channels=(4, 8),
    encoder_blocks=0,
    decoder_blocks=(1, 0),
    kernels=((1, 3, 3), (3, 1, 1)),
    remat=remat,
  )
  return module, (normal(2, 3, 4, 6, 3), KEY), {}


NETWORKS = {"unet": unet, "unet3d": unet3d, "mcd_vae": mcd_vae}


class Stack(nn.Module):
  """Residual blocks, deep enough that what they keep is most of the memory."""

  remat: str

  @nn.compact
  def __call__(self, x):
    for i in range(8):
      block = ResBlock(16, ((3, 3), (3, 3)), name=f"block_{i}")
      x = call_block(block, self.remat, x)
    return x


def fill(shapes):
  """Normal numbers for every parameter, so that no branch is zero."""
  rng = np.random.default_rng(3)
  return jax.tree.map(lambda s: jnp.float32(rng.normal(0.0, 0.3, s.shape)), shapes)


def loss_fn(module, args, kwargs):
  def loss(params):
    rngs = {"dropout": jax.random.fold_in(KEY, 1)}
    out = module.apply({"params": params}, *args, rngs=rngs, **kwargs)
    return jnp.mean(jnp.square(jax.tree.leaves(out)[0] - 1.0))

  return loss


def init_of(name, remat):
  module, args, kwargs = NETWORKS[name](remat)
  init = functools.partial(module.init, **kwargs)
  return lambda: init({"params": KEY, "dropout": KEY}, *args)["params"]


@functools.cache
def found(name, remat):
  """Loss and gradients at parameters that are zero nowhere."""
  module, args, kwargs = NETWORKS[name](remat)
  params = fill(jax.eval_shape(init_of(name, remat)))
  return jax.jit(jax.value_and_grad(loss_fn(module, args, kwargs)))(params)


@pytest.mark.slow
class RematTest(parameterized.TestCase):
  # Not every network with every policy: compiling takes minutes.
  @parameterized.parameters(
    ("unet", "elementwise"), ("unet3d", "block"), ("mcd_vae", "elementwise"),
  )  # fmt: skip
  def test_loss_and_gradients_are_those_without(self, name, remat):
    loss, grads = found(name, "none")
    loss2, grads2 = found(name, remat)
    np.testing.assert_allclose(loss2, loss, rtol=1e-6)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(grads))
    chex.assert_trees_all_close(grads2, grads, rtol=1e-6, atol=1e-6 * scale)

  def test_fresh_parameters_are_the_same(self):
    none, block = (jax.jit(init_of("unet", x))() for x in ("none", "block"))
    chex.assert_trees_all_equal(block, none)

  @parameterized.parameters("unet", "unet3d", "stack")
  def test_each_policy_keeps_less_than_the_one_before(self, name):
    sizes = []
    for remat in POLICIES:
      if name == "stack":
        module, args, kwargs = Stack(remat), (normal(4, 8, 8, 16),), {}
        params = jax.eval_shape(module.init, KEY, *args)["params"]
      else:
        module, args, kwargs = NETWORKS[name](remat)
        params = jax.eval_shape(init_of(name, remat))
      loss = loss_fn(module, args, kwargs)
      # What the backward pass is made of: the leaves are what the forward pass left.
      backward = jax.eval_shape(lambda params, f=loss: jax.vjp(f, params)[1], params)
      sizes.append(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(backward)))
    none, elementwise, block = sizes
    self.assertLess(elementwise, 0.9 * none)
    self.assertLess(block, 0.9 * elementwise)

  def test_compiled_programs_need_less_memory(self):
    # On CPU the compiler undoes part of what "block" saves.
    sizes = []
    for remat in POLICIES:
      module, x = Stack(remat), normal(4, 32, 32, 16)
      params = jax.eval_shape(module.init, KEY, x)["params"]
      lowered = jax.jit(jax.grad(loss_fn(module, (x,), {}))).lower(params)
      memory = lowered.compile(program.MEMORY_FIRST["cpu"]).memory_analysis()
      sizes.append(memory.temp_size_in_bytes)
    none, elementwise, block = sizes
    self.assertLess(elementwise, 0.9 * none)
    self.assertLess(block, 0.9 * none, sizes)

  @parameterized.parameters(*NETWORKS)
  def test_elementwise_repeats_attention_alone_and_block_all_of_a_block(self, name):
    flops, trees = {}, []
    for remat in POLICIES:
      module, args, kwargs = NETWORKS[name](remat)
      loss = loss_fn(module, args, kwargs)
      params = jax.eval_shape(init_of(name, remat))
      trees.append(params)
      flops[remat] = count_flops(jax.value_and_grad(loss), params)
      forward = count_flops(loss, params)
    chex.assert_trees_all_equal_shapes(*trees)
    by_elementwise = flops["elementwise"] - flops["none"]
    by_block = flops["block"] - flops["none"]
    self.assertBetween(by_block / forward, 0.2, 1.0)
    self.assertLess(by_elementwise, by_block)
    if name == "unet":  # 2 transformers: scores, and what they weigh, of 8 channels.
      pixels = SIDE**2
      expected = 2 * 2 * (2 * 2 * pixels * (pixels + TOKENS) * 8)
      self.assertEqual(by_elementwise, expected)


if __name__ == "__main__":
  absltest.main()
