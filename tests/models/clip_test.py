"""CLIP beside OpenAI's, with random weights in its layout.

The reference was written by tests/benchmarks/feature_networks_reference.py.
"""

import functools
import pathlib

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import random_weights

from lamd_jax.models import clip
from lamd_jax.types import UserError

REFERENCE = pathlib.Path(__file__).with_name("clip_reference.npz")
END = 49  # The last of the vocabulary.


@functools.cache
def reference():
  with np.load(REFERENCE) as file:
    return dict(file)


@functools.cache
def arrays():
  return random_weights.random_weights(reference()["shapes"])


@functools.cache
def network():
  return clip.from_openai(arrays())


@functools.partial(jax.jit, static_argnames="method")
def run(params, x, method):
  return network()[0].apply(params, x, method=method)


def encode(x, method):
  return np.asarray(run(network()[1], jnp.asarray(x), method))


def random_images(seed=0):
  return np.random.default_rng(seed).normal(size=(3, 24, 24, 3)).astype(np.float32)


class ClipTest(parameterized.TestCase):
  def test_sizes_are_read_from_the_arrays(self):
    self.assertEqual(
      network()[0],
      clip.CLIP(
        image_size=24,
        text_length=77,
        image=clip.ImageEncoder(patch_size=8, width=128, num_blocks=2, features=24),
        text=clip.TextEncoder(vocabulary=50, width=192, num_blocks=3, features=24),
      ),
    )

  def test_vit_b_32_has_its_published_size(self):
    vit = clip.CLIP(
      image_size=224,
      text_length=77,
      image=clip.ImageEncoder(patch_size=32, width=768, num_blocks=12, features=512),
      text=clip.TextEncoder(vocabulary=49408, width=512, num_blocks=12, features=512),
    )
    both = lambda module, x, tokens: (
      module.encode_image(x),
      module.encode_text(tokens),
    )
    init = lambda key, *inputs: vit.init(key, *inputs, method=both)
    inputs = jnp.zeros((1, 224, 224, 3)), jnp.zeros((1, 77), jnp.int32)
    variables = jax.eval_shape(init, jax.random.key(0), *inputs)
    # "Model parameters: 151,277,313" in OpenAI's notebook; one is the temperature.
    count = sum(x.size for x in jax.tree.leaves(variables))
    self.assertEqual(count + 1, 151_277_313)

  def test_features_of_texts_are_those_of_the_original(self):
    # Those of images are compared in frame_features_test.py, from the frames on.
    y, expected = (
      encode(reference()["tokens"], "encode_text"),
      reference()["text_features"],
    )
    self.assertLess(np.abs(y - expected).max() / np.abs(expected).max(), 1e-5)

  def test_what_comes_after_the_end_of_a_text_changes_nothing(self):
    tokens = reference()["tokens"]
    end = tokens.argmax(axis=1)
    self.assertEqual(tokens[0, end[0]], END)
    later = np.arange(tokens.shape[1]) > end[:, None]
    y, moved = (encode(x, "encode_text") for x in (tokens, np.where(later, 7, tokens)))
    np.testing.assert_allclose(moved, y, atol=1e-5)

  def test_every_token_before_the_end_matters(self):
    tokens = reference()["tokens"]
    for place in (0, 1, 4):
      moved = tokens.copy()
      moved[0, place] = 7
      by = np.abs(encode(moved, "encode_text") - encode(tokens, "encode_text"))
      self.assertGreater(by[0].max(), 1e-3)
      np.testing.assert_allclose(by[1:], 0, atol=1e-5)

  def test_images_do_not_see_each_other(self):
    x = random_images()
    moved = np.concatenate([x[:2], -x[2:]])
    by = np.abs(encode(moved, "encode_image") - encode(x, "encode_image")).max(axis=1)
    self.assertGreater(by[2], 0.1)
    np.testing.assert_allclose(by[:2], 0, atol=1e-5)

  def test_weights_in_half_precision_are_read(self):
    half = {k: v.astype(np.float16) for k, v in arrays().items()}
    _, params = clip.from_openai(half)
    self.assertEqual({x.dtype for x in jax.tree.leaves(params)}, {jnp.dtype("float32")})

  @parameterized.parameters(
    "visual.class_embedding",  # A residual network has none.
    "text_projection",
    "visual.transformer.resblocks.0.mlp.c_fc.bias",
    "transformer.resblocks.2.ln_1.weight",
  )
  def test_a_missing_array_is_named(self, name):
    some = {k: v for k, v in arrays().items() if k != name}
    with self.assertRaisesRegex(UserError, f"{name} is missing among .*ViT-B/32"):
      clip.from_openai(some)


if __name__ == "__main__":
  absltest.main()
