"""The figures against definitions written out a second time."""

import itertools
import math

from absl.testing import absltest, parameterized
import numpy as np

from lamd_jax.metrics import image, protocol
from lamd_jax.types import UserError

N, S, F, H, W = 2, 3, 5, 4, 6


def clips(seed, *lead):
  return np.random.default_rng(seed).integers(0, 256, (*lead, F, H, W, 3), np.uint8)


def mean(values):
  values = list(values)
  return sum(values) / len(values)


def slow_psnr(a, b):
  error = mean((float(x) - float(y)) ** 2 for x, y in zip(a.flat, b.flat, strict=True))
  return 10 * math.log10(255**2 / error)


def slow_motion(video):
  clip = video.reshape(-1, *video.shape[-4:]).astype(float)
  return mean(
    abs(c[f, y, x, k] - c[f - 1, y, x, k])
    for c in clip
    for f, y, x, k in itertools.product(range(1, F), range(H), range(W), range(3))
  )


def slow_flicker(video):
  change = np.diff(video.astype(float), axis=-4)
  before, after = change[..., :-1, :, :, :], change[..., 1:, :, :, :]
  return np.mean((before * after < 0) * np.fmin(abs(before), abs(after)))


def slow_figures(real, reconstructed, sampled):
  """All figures again, from their sentences, one frame at a time."""
  later = list(itertools.product(range(N), range(1, F)))
  pairs = list(itertools.combinations(range(S), 2))
  result = {
    "reconstruction_psnr": mean(
      slow_psnr(real[n, f], reconstructed[n, f]) for n, f in later
    ),
    "still_psnr": mean(slow_psnr(real[n, f], real[n, 0]) for n, f in later),
    "reconstruction_motion_ratio": slow_motion(reconstructed) / slow_motion(real),
    "sample_motion_ratio": slow_motion(sampled) / slow_motion(real),
    "sample_pairwise_psnr": mean(
      slow_psnr(sampled[n, i, f], sampled[n, j, f]) for n, f in later for i, j in pairs
    ),
    "sample_first_frame_psnr": mean(
      slow_psnr(real[n, 0], sampled[n, s, 0]) for n in range(N) for s in range(S)
    ),
  }
  difference = lambda x, order: np.abs(np.diff(x.astype(float), order, axis=-4))
  result["sample_roughness_ratio"] = (
    difference(sampled, 2).mean() / difference(real, 2).mean()
  )
  motion = difference(sampled, 1).mean(axis=(-4, -3, -2, -1))
  result["sample_still_share"] = np.mean(motion < 0.1 * difference(real, 1).mean())
  result["sample_flicker_ratio"] = slow_flicker(sampled) / slow_flicker(real)
  gain = result["reconstruction_psnr"] - result["still_psnr"]
  return result | {"reconstruction_gain_db": gain}


class FiguresTest(parameterized.TestCase):
  def test_every_figure_agrees_with_its_definition_in_plain_loops(self):
    arrays = clips(0, N), clips(1, N) // 2, clips(2, N, S) // 3
    figures = protocol.video_figures(*arrays)
    expected = slow_figures(*arrays)
    # Frames of this size have no room for its window.
    self.assertEqual(set(expected), set(protocol.FIGURES) - {"reconstruction_ssim"})
    for name, value in expected.items():
      self.assertAlmostEqual(figures[name], value, places=9, msg=name)

  def test_a_perfect_model_of_a_known_pattern_gives_known_figures(self):
    # Frame f has the grey level 51 f, so frame f is 51 f levels from frame 0.
    real = np.full((1, 3, H, W, 3), 0, np.uint8)
    real += np.array([0, 51, 102], np.uint8)[None, :, None, None, None]
    figures = protocol.video_figures(real, real, np.stack([real, real], axis=1))
    still = (20 * math.log10(5) + 20 * math.log10(2.5)) / 2
    self.assertAlmostEqual(figures["still_psnr"], still)
    self.assertAlmostEqual(figures["reconstruction_gain_db"], 100 - still)
    self.assertEqual(figures["sample_motion_ratio"], 1.0)
    self.assertEqual(figures["sample_first_frame_psnr"], 100.0)
    self.assertEqual(figures["sample_pairwise_psnr"], 100.0)

  def test_frame_0_moves_only_the_first_frame_figure_and_motion(self):
    real, reconstructed, sampled = clips(0, N), clips(1, N), clips(2, N, S)
    before = protocol.video_figures(real, reconstructed, sampled)
    reconstructed[:, 0] //= 2
    sampled[:, :, 0] //= 2
    after = protocol.video_figures(real, reconstructed, sampled)
    moved = {name for name in before if before[name] != after[name]}
    moves = {"motion_ratio", "roughness_ratio", "flicker_ratio"}
    self.assertEqual(
      moved,
      {"sample_first_frame_psnr", "reconstruction_motion_ratio"}
      | {f"sample_{name}" for name in moves},
    )

  def test_structural_similarity_leaves_the_given_frame_out(self):
    rng = np.random.default_rng(0)
    real, reconstructed = rng.integers(0, 256, (2, 2, F, 12, 13, 3), np.uint8)
    figures = protocol.video_figures(real, reconstructed, real[:, None])
    expected = image.ssim(reconstructed[:, 1:], real[:, 1:])
    self.assertEqual(figures["reconstruction_ssim"], expected)

  def test_figures_that_are_not_defined_are_left_out(self):
    real = np.full((N, F, H, W, 3), 9, np.uint8)
    figures = protocol.video_figures(real, real, real[:, None])
    self.assertNotIn("sample_motion_ratio", figures)
    self.assertNotIn("reconstruction_motion_ratio", figures)
    self.assertNotIn("sample_pairwise_psnr", figures)
    self.assertTrue(all(math.isfinite(x) for x in figures.values()))

  @parameterized.parameters((0, 1, 4), (2, 0, 4), (2, 3, 1))
  def test_nothing_to_measure_is_the_users_mistake(self, n, s, f):
    real = np.zeros((n, f, H, W, 3), np.uint8)
    with self.assertRaisesRegex(UserError, rf"{n} clips of {f} frames with {s}"):
      protocol.video_figures(real, None, np.zeros((n, s, f, H, W, 3), np.uint8))

  def test_reconstructions_are_measured_without_samples(self):
    real, made = clips(0, N), clips(1, N)
    nothing = np.zeros((N, 0, *real.shape[1:]), np.uint8)
    alone = protocol.video_figures(real, made, nothing)
    both = protocol.video_figures(real, made, clips(2, N, S))
    self.assertEqual(
      {k: v for k, v in both.items() if k.startswith(("recon", "still"))},
      {k: v for k, v in alone.items() if not k.startswith("protocol")},
    )
    self.assertIn("4x6 pixels (height x width), reconst", protocol.sentence(alone))

  def test_the_sentence_names_counts_and_sizes(self):
    figures = protocol.video_figures(clips(0, N), clips(1, N), clips(2, N, S))
    text = protocol.sentence(figures)
    self.assertIn("2 held-out clips of 5 frames at 4x6 pixels", text)
    self.assertIn("3 samples from the first frame of each", text)
    self.assertEqual(protocol.sentence({"still_psnr": 20.0}), "")


class FigureTest(absltest.TestCase):
  def test_the_expected_range_is_said_and_judged(self):
    figure = protocol.FIGURES["sample_motion_ratio"]
    self.assertEqual(figure.expected(), "0.7 to 1.3")
    judged = [figure.is_expected(x) for x in (0.69, 0.7, 1.3, 1.31)]
    self.assertEqual(judged, [False, True, True, False])
    figure = protocol.FIGURES["reconstruction_gain_db"]
    self.assertEqual(figure.expected(), "at least 3 dB")
    self.assertEqual([figure.is_expected(x) for x in (2.9, 60)], [False, True])
    figure = protocol.FIGURES["sample_pairwise_psnr"]
    self.assertEqual(figure.expected(), "below 30 dB")
    self.assertEqual([figure.is_expected(x) for x in (29.0, 31.0)], [True, False])
    figure = protocol.FIGURES["still_psnr"]
    self.assertEqual(figure.expected(), "")
    self.assertIsNone(figure.is_expected(20.0))


if __name__ == "__main__":
  absltest.main()
