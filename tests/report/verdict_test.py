"""The verdict of a report and its advice agree with the figures."""

import pathlib

from absl.testing import absltest, parameterized

from lamd_jax.metrics import protocol
from lamd_jax.report import reading, verdict

GOOD = {  # The middle of each range, worked out by hand.
  "reconstruction_gain_db": 5.0,
  "reconstruction_motion_ratio": 1.0,
  "sample_motion_ratio": 1.0,
  "sample_still_share": 0.0,
  "sample_pairwise_psnr": 20.0,
  "sample_first_frame_psnr": 35.0,
}
LABEL = {name: protocol.FIGURES[name].label for name in GOOD}


def folder(metrics=None, done=10, planned: int | None = 10):
  """A work folder whose one stage has made so many of the planned steps."""
  curves = {"loss": ([1, done], [2.0, 1.0])} if done else {}
  return reading.Folder(
    name="x",
    config={},
    environment={},
    metrics=metrics or {},
    clips=None,
    cards={},
    stages=[reading.Stage("base", curves, None, planned)],
    skipped=[],
    links=[],
    missing=[],
  )


class VerdictTest(parameterized.TestCase):
  def test_ranges_are_those_of_the_figures(self):
    ranged = {name for name, known in protocol.FIGURES.items() if known.expected()}
    self.assertEqual(ranged, GOOD.keys())

  @parameterized.parameters(
    (folder(done=0), "open", "Nothing has been trained yet."),
    (
      folder(done=1500, planned=2000),
      "open",
      "Training is not finished: stage base has made 1,500 of 2,000 steps.",
    ),
    (folder(), "open", "Training is finished; nothing has been measured yet."),
    (
      folder({"still_psnr": 20.0}),
      "open",
      "Measured; none of the figures has an expected range.",
    ),
    (folder(GOOD), "good", "All 6 figures with an expected range are within it."),
    (
      folder({"sample_motion_ratio": 1.0}),
      "good",
      "The one figure with an expected range is within it.",
    ),
    (
      folder(GOOD | {"sample_motion_ratio": 2.0}),
      "bad",
      "1 of 6 figures with an expected range is outside it: “Motion, sampled”.",
    ),
    (
      folder(GOOD | {"sample_motion_ratio": 2.0, "reconstruction_gain_db": 1.0}),
      "bad",
      "2 of 6 figures with an expected range are outside it;"
      " begin with “Gain over a still”.",
    ),
    # A number that is none is outside; text is no figure.
    (
      folder({"sample_motion_ratio": float("nan"), "sample_still_share": "x"}),
      "bad",
      "1 of 1 figure with an expected range is outside it: “Motion, sampled”.",
    ),
    # The metrics know of steps that the curves do not show.
    (
      folder(GOOD | {"base_steps": 20}, planned=20),
      "good",
      "All 6 figures with an expected range are within it.",
    ),
    # A configuration that does not say how many steps it wants.
    (
      folder(planned=None),
      "open",
      "Training is finished; nothing has been measured yet.",
    ),
  )
  def test_one_sentence_says_how_the_run_stands(self, of, kind, sentence):
    self.assertEqual(verdict.verdict(of), verdict.Verdict(kind, sentence))

  def test_all_is_well_and_nothing_is_to_do(self):
    self.assertEqual(verdict.next_steps(GOOD), [])

  @parameterized.parameters(*GOOD)
  def test_each_figure_outside_its_range_has_its_own_advice(self, name):
    known, advice = protocol.FIGURES[name], set()
    ends = (("below", known.low), ("above", known.high))
    for side, end in ends:
      if end is None:
        self.assertNotIn((name, side), verdict.ADVICE)
        continue
      metrics = GOOD | {name: end - 1e-3 if side == "below" else end + 1e-3}
      (step,) = verdict.next_steps(metrics)
      self.assertEqual((step.name, step.label), (name, LABEL[name]))
      self.assertEqual(step.advice, verdict.ADVICE[name, side])
      self.assertIn(known.expected(), step.finding)
      advice.add(step.advice)
      self.assertEqual(verdict.next_steps(GOOD | {name: end}), [])
    self.assertLen(advice, sum(end is not None for _, end in ends))

  def test_settings_named_in_advice_exist_and_are_free_to_change(self):
    text = " ".join(verdict.ADVICE.values())
    root = pathlib.Path(__file__).parents[2]
    for path in root.glob("configs/*.py"):
      source = path.read_text()
      if "config.sample = dict(" in source:
        block = source.split("config.sample = dict(")[1].split("\n  )")[0]
        for name in ("num_steps", "guidance"):
          self.assertIn(f"config.sample.{name}", text)
          self.assertIn(f"{name}=", block, msg=path)


if __name__ == "__main__":
  absltest.main()
