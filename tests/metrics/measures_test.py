"""Every measure by its name, against the formula computed here, on networks by hand."""

import functools
import pathlib
import sys
from unittest import mock

from absl.testing import absltest, parameterized
import numpy as np

from lamd_jax.metrics import (
  clip_set,
  features,
  frame_features,
  frechet,
  image,
  inception_score,
  score,
)
from lamd_jax.metrics import measures as measures_lib
from lamd_jax.models import inception
from lamd_jax.types import UserError

N, F, H, W = 12, 4, 13, 11


def clips(seed, n=N):
  """Frames of one colour each, and noise."""
  rng = np.random.default_rng(seed)
  noise = rng.integers(-20, 20, (n, F, H, W, 3))
  return np.clip(rng.integers(0, 256, (n, F, 1, 1, 3)) + noise, 0, 255).astype(np.uint8)


def colours(frames, width, seed):
  """A stand-in for a network: a random product with the mean colours of a frame."""
  rng = np.random.default_rng(seed)
  return frames.mean(axis=(-3, -2)) / 64 @ rng.normal(size=(3, width))


def outputs(params, frames, *, batch_size):
  del params, batch_size
  return inception.Outputs(colours(frames, 2048, 0), colours(frames, 1008, 1))


def options(**kwargs):
  return measures_lib.Options(**kwargs)


def with_inception(test):
  @functools.wraps(test)
  def patched(self, *args, **kwargs):
    with (
      mock.patch.object(frame_features, "load_inception", lambda path: path),
      mock.patch.object(frame_features, "inception_outputs", outputs),
      mock.patch.object(measures_lib.weights, "sha256", lambda path: str(path)),
    ):
      return test(self, *args, **kwargs)

  return patched


def measured(name, real, generated, **kwargs):
  """The number of a measure of sets, by way of its detector and its view."""
  (measure,) = measures_lib.make_measures([name], options(**kwargs))
  names = [str(i) for i in range(len(generated))]
  rows = lambda x: measure.view(np.asarray(measure.detector.apply(x)), names)
  if measure.kind == "sets":
    return measure.name, measure.number(rows(real), rows(generated))
  if measure.kind == "alone":
    return measure.name, measure.number(rows(generated))
  return measure.name, measure.number(rows(np.concatenate([real, generated], axis=1)))


class FramesTest(parameterized.TestCase):
  @parameterized.parameters(
    ("all", "FID", lambda x: x.reshape(-1, x.shape[-1])),
    ("average", "FID-avg", lambda x: x.mean(axis=1)),
    ("first", "FID-first", lambda x: x[:, 0]),
  )
  @with_inception
  def test_fid_counts_frames_as_it_is_told(self, frames, name, taken):
    real, generated = clips(0), clips(1) // 2
    a, b = (taken(outputs(0, x, batch_size=1).features) for x in (real, generated))
    expected = frechet.frechet_distance(a, b)
    got_name, got = measured("fid", real, generated, frames=frames)
    self.assertEqual(got_name, name)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    _, got = measured("kid", real, generated, frames=frames)
    np.testing.assert_allclose(got, frechet.kernel_distance(a, b), rtol=1e-6)

  @parameterized.parameters(
    ("all", "IS", lambda x: x.reshape(-1, x.shape[-1])),
    ("average", "IS-avg", lambda x: x.mean(axis=1)),
    ("first", "IS-first", lambda x: x[:, 0]),
  )
  @with_inception
  def test_the_inception_score_takes_logits(self, frames, name, taken):
    generated = clips(1)
    logits = taken(outputs(0, generated, batch_size=1).logits)
    expected, _ = inception_score.inception_score(logits)
    got = measured("is", clips(0), generated, frames=frames)
    self.assertEqual(got[0], name)
    np.testing.assert_allclose(got[1], expected, rtol=1e-6)
    self.assertGreater(expected, 1.01)


class InceptionScoreTest(absltest.TestCase):
  def test_clips_of_101_classes_in_order_score_101(self):
    def seen(params, frames, *, batch_size):
      del params, batch_size
      classes = frames[..., 0, 0, 0]
      logits = 1e4 * np.eye(1008, dtype=np.float32)[classes]
      return inception.Outputs(np.zeros((*classes.shape, 2048)), logits)

    score_of = with_inception(lambda self, *sets: self.score(*sets))
    kinds = np.arange(101, dtype=np.uint8)
    clips_of = lambda per_class: clip_set.of_array(
      "mine",
      np.broadcast_to(
        kinds.repeat(per_class).reshape(-1, 1, 1, 1, 1), (101 * per_class, 1, 2, 2, 3)
      ),
    )
    with mock.patch.object(sys.modules[__name__], "outputs", seen):
      card = score_of(self, clips_of(10))
      self.assertEqual(card["name"], "IS@1010 in 1 split")
      self.assertAlmostEqual(card["value"], 101, places=6)  # 10.6 in 10 neighbourhoods.
      with self.assertRaisesRegex(
        UserError, "202 clips are too few .*; IS in 1 split can be computed from 256"
      ):
        score_of(self, clips_of(2))

  def score(self, clips):
    made = measures_lib.make_measures(["is"], options())
    self.assertEqual((made[0].min_clips, made[0].remark), (10_000, "in 10 splits"))
    (card,) = score.score(made, clips, clips, num_draws=0, batch_size=64)
    return card


class PairsTest(absltest.TestCase):
  def test_the_real_half_comes_first_and_frames_stay_together(self):
    real, generated = clips(0), clips(1)
    name, got = measured("psnr", real, generated)
    self.assertEqual(name, "PSNR")
    np.testing.assert_allclose(got, image.psnr(real, generated), rtol=1e-12)
    _, got = measured("ssim", real, generated)
    np.testing.assert_allclose(got, image.ssim(real, generated), rtol=1e-12)
    self.assertEqual(measured("psnr", real, real)[1], image.MAX_PSNR)


class CaptionsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    words = {"red": [1.0, 0, 0], "blue": [0, 0, 1.0]}
    module = mock.patch.multiple(
      frame_features,
      load_clip=lambda path: (None, None),
      clip_image_features=lambda net, params, frames, **_: frames.mean(axis=(-3, -2)),
      clip_text_features=lambda net, params, tokens: np.array(tokens),
    )
    tokenizer = lambda path: lambda texts: [words[text] for text in texts]
    self.enterContext(module)
    self.enterContext(
      mock.patch.object(measures_lib.clip_tokenizer, "clip_tokenizer", tokenizer)
    )
    self.enterContext(
      mock.patch.object(measures_lib.weights, "sha256", lambda path: "0")
    )
    self.videos = np.zeros((2, F, H, W, 3), np.uint8)
    self.videos[0, ..., 0] = self.videos[1, ..., 2] = 200  # A red and a blue one.

  def test_each_clip_is_compared_with_its_own_caption(self):
    right, wrong = {"0": "red", "1": "blue"}, {"0": "blue", "1": "red"}
    self.assertAlmostEqual(
      measured("clipsim", None, self.videos, captions=right)[1], 1.0
    )
    self.assertAlmostEqual(
      measured("clipsim", None, self.videos, captions=wrong)[1], 0.0
    )

  def test_a_missing_caption_is_named(self):
    with self.assertRaisesRegex(UserError, "1 of 2 clips have no caption.* is 1;"):
      measured("clipsim", None, self.videos, captions={"0": "red"})


class MotionTest(absltest.TestCase):
  def test_half_the_contrast_is_half_of_everything(self):
    real = clips(0) // 2 * 2
    made = measures_lib.make_measures(["motion"], options())
    rows = lambda x: made[0].detector.apply(x)
    found = {m.name: m.number(rows(real), rows(real // 2)) for m in made}
    expected = {"MOTION": 0.5, "ROUGHNESS": 0.5, "FLICKER": 0.5, "STILLS": 0.0}
    for name, value in expected.items():
      self.assertAlmostEqual(found[name], value, msg=name)
    stills = np.repeat(real[:, :1], F, axis=1)
    found = {m.name: m.number(rows(real), rows(stills)) for m in made}
    self.assertEqual(
      found, {"MOTION": 0.0, "ROUGHNESS": 0.0, "FLICKER": 0.0, "STILLS": 1.0}
    )


class NamesTest(absltest.TestCase):
  def test_a_typo_is_answered_with_the_name(self):
    with self.assertRaisesRegex(UserError, "no measure 'fdv'; did you mean fvd"):
      measures_lib.make_measures(["fdv"], options())
    with self.assertRaisesRegex(UserError, "no measure 'x'; known: fvd, kvd"):
      measures_lib.make_measures(["x"], options())

  def test_missing_weights_are_named_with_their_origin(self):
    folder = pathlib.Path("nowhere")
    for name, file in (
      ("fid", "inception.safetensors.*pytorch-fid.*6726825d"),
      ("clipsim", "clip.safetensors.*40d36571"),
    ):
      with self.assertRaisesRegex(UserError, f"nowhere.{file}"):
        measures_lib.make_measures([name], options(folder=folder))

  def test_fvd_and_kvd_share_a_detector_and_the_second_replaces_the_first(self):
    detector = features.Detector("I3D", "0", "half_pixel", 9, len)
    with mock.patch.object(measures_lib, "i3d_detector", lambda path, rule: detector):
      fvd, kvd = measures_lib.make_measures(["fvd", "kvd"], options())
    self.assertIs(fvd.detector, kvd.detector)
    self.assertEqual((fvd.name, fvd.instead.name), ("FVD", "KVD"))
    self.assertEqual((fvd.min_clips, kvd.min_clips), (64, 2))


if __name__ == "__main__":
  absltest.main()
