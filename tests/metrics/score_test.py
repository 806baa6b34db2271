"""The tool that measures anyone's videos, from folders to the card."""

import contextlib
import io
import json
import os
import pathlib
import re
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


def taken(count, *numbers):
  """Returns the numbers of the clips that a subset takes: the first, or a to b."""
  first, last = (0, *numbers)[-2:]
  marks = np.arange(count).reshape(-1, 1, 1, 1, 1).repeat(3, -1).astype(np.uint8)
  chosen = [int(x.max()) for x in clip_set.of_array("", marks).subset(first, last)]
  return lambda clips: clips[chosen]


def moving(num, seed):
  """Clips of two colours in turn, sorted by class: class c moves by 10 c levels."""
  classes = np.sort(np.random.default_rng(seed).integers(0, 10, num))
  steps = np.arange(5).reshape(-1, 1, 1, 1) % 2 * 10 * np.ones((8, 8, 3))
  return (classes.reshape(-1, 1, 1, 1, 1) * steps).astype(np.uint8)


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
    half, others = taken(140, 70)(real), taken(140, 70, 140)(real)
    expected = frechet.frechet_distance(of(half), of(others))
    np.testing.assert_allclose(floor, expected, rtol=1e-5)
    stills = np.repeat(others[:, :1], 5, axis=1)
    expected = frechet.frechet_distance(of(half), of(stills))
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
    self.assertAlmostEqual(card["companions"]["real"], spread(taken(6, 5)(real)), 3)

  def test_stills_of_pairs_are_of_the_real_clips_themselves(self):
    real, generated = videos(6, 0), videos(6, 1)
    sets = self.open("r", real), self.open("g", generated)
    (card,) = self.score(*sets, (KVD,), are_pairs=True)
    of = lambda clips: np.asarray(mean_colours(clips))
    stills = np.repeat(real[:, :1], 5, axis=1)
    expected = frechet.kernel_distance(of(real), of(stills))
    np.testing.assert_allclose(card["companions"]["stills"], expected, rtol=1e-5)
    self.assertNotIn("other real", card["companions"])

  def test_clips_are_taken_from_all_classes(self):
    # By name, a third of the clips would be those of the three classes that move least.
    made = measures.make_measures(["motion"], measures.Options())
    for num_real, num_generated, kwargs in (
      (600, 200, {}),
      (200, 600, {}),
      (600, 600, {"num_clips": 200}),
    ):
      real, generated = (
        clip_set.of_array("", moving(num, seed))
        for seed, num in enumerate((num_real, num_generated))
      )
      card, *_ = score.score(made, real, generated, num_draws=0, **kwargs)
      self.assertEqual(card["name"], "MOTION@200")
      self.assertBetween(card["value"], 0.85, 1.15)
      if num_real == 600:
        self.assertBetween(card["companions"]["other real"], 0.85, 1.15)
      said = card["protocol"]
      cut = "200 of 600, at random (seed 0)"
      self.assertEqual(said["subset_of_real"], "all" if num_real == 200 else cut)
      self.assertEqual(
        said["subset_of_generated"], "all" if num_generated == 200 else cut
      )

  def test_a_part_of_two_paired_sets_is_of_pairs(self):
    clips = videos(30, 0)
    sets = self.open("real", clips), self.open("gen", clips)
    (card,) = self.score(*sets, (PSNR,), num_clips=7)
    self.assertEqual((card["name"], card["value"]), ("PSNR@7", image.MAX_PSNR))

  def test_sets_of_different_size_are_no_pairs(self):
    sets = self.open("real", videos(9, 0)), self.open("gen", videos(7, 0))
    for kwargs in ({"wanted": (PSNR,)}, {"wanted": (KVD,), "are_pairs": True}):
      with self.assertRaisesRegex(UserError, "9 clips, .* 7; to be compared one by"):
        self.score(*sets, **kwargs)
    self.score(*sets, (KVD,))

  def test_clips_are_paired_by_the_numbers_in_their_names(self):
    clips = videos(12, 0)
    for folder, name in (("real", "clip_{:03}"), ("gen", "clip_{}"), ("odd", "{}")):
      (self.folder / folder).mkdir()
      for i, clip in enumerate(clips):
        np.save(self.folder / folder / f"{name.format(i)}.npy", clip)
    real, *others = (
      clip_set.open_clips(self.folder / name) for name in ("real", "gen", "odd")
    )
    for generated, odd in zip(others, ("clip_0.npy", "0.npy"), strict=True):
      with self.assertLogs("absl", "WARNING") as logs:
        (card,) = self.score(real, generated, (PSNR,))
      self.assertEqual(card["value"], image.MAX_PSNR)
      self.assertIn("12 of 12 names differ", logs.output[0])
      self.assertIn(f"clip_000.npy with {odd}, ..., clip_011.npy", logs.output[0])
    with self.assertNoLogs("absl", "WARNING"):
      self.score(real, real, (PSNR,))
      self.score(self.open("a", clips), self.open("b", clips), (PSNR,))

  def test_several_samples_of_each_clip_are_all_judged(self):
    real, samples = videos(6, 0), videos(18, 1)
    sets = clip_set.of_array("r", real), clip_set.of_array("g", samples)
    psnr, kvd, spread = self.score(
      *sets, (PSNR, KVD, SPREAD), samples_per_clip=3, are_pairs=True
    )
    of = lambda clips: np.asarray(mean_colours(clips))
    stills = np.repeat(real[:, :1], 5, axis=1)
    self.assertAlmostEqual(psnr["value"], image.psnr(real.repeat(3, 0), samples))
    self.assertAlmostEqual(psnr["companions"]["stills"], image.psnr(real, stills))
    expected = frechet.kernel_distance(of(real), of(samples))
    np.testing.assert_allclose(kvd["value"], expected, rtol=1e-5)
    expected = frechet.kernel_distance(of(real), of(stills))
    np.testing.assert_allclose(kvd["companions"]["stills"], expected, rtol=1e-5)
    self.assertAlmostEqual(spread["value"], of(samples).std(), places=3)
    self.assertAlmostEqual(spread["companions"]["real"], of(real).std(), places=3)
    self.assertEqual([x["name"][-3:] for x in (psnr, kvd, spread)], ["@18"] * 3)
    self.assertEqual(kvd["protocol"]["num_real"], 6)
    others = clip_set.of_array("o", videos(40, 2))
    kwargs = dict(samples_per_clip=3, others=others, num_draws=0)
    (card,) = self.score(*sets, (KVD,), **kwargs)
    expected = frechet.kernel_distance(of(real), of(taken(40, 18)(videos(40, 2))))
    np.testing.assert_allclose(card["companions"]["other real"], expected, rtol=1e-5)
    with self.assertRaisesRegex(UserError, "r has 6 clips, g 18 of 4 each"):
      self.score(*sets, (KVD,), samples_per_clip=4)

  def test_a_part_of_several_samples_is_of_whole_clips(self):
    real = videos(20, 0)
    sets = clip_set.of_array("r", real), clip_set.of_array("g", real.repeat(4, 0))
    (card,) = self.score(*sets, (PSNR,), samples_per_clip=4, num_clips=5)
    self.assertEqual((card["name"], card["value"]), ("PSNR@20", image.MAX_PSNR))

  def test_measures_of_frames_leave_out_what_was_given(self):
    real, generated = videos(8, 0), videos(8, 1)
    generated[:, :2] = real[:, :2]
    frames = KVD._replace(
      name="KID",
      detector=DETECTOR._replace(name="frame colours", min_frames=1),
      is_of_frames=True,
    )
    sets = clip_set.of_array("r", real), clip_set.of_array("g", generated)
    kwargs = dict(given_frames=2, are_pairs=True, protocol={"given_frames": "2, too"})
    psnr, kid, kvd = self.score(*sets, (PSNR, frames, KVD), **kwargs)
    new = np.s_[:, 2:]
    self.assertAlmostEqual(psnr["value"], image.psnr(real[new], generated[new]))
    still = np.repeat(real[:, :1], 5, axis=1)  # Of the given frame.
    expected = image.psnr(real[new], still[new])
    self.assertAlmostEqual(psnr["companions"]["stills"], expected)
    of = lambda clips: np.asarray(mean_colours(clips))
    expected = frechet.kernel_distance(of(real[new]), of(generated[new]))
    np.testing.assert_allclose(kid["value"], expected, rtol=1e-5)
    expected = frechet.kernel_distance(of(real), of(generated))
    np.testing.assert_allclose(kvd["value"], expected, rtol=1e-5)
    said = [card["protocol"] for card in (kid, kvd)]
    self.assertEqual([x["num_frames"] for x in said], [3, 5])
    self.assertEqual([x["first_frame"] for x in said], [2, 0])
    left_out = "2, left out: single frames are scored"
    self.assertEqual([x["given_frames"] for x in said], [left_out, "2, too"])

  def test_a_cache_that_cannot_be_used_costs_no_score(self):
    sets = self.open("real", videos(6, 0)), self.open("gen", videos(6, 1))
    (expected,) = self.score(*sets, (KVD,))
    (self.folder / "file").write_text("mine")
    with self.assertLogs("absl", "WARNING") as logs:
      (card,) = self.score(*sets, (KVD,), cache=self.folder / "file")
    self.assertEqual(card, expected)
    self.assertLen(logs.output, 1)

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
      window = long[:, 5 * i : 5 * i + 5]
      expected = frechet.kernel_distance(of(taken(8, 6)(real)), of(window))
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

  def test_a_card_that_cannot_be_written_costs_one_line_and_no_figure(self):
    real, generated = self.save("real", videos(8, 0)), self.save("gen", videos(8, 1))
    (self.folder / "file").write_text("mine")
    for path in (self.folder / "file" / "card.json", self.folder / ("x" * 255)):
      code, out, error = self.run_tool("psnr", real, generated, f"--output={path}")
      self.assertEqual(code, 2)
      self.assertRegex(out, r"^PSNR@8 = \d")
      self.assertRegex(error, "^cannot write .*; choose another folder\n$")

  def test_a_place_where_no_card_can_be_is_said_before_the_long_work(self):
    os.mkfifo(self.folder / "pipe")  # A device would be replaced by a file.
    real = self.save("real", videos(8, 0))
    for path, message in (
      (str(self.folder), "is a folder; expected a file"),
      (f"{self.folder}/new/", "expected a file"),
      (str(self.folder / "pipe"), "expected a file"),
      ("~nobody_of_that_name/card.json", "there is no such user"),
    ):
      with mock.patch.object(score, "score", side_effect=AssertionError):
        code, _, error = self.run_tool("psnr", real, real, f"--output={path}")
      self.assertEqual(code, 2)
      self.assertRegex(error, message)
      self.assertLen(error.splitlines(), 1)

  def test_a_user_without_a_home_has_no_cache(self):
    environment = {x: y for x, y in os.environ.items() if x != "XDG_CACHE_HOME"}
    with mock.patch.dict(os.environ, environment, clear=True):
      self.assertTrue(tool._cache().endswith("/.cache/lamd_jax"))
      with mock.patch.object(os.path, "expanduser", lambda path: path):
        self.assertIsNone(tool._cache())

  def test_a_cache_that_cannot_be_written_is_said_and_done_without(self):
    real, generated = self.save("real", videos(8, 0)), self.save("gen", videos(8, 1))
    (self.folder / "cache").write_text("mine")
    with self.assertLogs("absl", "WARNING") as logs:
      code, out, _ = self.run_tool("kvd", real, generated)
    self.assertEqual(code, 0)
    self.assertRegex(out, "^KVD@8 = ")
    self.assertIn("features of real clips are not kept", logs.output[0])

  def test_names_of_any_bytes_are_printed_in_one_line_and_written(self):
    name = os.fsdecode(b"a\n\x1b[31m\xff")
    for top in ("real", "gen"):
      (self.folder / top / name).mkdir(parents=True)
      np.save(self.folder / top / name / "x.npy", videos(8, len(top)))
    path = self.folder / "card.json"
    code, out, error = self.run_tool(
      "psnr",
      *(str(self.folder / x) for x in ("real", "gen")),
      "--group_by=1",
      f"--output={path}",
      f"--say=split={name}",
    )
    self.assertEqual((code, error), (0, ""))
    shown = r"a\n\x1b[31m\xff"
    self.assertRegex(out, rf"^{re.escape(shown)}: PSNR@8 = .*\n$")
    card = json.loads(path.read_text())
    self.assertEqual((card["part"], card["protocol"]["split"]), (shown, shown))

  def test_names_in_cards_are_printed_in_one_line(self):
    path = self.folder / "card.json"
    card = {"name": "a\n\x1b[31m@1", "value": 1, "protocol": {"split": "\n\udcff"}}
    path.write_text(json.dumps(card))
    code, out, _ = self.run_tool("compare", str(path), str(path))
    self.assertEqual(code, 0)
    self.assertTrue(all(line.isprintable() for line in out.splitlines()))
    self.assertIn(r"a\n\x1b[31m@1 = 1", out)

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
    self.assertLen([line for line in lines if "neither says" in line], 1)
    self.assertIn("neither says: split", lines[-1])

  def test_cards_with_nothing_in_common_are_told_apart(self):
    real, generated = self.save("real", videos(8, 0)), self.save("gen", videos(8, 1))
    files = [str(self.folder / f"{name}.json") for name in "abc"]
    for name, file, frames in zip(
      ("kvd,psnr", "motion", "psnr"), files, (5, 4, 3), strict=True
    ):
      self.run_tool(
        name, real, generated, f"--output={file}", f"--num_frames={frames}",
        "--num_draws=0",
      )  # fmt: skip
    code, _, err = self.run_tool("compare", *files[:2])
    self.assertEqual(code, 2)
    self.assertRegex(err, r"no measure in common.*: KVD, PSNR \| MOTION, ROUGHNESS")
    self.assertRegex(err, r"their clips differ in num_frames: 5 \| 4\n$")
    # A single card is compared with its like among several.
    code, out, _ = self.run_tool("compare", files[0], files[2])
    self.assertEqual(code, 0)
    self.assertRegex(out, r"^PSNR@8 = .*\nPSNR@8 = .*\nnum_frames: 5 \| 3\n")
    self.run_tool(
      "psnr", real, generated, "--num_frames=2", "--windows", f"--output={files[1]}",
      "--num_draws=0",
    )  # fmt: skip
    code, out, _ = self.run_tool("compare", files[1], files[2])
    self.assertEqual(code, 0)
    self.assertRegex(out, r"^frames 0 to 1: PSNR@8 = .*\nPSNR@8 = ")
    # So are two single ones of whatever measures.
    self.run_tool("kvd", real, generated, f"--output={files[0]}")
    code, out, _ = self.run_tool("compare", files[0], files[2])
    self.assertEqual(code, 0)
    self.assertIn("measure: KVD | PSNR", out)

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
      (("kvd", real, real, "--num_frames=100000000000"), "from 1 to 1000000000"),
      (("kvd", real, real, "--resolution=10000000"), "from 1 to 4096"),
      (("kvd", real, real, "--num_draws=10000000"), "from 0 to 100000"),
      (("kvd", real, real, f"--captions={card}"), "cannot be read as JSON"),
      (("kvd", real, real, "--weights=~nobody_of_that_name"), "no such user"),
      (("kvd", real, "x" * 300), "x does not exist"),
      (("kvd", "~nobody_of_that_name/x", real), "does not exist"),
      (("is", real, real, f"--weights={'x' * 300}"), "File name too long|no weights"),
    ):
      with self.subTest(message):
        code, out, err = self.run_tool(*argv)
        self.assertEqual(code, 2)
        self.assertEmpty(out)
        self.assertRegex(err, message)
        self.assertLen(err.splitlines(), 1)

  def test_flags_that_cannot_be_read_are_one_line(self):
    for argv in (
      ["kvd"],
      ["kvd", "a", "b", "--num_clips=x\n"],
      ["kvd", "a", "b", "--x"],
    ):
      err = io.StringIO()
      with contextlib.redirect_stderr(err), self.assertRaises(SystemExit) as caught:
        tool.main(argv)
      self.assertEqual(caught.exception.code, 2)
      self.assertLen(err.getvalue().splitlines(), 1)

  def test_damaged_cards_and_captions_are_one_line_that_names_the_file(self):
    real = self.save("real", videos(8, 0))
    path = self.folder / "card.json"
    for content in (
      *("", "[]", "{}", "3", "[1]", "[" * 10**5, "9" * 5000, '{"name": "x"}'),
      '{"name": "x", "value": 1e999, "protocol": {}}',
      '{"name": "x", "value": "1", "protocol": {}}',
      '{"name": "x", "value": 1, "protocol": [], "companions": 3}',
      b"\xff\xfe",
    ):
      path.write_bytes(content if isinstance(content, bytes) else content.encode())
      argvs = [["compare", str(path), str(path)]]
      if content not in ("{}", '{"name": "x"}'):  # Captions, if few.
        argvs.append(["psnr", real, real, f"--captions={path}"])
      for argv in argvs:
        with self.subTest(str(content[:20])):
          code, out, err = self.run_tool(*argv)
          self.assertEqual((code, out), (2, ""))
          self.assertIn("card.json", err)
          self.assertLen(err.splitlines(), 1)
    path.write_text('{"a": "\\ud800"}')
    code, _, err = self.run_tool("psnr", real, real, f"--captions={path}")
    self.assertEqual(code, 2)
    self.assertIn("holds no captions", err)


if __name__ == "__main__":
  absltest.main()
