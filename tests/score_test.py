"""The tool that measures anyone's videos, from folders to the card."""

import contextlib
import io
import json
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
import jax.numpy as jnp
import numpy as np

from lamd_jax import score
from lamd_jax.data import clip_set
from lamd_jax.metrics import __main__ as tool
from lamd_jax.metrics import features, frechet
from lamd_jax.types import UserError


def mean_colours(clips):
  """A detector that is quick: the mean colour of each of the first four frames."""
  x = clips[:, :4].astype(jnp.float32)
  return x.mean(axis=(2, 3)).reshape(len(clips), -1)


DETECTOR = features.Detector("colours", "0" * 64, "half_pixel", 4, mean_colours)


def videos(num, seed, num_frames=5, size=6):
  """Clips whose colours vary from clip to clip and from frame to frame."""
  rng = np.random.default_rng(seed)
  colours = rng.integers(0, 256, (num, num_frames, 1, 1, 3))
  noise = rng.integers(-20, 20, (num, num_frames, size, size, 3))
  return np.clip(colours + noise, 0, 255).astype(np.uint8)


class FilesTestCase(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def save(self, name, clips):
    np.save(self.folder / f"{name}.npy", clips)
    return str(self.folder / f"{name}.npy")


class ScoreTest(FilesTestCase):
  def open(self, name, clips, **kwargs):
    return clip_set.open_clips(self.save(name, clips), **kwargs)

  def score(self, real, generated, names=("FVD",), **kwargs):
    return score.score(names, real, generated, detector=DETECTOR, **kwargs)

  def test_the_score_is_that_of_the_features(self):
    real, generated = videos(70, 0), videos(70, 1) // 2
    fvd, kvd = self.score(
      self.open("real", real), self.open("gen", generated), ("FVD", "KVD"), num_draws=0
    )
    of = lambda clips: np.asarray(mean_colours(clips))
    expected = frechet.frechet_distance(of(real), of(generated))
    np.testing.assert_allclose(fvd["value"], expected, rtol=1e-5)
    expected = frechet.kernel_distance(of(real), of(generated))
    np.testing.assert_allclose(kvd["value"], expected, rtol=1e-5)
    self.assertEqual(fvd["protocol"]["num_frames"], 5)
    self.assertEqual(fvd["protocol"]["height"], 6)
    self.assertEmpty(fvd["companions"])

  def test_with_twice_the_real_clips_floor_and_ceiling_stand_beside_it(self):
    real, generated = videos(140, 0), videos(70, 1) // 2
    real[:, 1:] //= 2  # A still is then brighter than a video.
    (card,) = self.score(self.open("real", real), self.open("gen", generated))
    floor = card["companions"]["real against other real"]
    ceiling = card["companions"]["stills of other real"]
    of = lambda clips: np.asarray(mean_colours(clips))
    expected = frechet.frechet_distance(of(real[:70]), of(real[70:]))
    np.testing.assert_allclose(floor, expected, rtol=1e-5)
    stills = np.repeat(real[70:, :1], 5, axis=1)
    expected = frechet.frechet_distance(of(real[:70]), of(stills))
    np.testing.assert_allclose(ceiling, expected, rtol=1e-5)
    self.assertGreater(ceiling, 2 * floor)
    self.assertEqual(card["protocol"]["num_real"], 70)

  def test_sets_that_do_not_go_together(self):
    real = self.open("real", videos(70, 0))
    with self.assertRaisesRegex(
      UserError, "clips of 5 frames, .* of 4; .*--num_frames"
    ):
      self.score(real, self.open("gen", videos(70, 1, num_frames=4)))
    with self.assertRaisesRegex(UserError, "frames of 6x6, .* of 8x8; .*--resolution"):
      self.score(real, self.open("gen", videos(70, 1, size=8)))
    with self.assertRaisesRegex(UserError, "80 generated clips were asked .* has 75"):
      real = self.open("more", videos(90, 0))
      self.score(real, self.open("gen", videos(75, 1)), num_clips=80)

  def test_too_few_clips_are_refused_before_the_long_work(self):
    never = DETECTOR._replace(apply=mock.Mock(side_effect=AssertionError))
    real, few = self.open("real", videos(90, 0)), self.open("few", videos(9, 1))
    with self.assertRaisesRegex(UserError, "9 clips are too few for FVD"):
      score.score(("KVD", "FVD"), real, few, detector=never)


class ToolTest(FilesTestCase):
  def run_tool(self, *argv):
    out, err = io.StringIO(), io.StringIO()
    with (
      contextlib.redirect_stdout(out),
      contextlib.redirect_stderr(err),
      mock.patch.object(features, "i3d_detector", lambda *args: DETECTOR),
    ):
      code = tool.main(list(argv))
    return code, out.getvalue(), err.getvalue()

  def test_from_files_to_a_card_and_to_its_comparison(self):
    real, generated = self.save("real", videos(80, 0)), self.save("gen", videos(70, 1))
    first, second = (str(self.folder / f"{name}.json") for name in "ab")
    code, out, _ = self.run_tool("fvd", real, generated, f"--output={first}")
    self.assertEqual(code, 0)
    self.assertRegex(out, r"^FVD@70 = [\d.]+ \(95 % interval [\d.]+ to [\d.e+]+\)\n$")
    card = json.loads(pathlib.Path(first).read_text())
    self.assertEqual(card["protocol"]["num_generated"], 70)
    self.run_tool("fvd", real, generated, "--num_frames=4", f"--output={second}")
    code, out, _ = self.run_tool("compare", first, second)
    self.assertEqual(code, 0)
    self.assertEqual(out.splitlines()[2:], ["num_frames: 5 | 4"])

  def test_a_mistake_is_one_line_and_no_number(self):
    real = self.save("real", videos(70, 0))
    few, short = self.save("few", videos(9, 0)), self.save("short", videos(70, 0, 4))
    nan = self.save("nan", np.full((70, 5, 6, 6, 3), np.nan))
    empty = self.folder / "empty"
    empty.mkdir()
    card = self.save("card", videos(1, 0))
    for argv, message in (
      (("fvd", real, few), "9 clips are too few for FVD"),
      (("fvd", real, short), "say with --num_frames"),
      (("fvd", real, nan), "has NaN"),
      (("fvd", real, str(empty)), "no video in"),
      (("kvd", real, real, "--num_clips=0"), "--num_clips=0: expected a whole number"),
      (("compare", card, card), "cannot be read as a card"),
    ):
      with self.subTest(message):
        code, out, err = self.run_tool(*argv)
        self.assertEqual(code, 2)
        self.assertEmpty(out)
        self.assertRegex(err, message)
        self.assertLen(err.splitlines(), 1)


if __name__ == "__main__":
  absltest.main()
