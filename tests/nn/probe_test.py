"""The first module whose output is not finite."""

from absl.testing import absltest, parameterized
from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.nn import probe


class Log(nn.Module):
  @nn.compact
  def __call__(self, x):
    return jnp.log(x)


class Block(nn.Module):
  wrap: str = ""

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(3, name="before")(x)
    if self.wrap == "remat":
      x = nn.remat(Log)(name="log")(x)
    elif self.wrap == "scan":
      step = lambda module, carry, _: (module(carry) * 0 + carry, None)
      scan = nn.scan(
        step,
        variable_broadcast="params",
        split_rngs={},
        length=2,
        check_constancy_invariants=False,  # Flax 0.12.12 refuses callbacks otherwise.
      )
      x, _ = scan(Log(name="log"), x, None)
    else:
      x = Log(name="log")(x)
    return nn.Dense(2, name="after")(x)


class Net(nn.Module):
  wrap: str = ""

  @nn.compact
  def __call__(self, x):
    x = Block(self.wrap, name="block_0")(x)
    return Block(self.wrap, name="block_1")(x)


def params_of(net, before):
  """The first block gives ones, whatever it is given, the second log of `before`."""
  params = net.init(jax.random.key(0), jnp.ones((4, 3)))["params"]
  params = jax.tree.map(jnp.zeros_like, params)
  for name, value in (("block_0", 1.0), ("block_1", before)):
    params[name]["before"]["bias"] = jnp.full(3, value)
  return params


class ProbeTest(parameterized.TestCase):
  @parameterized.parameters("", "remat", "scan")
  def test_it_is_the_innermost_that_came_first(self, wrap):
    net = Net(wrap)
    find = probe.make_probe(lambda params, x: net.apply({"params": params}, x))
    x = jnp.ones((4, 3))
    self.assertEqual(find(params_of(net, 2.0), x), "")
    self.assertRegex(find(params_of(net, -1.0), x), r"block_1/log \(\w*Log\)")
    bad = params_of(net, -1.0)
    bad["block_0"]["after"]["kernel"] += jnp.nan
    self.assertEqual(find(bad, x), "block_0/after (Dense)")
    # What was found before is forgotten.
    self.assertEqual(find(params_of(net, 2.0), x), "")


if __name__ == "__main__":
  absltest.main()
