"""No score without its protocol."""

import json

from absl.testing import absltest
import numpy as np

from lamd_jax.metrics import card, features, frechet, measures
from lamd_jax.types import UserError

DETECTOR = features.Detector("I3D", "ab" * 32, "half_pixel", 9, lambda clips: clips)
KVD = measures.Measure("KVD", "sets", DETECTOR, frechet.kernel_distance)
FVD = KVD._replace(
  name="FVD",
  number=frechet.frechet_distance,
  min_clips=64,
  instead=KVD,
  facts={"covariance": "divided by n - 1"},
)


def draw(n, seed, shift=0.0):
  return np.random.default_rng(seed).normal(shift, 1.0, (n, 5))


def make(measure=FVD, num=70, detector=DETECTOR, **kwargs):
  arguments = dict(protocol={"num_frames": 16, "real": "a"}, num_draws=0)
  sets = draw(num, 0), draw(num, 1, shift=0.5)
  measure = measure._replace(detector=detector)
  return card.make_card(measure, sets, **(arguments | kwargs))


class CardTest(absltest.TestCase):
  def test_the_name_carries_the_count_and_the_value_is_the_distance(self):
    got = make()
    self.assertEqual(got["name"], "FVD@70")
    expected = frechet.frechet_distance(draw(70, 0), draw(70, 1, shift=0.5))
    self.assertEqual(got["value"], expected)
    self.assertRegex(card.headline(got), r"^FVD@70 = \d")

  def test_everything_that_was_done_is_in_it(self):
    said = make()["protocol"]
    self.assertEqual(said["num_frames"], 16)
    self.assertEqual(said["detector_sha256"], "ab" * 32)
    self.assertEqual(said["resize_rule"], "half_pixel")
    self.assertEqual((said["num_real"], said["num_generated"]), (70, 70))
    self.assertEqual(said["covariance"], "divided by n - 1")
    self.assertNotIn("covariance", make(KVD)["protocol"])

  def test_companions_are_measured_against_the_same_real_clips(self):
    other = draw(70, 5)
    got = make(companions={"other real": other})
    expected = frechet.frechet_distance(draw(70, 0), other)
    self.assertEqual(got["companions"], {"other real": expected})
    self.assertIn(f"; other real {expected:.4g}", card.headline(got))

  def test_a_mean_over_groups_has_their_deviation_and_their_number(self):
    cards = {name: make(num=n) for name, n in (("wave", 70), ("stop", 90))}
    a, b = (cards[name]["value"] for name in ("wave", "stop"))
    got = card.mean_card(cards, "label")
    self.assertEqual(got["name"], "FVD by label@2x70")
    self.assertAlmostEqual(got["value"], (a + b) / 2)
    self.assertAlmostEqual(got["std"], abs(a - b) / 2)
    self.assertEqual(got["groups"], {"wave": a, "stop": b})
    self.assertIn(f" ± {abs(a - b) / 2:.4g}", card.headline(got))
    self.assertEqual(card.measured(got), "FVD by label")

  def test_the_interval_is_printed(self):
    got = make(num_draws=20)
    low, high = got["interval_95"]
    self.assertBetween(got["value"], low, high)
    self.assertIn(f"(95 % interval {low:.4g} to {high:.4g})", card.headline(got))

  def test_a_card_survives_json(self):
    got = make(num_draws=5, companions={"x": draw(70, 3)})
    self.assertEqual(json.loads(json.dumps(got)), got)

  def test_too_few_clips_for_a_covariance(self):
    with self.assertRaisesRegex(
      UserError, "63 clips are too few for FVD.*at least 64.*KVD can"
    ):
      make(num=63)
    self.assertEqual(make(KVD, num=5)["name"], "KVD@5")

  def test_sets_of_which_half_has_no_distance_have_no_interval(self):
    self.assertNotIn("interval_95", make(KVD, num=3, num_draws=5))
    self.assertIn("interval_95", make(KVD, num=4, num_draws=5))

  def test_names_of_any_bytes_are_printable_in_it(self):
    got = make(protocol={"real": "a\nb\x1b[31m\udcff", "num_frames": 16})
    self.assertEqual(got["protocol"]["real"], r"a\nb\x1b[31m\xff")
    got = card.mean_card({"a\nb": make()}, "label")
    self.assertEqual([*got["groups"]], [r"a\nb"])

  def test_the_remark_follows_the_count_and_is_no_part_of_the_measure(self):
    got = make(FVD._replace(remark="in 1 split"))
    self.assertEqual(got["name"], "FVD@70 in 1 split")
    self.assertEqual(card.measured(got), "FVD")

  def test_of_one_set_there_is_no_count_of_real_clips(self):
    spread = measures.Measure("SPREAD", "alone", DETECTOR, lambda rows: rows.std())
    got = card.make_card(spread, [draw(9, 0)], protocol={}, num_draws=5)
    self.assertEqual(got["name"], "SPREAD@9")
    self.assertEqual(got["value"], draw(9, 0).std())
    self.assertNotIn("num_real", got["protocol"])

  def test_a_number_that_is_none_is_not_printed(self):
    ratio = measures.Measure("RATIO", "sets", DETECTOR, lambda a, b: float("nan"))
    with self.assertRaisesRegex(UserError, "RATIO is not defined for these clips"):
      make(ratio)

  def test_compare_says_what_differs_and_nothing_else(self):
    a = make()
    b = make(protocol={"num_frames": 16, "real": "b"})
    self.assertEqual(card.compare(a, b), [])
    self.assertEqual(card.unsaid([a, b]), [*card.FIELDS])
    b = make(num=90, detector=DETECTOR._replace(resize_rule="tf1"))
    different = [
      "num_generated: 70 | 90", "num_real: 70 | 90", "resize_rule: half_pixel | tf1"
    ]  # fmt: skip
    self.assertEqual(card.compare(a, b), different)
    self.assertIn("measure: FVD | KVD", card.compare(a, make(KVD)))
    everything = dict.fromkeys(card.FIELDS, "x") | {"num_frames": 16, "real": "a"}
    first, second = (
      make(protocol=everything),
      make(protocol=everything | {"split": "y"}),
    )
    self.assertEqual(card.compare(first, second), ["split: x | y"])
    self.assertEqual(card.unsaid([a, second]), [])
    self.assertIn("split: not said | x", card.compare(a, first))

  def test_what_is_no_card_is_refused(self):
    good = json.loads(json.dumps(make(num_draws=5, companions={"x": draw(70, 3)})))
    self.assertEqual(card.check(good), good)
    for change in (
      {"name": 3},
      {"value": "3"},
      {"value": True},
      {"value": float("inf")},
      {"value": 10**400},
      {"std": None},
      {"part": 1},
      {"protocol": []},
      {"protocol": {"split": [[]]}},
      {"companions": {"x": "y"}},
      {"companions": 1},
      {"interval_95": [1]},
      {"interval_95": [1, None]},
    ):
      with self.subTest(str(change)), self.assertRaisesRegex(UserError, "not a card"):
        card.check(good | change)
    for content in ([], None, 3, {"value": 3}, {"name": "x", "value": 3}):
      with self.subTest(str(content)), self.assertRaisesRegex(UserError, "not a card"):
        card.check(content)


if __name__ == "__main__":
  absltest.main()
