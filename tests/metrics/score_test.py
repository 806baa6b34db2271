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

from lamd_jax.metrics import __main__ as tool
from lamd_jax.metrics import card as card_lib
from lamd_jax.metrics import clip_set, features, frechet, image, measures, score
from lamd_jax.types import UserError


def mean_colours(clips):
  """A detector that is quick: the mean colour of each of the first four frames."""
  x = clips[:, :4].astype(jnp.float32)
  return x.mean(axis=(2, 3)).reshape(len(clips), -1)


DETECTOR = features.Detector("colours", "0" * 64, "half_pixel", 4, mean_colours)
KVD = measures.Measure("KVD", "sets", DETECTOR, frechet.kernel_distance)
FVD = KVD._replace(
  name="FVD", number=frechet.frechet_distance, min_clips=64, instead=KVD
)
SPREAD = measures.Measure("SPREAD", "alone", DETECTOR, lambda rows: float(rows.std()))
(PSNR,) = measures.make_measures(["psnr"], measures.Options())


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

  def score(self, real, generated, wanted=(FVD,), **kwargs):
    return score.score(wanted, real, generated, **kwargs)

  def test_the_score_is_that_of_the_features(self):
    real, generated = videos(70, 0), videos(70, 1) // 2
    fvd, kvd = self.score(
      self.open("real", real), self.open("gen", generated), (FVD, KVD), num_draws=0
    )
    of = lambda clips: np.asarray(mean_colours(clips))
    expected = frechet.frechet_distance(of(real), of(generated))
    np.testing.assert_allclose(fvd["value"], expected, rtol=1e-5)
    expected = frechet.kernel_distance(of(real), of(generated))
    np.testing.assert_allclose(kvd["value"], expected, rtol=1e-5)
    self.assertEqual(fvd["protocol"]["num_frames"], 5)
    self.assertEqual(fvd["protocol"]["height"], 6)
    self.assertEmpty(fvd["companions"])

  def test_with_twice_the_real_clips_a_card_has_floor_and_ceiling(self):
    real, generated = videos(140, 0), videos(70, 1) // 2
    real[:, 1:] //= 2  # A still is then brighter than a video.
    (card,) = self.score(self.open("real", real), self.open("gen", generated))
    floor = card["companions"]["other real"]
    ceiling = card["companions"]["stills"]
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

  def test_of_too_few_clips_the_other_distance_is_given(self):
    real, few = self.open("real", videos(90, 0)), self.open("few", videos(9, 1))
    with self.assertLogs("absl", "WARNING") as logs:
      (card,) = self.score(real, few, (FVD, KVD))
    self.assertIn(
      "9 clips are too few for FVD, which needs at least 64", logs.output[0]
    )
    self.assertEqual(card["name"], "KVD@9")

  def test_too_few_clips_are_refused_before_the_long_work(self):
    never = DETECTOR._replace(apply=mock.Mock(side_effect=AssertionError))
    alone = FVD._replace(detector=never, instead=None)
    real, few = self.open("real", videos(90, 0)), self.open("few", videos(9, 1))
    with self.assertRaisesRegex(UserError, "9 clips are too few for FVD"):
      self.score(real, few, (KVD._replace(detector=never), alone))

  def test_pairs_are_compared_one_by_one_and_with_stills(self):
    real, generated = videos(5, 0), videos(5, 1)
    (card,) = self.score(self.open("r", real), self.open("g", generated), (PSNR,))
    self.assertAlmostEqual(card["value"], image.psnr(real, generated))
    stills = np.repeat(real[:, :1], 5, axis=1)
    self.assertAlmostEqual(card["companions"]["stills"], image.psnr(real, stills))
    with self.assertRaisesRegex(UserError, "5 generated .* one by one with 4 real"):
      self.score(self.open("r", real), self.open("g", generated), (PSNR,), num_real=4)

  def test_a_measure_of_one_set_has_real_clips_as_companions(self):
    real, generated = videos(6, 0), videos(5, 1)
    (card,) = self.score(self.open("r", real), self.open("g", generated), (SPREAD,))
    spread = lambda clips: float(np.asarray(mean_colours(clips)).std())
    self.assertAlmostEqual(card["value"], spread(generated), places=3)
    self.assertAlmostEqual(card["companions"]["real"], spread(real[:5]), places=3)

  def test_stills_of_pairs_are_of_the_real_clips_themselves(self):
    real, generated = videos(6, 0), videos(6, 1)
    sets = self.open("r", real), self.open("g", generated)
    (card,) = self.score(*sets, (KVD,), are_pairs=True)
    of = lambda clips: np.asarray(mean_colours(clips))
    stills = np.repeat(real[:, :1], 5, axis=1)
    expected = frechet.kernel_distance(of(real), of(stills))
    np.testing.assert_allclose(card["companions"]["stills"], expected, rtol=1e-5)
    self.assertNotIn("other real", card["companions"])

  def test_more_generated_clips_than_real_ones(self):
    real, generated = videos(6, 0), videos(18, 1)
    sets = self.open("r", real), self.open("g", generated)
    (card,) = self.score(*sets, (KVD,), num_real=6)
    self.assertEqual(card["name"], "KVD@18")
    self.assertEqual(card["protocol"]["num_real"], 6)
    of = lambda clips: np.asarray(mean_colours(clips))
    expected = frechet.kernel_distance(of(real), of(generated))
    np.testing.assert_allclose(card["value"], expected, rtol=1e-5)

  def test_each_window_of_long_videos_meets_the_same_real_clips(self):
    real, long = videos(8, 0), videos(6, 1, num_frames=14)
    sets = self.open("r", real), self.open("g", long, num_frames=5)
    calls = []
    counting = DETECTOR._replace(
      apply=lambda clips: calls.append(1) or mean_colours(clips)
    )
    found = score.score_windows(
      [KVD._replace(detector=counting)], *sets, batch_size=6, num_draws=0
    )
    self.assertEqual(list(found), ["frames 0 to 4", "frames 5 to 9"])
    of = lambda clips: np.asarray(mean_colours(clips))
    for i, (card,) in enumerate(found.values()):
      expected = frechet.kernel_distance(of(real[:6]), of(long[:, 5 * i : 5 * i + 5]))
      np.testing.assert_allclose(card["value"], expected, rtol=1e-5)
    self.assertLen(calls, 3)  # Real clips once, and two windows.

  def test_each_folder_meets_the_folder_of_its_name(self):
    for i, name in enumerate(("real/run", "real/walk", "gen/run", "gen/walk")):
      (self.folder / name).mkdir(parents=True)
      np.save(self.folder / name / "a.npy", videos(4, i))
    real, generated = (clip_set.open_clips(self.folder / n) for n in ("real", "gen"))
    found = score.score_groups([KVD], real, generated, 1, num_draws=0)
    of = lambda seed: np.asarray(mean_colours(videos(4, seed)))
    for i, (name, (card,)) in enumerate(found.items()):
      self.assertEqual(name, ("run", "walk")[i])
      expected = frechet.kernel_distance(of(i), of(i + 2))
      np.testing.assert_allclose(card["value"], expected, rtol=1e-5)
    (self.folder / "gen/walk").rename(self.folder / "gen/jump")
    generated = clip_set.open_clips(self.folder / "gen")
    with self.assertRaisesRegex(UserError, "jump is a folder of .*gen alone"):
      score.score_groups([KVD], real, generated, 1)


class ToolTest(FilesTestCase):
  def run_tool(self, *argv):
    out, err = io.StringIO(), io.StringIO()
    with (
      contextlib.redirect_stdout(out),
      contextlib.redirect_stderr(err),
      mock.patch.object(measures, "i3d_detector", lambda *args: DETECTOR),
    ):
      # Real features are kept in the folder of the test.
      cache = [] if argv[0] == "compare" else [f"--cache={self.folder / 'cache'}"]
      code = tool.main([*argv, *cache])
    return code, out.getvalue(), err.getvalue()

  def test_from_files_to_a_card_and_to_its_comparison(self):
    real, generated = self.save("real", videos(80, 0)), self.save("gen", videos(70, 1))
    first, second = (str(self.folder / f"{name}.json") for name in "ab")
    code, out, _ = self.run_tool(
      "fvd", real, generated, f"--output={first}", "--say=split=x"
    )
    self.assertEqual(code, 0)
    self.assertRegex(out, r"^FVD@70 = [\d.]+ \(95 % interval [\d.]+ to [\d.e+]+\)\n$")
    card = json.loads(pathlib.Path(first).read_text())
    self.assertEqual(card["protocol"]["num_generated"], 70)
    self.run_tool(
      "fvd", real, generated, "--num_frames=4", f"--output={second}", "--say=split=x"
    )
    code, out, _ = self.run_tool("compare", first, second)
    self.assertEqual(code, 0)
    unsaid = f"neither says: {', '.join(list(card_lib.FIELDS)[1:])}"
    self.assertEqual(out.splitlines()[2:], ["num_frames: 5 | 4", unsaid])

  def test_several_measures_of_several_windows(self):
    real, long = self.save("real", videos(8, 0)), self.save("long", videos(8, 1, 10))
    path = self.folder / "cards.json"
    code, out, _ = self.run_tool(
      "kvd,psnr,motion", real, long, "--num_frames=5", "--windows", f"--output={path}"
    )
    self.assertEqual(code, 0)
    cards = json.loads(path.read_text())
    self.assertEqual([card["name"] for card in cards[:2]], ["KVD@8", "PSNR@8"])
    self.assertEqual(
      {card["part"] for card in cards}, {"frames 0 to 4", "frames 5 to 9"}
    )
    self.assertRegex(out, r"frames 5 to 9: PSNR@8 = ")
    mean = np.mean([card["value"] for card in cards if card["name"] == "PSNR@8"])
    self.assertIn(f"mean of 2 PSNR: {mean:.4g} ±", out)

  def test_a_card_that_cannot_be_written_is_one_line(self):
    real, generated = self.save("real", videos(8, 0)), self.save("gen", videos(8, 1))
    path = self.folder / "file" / "card.json"
    path.parent.write_text("mine")
    code, _, error = self.run_tool("psnr", real, generated, f"--output={path}")
    self.assertEqual(code, 2)
    self.assertRegex(error, "^cannot write .*card.json .*; choose another folder\n$")

  def test_cards_of_several_measures_are_compared_one_by_one(self):
    real, generated = self.save("real", videos(8, 0)), self.save("gen", videos(8, 1))
    first, second = (str(self.folder / f"{name}.json") for name in "ab")
    self.run_tool("kvd,psnr", real, generated, f"--output={first}", "--num_draws=0")
    self.run_tool(
      "psnr,motion,kvd",
      real,
      generated,
      f"--output={second}",
      "--num_frames=4",
      "--num_draws=0",
    )
    code, out, _ = self.run_tool("compare", first, second)
    self.assertEqual(code, 0)
    lines = out.splitlines()
    self.assertEqual(
      [line[:5] for line in lines if "@" in line], ["KVD@8"] * 2 + ["PSNR@"] * 2
    )
    self.assertEqual(lines.count("num_frames: 5 | 4"), 2)
    self.run_tool("motion", real, generated, f"--output={second}", "--num_draws=0")
    code, _, err = self.run_tool("compare", first, second)
    self.assertEqual(code, 2)
    self.assertRegex(err, "no measure in common: KVD, PSNR | MOTION")

  def test_the_count_that_fvd_needs(self):
    real, few = self.save("real", videos(70, 0)), self.save("few", videos(9, 0))
    with self.assertLogs("absl", "WARNING") as logs:
      code, out, _ = self.run_tool("fvd", real, few)
    self.assertEqual(code, 0)
    self.assertRegex(out, "^KVD@9 = ")
    self.assertIn("too few for FVD", logs.output[0])

  def test_a_mistake_is_one_line_and_no_number(self):
    real = self.save("real", videos(70, 0))
    few, short = self.save("few", videos(9, 0)), self.save("short", videos(70, 0, 4))
    nan = self.save("nan", np.full((70, 5, 6, 6, 3), np.nan))
    empty = self.folder / "empty"
    empty.mkdir()
    card = self.save("card", videos(1, 0))
    for argv, message in (
      (("is", real, few), "no weights of the Inception-v3 of FID at"),
      (("fwd", real, real), "no measure 'fwd'; did you mean fvd"),
      (("kvd", real, real, "--say=splt=x"), "did you mean split"),
      (("kvd", real, real, "--windows", "--group_by=1"), "not both"),
      (("kvd", real, real, "--group_by=1"), "lies in 0 folders"),
      (("kvd", real, real, "--captions=no.json"), "no.json cannot be read as JSON"),
      (("fvd", real, short), "say with --num_frames"),
      (("fvd", real, nan), "has NaN"),
      (("fvd", real, str(empty)), "no video in"),
      (("kvd", real, real, "--num_clips=0"), "--num_clips=0: expected a whole number"),
      (("compare", card, card), "cannot be read as JSON"),
    ):
      with self.subTest(message):
        code, out, err = self.run_tool(*argv)
        self.assertEqual(code, 2)
        self.assertEmpty(out)
        self.assertRegex(err, message)
        self.assertLen(err.splitlines(), 1)


if __name__ == "__main__":
  absltest.main()
