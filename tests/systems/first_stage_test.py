"""A frozen autoencoder: normalized latents, and long videos decoded in chunks.

The network here repeats frames and adds up its neighbours in time, so what it looks
at is known: one latent step on each side.
"""

from typing import NamedTuple

from absl.testing import absltest, parameterized
import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.systems import first_stage
from lamd_jax.types import UserError

KEY = jax.random.key(2)


class Normal(NamedTuple):
  mean: jax.Array

  def sample(self, key):
    return self.mean + jax.random.normal(key, self.mean.shape)


class Network(nn.Module):
  """Every second frame, weighted; and back, with the latent steps next to each."""

  def setup(self):
    self.weight = self.param("weight", nn.initializers.constant(2.0), ())

  def encode(self, video):
    return Normal(self.weight * video[:, ::2])

  def decode(self, z):
    z = jnp.pad(z, ((0, 0), (1, 1), *[(0, 0)] * 3))
    z = z[:, 1:-1] + 0.25 * z[:, :-2] - 0.5 * z[:, 2:]
    return jnp.repeat(z / self.weight, 2, axis=1)


STAGE = first_stage.FirstStage(
  model=Network(),
  frames_per_latent=2,
  params={"weight": jnp.float32(2.0)},
  shift=jnp.array([1.0, 0.0, -1.0]),
  scale=jnp.array([0.5, 1.0, 4.0]),
)
VIDEO = jax.random.normal(KEY, (2, 22, 3, 4, 3))


class FirstStageTest(parameterized.TestCase):
  def test_latents_are_normalized_and_decoding_undoes_it(self):
    z = STAGE.encode(VIDEO)
    raw = 2.0 * VIDEO[:, ::2]
    chex.assert_trees_all_close(z * STAGE.scale + STAGE.shift, raw, atol=1e-5)
    expected = Network().apply({"params": STAGE.params}, raw, method="decode")
    chex.assert_trees_all_close(STAGE.decode(z), expected, atol=1e-5)

  def test_with_a_key_the_posterior_is_drawn_from(self):
    drawn = (STAGE.encode(VIDEO, KEY) - STAGE.encode(VIDEO)) * STAGE.scale
    noise = jax.random.normal(KEY, drawn.shape)
    chex.assert_trees_all_close(drawn, noise, atol=1e-5)

  @parameterized.parameters((3, 1), (4, 1), (5, 2), (11, 1), (50, 3))
  def test_chunks_with_enough_context_are_the_whole(self, chunk, overlap):
    z = STAGE.encode(VIDEO)
    chunks = list(STAGE.decode_chunks(z, chunk=chunk, overlap=overlap))
    self.assertLessEqual(max(x.shape[1] for x in chunks), 2 * chunk)
    whole = np.concatenate(chunks, axis=1)
    chex.assert_trees_all_close(whole, np.asarray(STAGE.decode(z)), atol=1e-5)

  def test_without_context_the_seams_differ(self):
    z = STAGE.encode(VIDEO)
    whole = np.concatenate(list(STAGE.decode_chunks(z, chunk=4, overlap=0)), axis=1)
    error = np.abs(whole - np.asarray(STAGE.decode(z))).max(axis=(0, 2, 3, 4))
    seams = {6, 7, 8, 9, 12, 13, 14, 15}  # Next to latent steps 4 and 7.
    self.assertEqual(set(np.flatnonzero(error > 1e-4).tolist()) - seams, set())
    self.assertGreater(error[[7, 8]].min(), 1e-2)

  def test_nothing_beside_the_context_is_refused(self):
    with self.assertRaisesRegex(UserError, "chunks of 4 .* 2 of context"):
      next(STAGE.decode_chunks(STAGE.encode(VIDEO), chunk=4, overlap=2))


class MomentsTest(absltest.TestCase):
  def test_they_are_those_of_all_batches_together(self):
    rng = np.random.default_rng(0)
    z = rng.normal([3.0, -1.0], [0.1, 5.0], (7, 4, 3, 2))
    moments = first_stage.Moments()
    moments.add(z[:2].astype(np.float64))
    moments.add(z[2:].astype(np.float64))
    found = moments.result()
    flat = z.reshape(-1, 2)
    np.testing.assert_allclose(found["shift"], flat.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found["scale"], flat.std(axis=0), rtol=1e-9)
    shift, scale = first_stage.normalization(found)
    normalized = (z - np.asarray(shift)) / np.asarray(scale)
    np.testing.assert_allclose(normalized.std(axis=(0, 1, 2)), 1.0, rtol=1e-5)

  def test_latents_that_were_not_measured_are_said(self):
    with self.assertRaisesRegex(UserError, "not measured"):
      first_stage.normalization({})


if __name__ == "__main__":
  absltest.main()
