"""Losses of autoencoders against closed forms, their gradient against autodiff."""

import dataclasses
from typing import get_args

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.schema import build
from lamd_jax.systems import autoencoder
from lamd_jax.systems.autoencoder import Adversary, Losses
from lamd_jax.types import UserError

KEY = jax.random.key(0)


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


class KLTest(absltest.TestCase):
  def test_the_two_reductions_differ_by_the_ratio_of_the_sizes(self):
    kl = jnp.array([3.0, 5.0])
    losses = Losses(0.5, kl_reduction="pixels")
    by_pixels = autoencoder.kl_loss(losses, kl, 16 * 64 * 64 * 3, 16 * 16 * 3)
    np.testing.assert_allclose(by_pixels, 0.5 * 4.0 / (16 * 64 * 64 * 3), rtol=1e-6)
    losses = Losses(0.5, kl_reduction="latents")
    by_latents = autoencoder.kl_loss(losses, kl, 16 * 64 * 64 * 3, 16 * 16 * 3)
    np.testing.assert_allclose(by_latents / by_pixels, 256.0, rtol=1e-5)


class AdversarialLossTest(parameterized.TestCase):
  real, fake = np.array([[-2.0, 0.3], [1.7, 5.0]]), np.array([[-3.0, -0.2], [0.4, 2.0]])

  def test_hinge_is_the_mean_distance_to_the_margins(self):
    # 1 - real: 3, .7, 0, 0; 1 + fake: 0, .8, 1.4, 3.
    expected = 0.5 * ((3.0 + 0.7) / 4 + (0.8 + 1.4 + 3.0) / 4)
    found = autoencoder.critic_loss("hinge", jnp.array(self.real), jnp.array(self.fake))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    found = autoencoder.generator_loss("hinge", jnp.array(self.fake))
    np.testing.assert_allclose(found, 0.2, rtol=1e-5)

  def test_log_is_the_equation_of_the_paper(self):
    d_real, d_fake = (1 / (1 + np.exp(-x)) for x in (self.real, self.fake))
    l_gan = np.log(d_real).mean() + np.log(1 - d_fake).mean()
    found = autoencoder.critic_loss("log", jnp.array(self.real), jnp.array(self.fake))
    np.testing.assert_allclose(found, -0.5 * l_gan, rtol=1e-5)  # It maximizes.
    found = autoencoder.generator_loss("log", jnp.array(self.fake))
    np.testing.assert_allclose(found, np.log(1 - d_fake).mean(), rtol=1e-5)

  @parameterized.parameters("hinge", "log")
  def test_the_two_players_want_opposites(self, form):
    fake = jnp.array(self.fake)
    up = jax.grad(lambda x: autoencoder.critic_loss(form, fake, x))(fake)
    down = jax.grad(lambda x: autoencoder.generator_loss(form, x))(fake)
    self.assertTrue(np.all(up >= 0) and np.any(up > 0))
    self.assertTrue(np.all(down < 0))


class ReconstructionTest(absltest.TestCase):
  def test_without_a_network_it_is_l1(self):
    a, b = normal(2, 3, 4, 5, 3), normal(2, 3, 4, 5, 3, seed=1)
    loss, metrics = autoencoder.reconstruction_loss(Losses(0.0), None, a, b, KEY)
    np.testing.assert_allclose(loss, np.abs(a - b).mean(), rtol=1e-6)
    self.assertEqual(list(metrics), ["l1"])

  def perceptual(self, losses, a, b, key=KEY):
    module = autoencoder.DISTANCES[losses.perceptual]
    is_lpips = losses.perceptual == "lpips_vgg"
    of = (a[:, 0], b[:, 0]) if is_lpips else (a, b)
    shapes = jax.eval_shape(module.init, KEY, *of)
    rng = np.random.default_rng(5)
    params = jax.tree.map(
      lambda s: jnp.asarray(rng.normal(0, 0.05, s.shape), jnp.float32), shapes
    )
    apply = jax.jit(module.apply)
    loss = jax.jit(autoencoder.reconstruction_loss, static_argnums=0)
    return loss(losses, params, a, b, key), lambda a, b: apply(params, a, b)

  def test_lpips_of_a_few_frames_is_of_frames_of_the_clips(self):
    a, b = normal(2, 3, 16, 16, 3), normal(2, 3, 16, 16, 3, seed=1)
    losses = Losses(0.0, perceptual="lpips_vgg", perceptual_weight=0.7)
    (loss, metrics), distance = self.perceptual(losses, a, b)
    each = np.stack([distance(a[:, i], b[:, i]) for i in range(3)], axis=1)  # b f
    np.testing.assert_allclose(metrics["lpips_vgg"], each.mean(), rtol=1e-4)
    np.testing.assert_allclose(loss, metrics["l1"] + 0.7 * each.mean(), rtol=1e-4)
    one = Losses(0.0, perceptual="lpips_vgg", perceptual_frames=1)
    (_, metrics), _ = self.perceptual(one, a, b)
    possible = [(each[0, i] + each[1, j]) / 2 for i in range(3) for j in range(3)]
    self.assertLess(np.abs(metrics["lpips_vgg"] - np.array(possible)).min(), 1e-5)

  def test_i3d_is_of_the_whole_clip_and_named_so(self):
    a, b = normal(2, 4, 16, 16, 3), normal(2, 4, 16, 16, 3, seed=1)
    losses = Losses(0.0, perceptual="i3d", perceptual_weight=2.0)
    (loss, metrics), distance = self.perceptual(losses, a, b)
    self.assertEqual(set(metrics), {"l1", "i3d"})
    expected = metrics["l1"] + 2.0 * np.mean(distance(a, b))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


class GradientTest(parameterized.TestCase):
  """On a small network, where autodiff can be asked for everything at once."""

  def setUp(self):
    super().setUp()
    shapes = {"deep": {"w": (4, 3)}, "out": {"kernel": (3, 2), "bias": (2,)}}
    self.params = {
      layer: {name: normal(*s, seed=i + 2 * j) for i, (name, s) in enumerate(x.items())}
      for j, (layer, x) in enumerate(shapes.items())
    }
    self.x, self.target, self.judge = normal(5, 4), normal(5, 2, seed=7), normal(2)

  def to_features(self, params):
    h = jnp.tanh(self.x @ params["deep"]["w"])
    return h, h[:, 0]

  def to_pixels(self, params, h):
    return h @ params["out"]["kernel"] + params["out"]["bias"]

  def l_rec(self, y):
    return jnp.mean(jnp.abs(y - self.target)), {"l1": jnp.zeros(())}

  def prior(self, posterior):
    return 0.3 * jnp.mean(jnp.square(posterior))

  def l_gan(self, y):
    return -jnp.mean(jnp.sin(y @ self.judge))

  def find(self, step, weight=0.5):
    return jax.jit(
      lambda params, step: autoencoder.adversarial_gradients(
        self.to_features,
        self.to_pixels,
        params,
        "out",
        reconstruction_fn=self.l_rec,
        prior_fn=self.prior,
        adversarial_fn=self.l_gan,
        adversary=Adversary(start=3, weight=weight),
        step=step,
      )
    )(self.params, step)

  def of_all(self, params, factor):
    h, posterior = self.to_features(params)
    y = self.to_pixels(params, h)
    return self.l_rec(y)[0] + self.prior(posterior) + factor * self.l_gan(y)

  def last(self, loss_fn):
    """The norm of a term's gradient for the last kernel."""
    of_pixels = lambda p: loss_fn(self.to_pixels(p, self.to_features(p)[0]))
    return np.linalg.norm(jax.grad(of_pixels)(self.params)["out"]["kernel"])

  @parameterized.parameters(0.5, 0.8)
  def test_it_is_that_of_the_sum_with_vqgans_lambda(self, weight):
    loss, metrics, grads, video = self.find(3, weight)
    rec = self.last(lambda y: self.l_rec(y)[0])
    expected = weight * rec / (self.last(self.l_gan) + 1e-4)
    np.testing.assert_allclose(metrics["lambda"], expected, rtol=1e-5)
    for a, b in zip(
      jax.tree.leaves(grads),
      jax.tree.leaves(jax.grad(self.of_all)(self.params, expected)),
      strict=True,
    ):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(loss, self.of_all(self.params, 0.0), rtol=1e-6)
    h, _ = self.to_features(self.params)
    np.testing.assert_allclose(video, self.to_pixels(self.params, h), rtol=1e-6)
    np.testing.assert_allclose(metrics["generator_loss"], self.l_gan(video), rtol=1e-5)

  def test_before_its_start_the_adversary_is_not_there(self):
    _, metrics, grads, _ = self.find(2)
    self.assertEqual(metrics["lambda"], 0.0)
    self.assertEqual(metrics["generator_loss"], 0.0)
    expected = jax.grad(self.of_all)(self.params, 0.0)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, expected
    )


class CheckTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(kl_reduction="sum"), "kl_reduction='sum'; known: latents, pixels"),
    (dict(kl_weight=-1e-2), "kl_weight=-0.01: expected a .*number from 0 to"),
    (dict(perceptual="lpips"), "perceptual='lpips'; known: none, lpips_vgg, i3d"),
    (dict(perceptual_frames=9), "perceptual_frames=9: expected 1 to 8"),
    (dict(perceptual_frames=-1), "perceptual_frames=-1: expected a whole number"),
    (dict(perceptual="lpips_vgg"), "needs frames of 16 .* data.resolution is 8"),
    (
      dict(perceptual_weight=-1.0),
      "perceptual_weight=-1.0: expected a .*number from 0 to",
    ),
  )
  def test_impossible_losses_are_named(self, values, message):
    with self.assertRaisesRegex(UserError, message):
      losses = build(Losses, {"kl_weight": 1e-2, **values}, "a.loss")
      autoencoder.check_losses(losses, "a.loss", 8, 8)

  @parameterized.parameters(
    (dict(form="wgan"), "a.form='wgan'; known: hinge, log"),
    (dict(weight=-0.1), "a.weight=-0.1: expected a .*number from 0 to"),
    (dict(start=-1), "a.start=-1: expected a .*number from 0 to"),
  )
  def test_impossible_adversaries_are_named(self, values, message):
    with self.assertRaisesRegex(UserError, message):
      build(Adversary, {"start": 1, **values}, "a")

  def test_the_perceptual_distances_are_those_of_the_table(self):
    (field,) = (f for f in dataclasses.fields(Losses) if f.name == "perceptual")
    self.assertEqual(get_args(field.type), ("none", *autoencoder.DISTANCES))


if __name__ == "__main__":
  absltest.main()
