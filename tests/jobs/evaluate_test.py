"""Cards of a run: one of each measure, and of each group of clips."""

import json
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
import numpy as np
import tiny_config

from lamd_jax.data import sources
from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import evaluate
from lamd_jax.metrics import features, frechet, measures
from lamd_jax.training import checkpoint
from lamd_jax.types import UserError

# What it sees of a clip is its mean colour.
DETECTOR = features.Detector(
  "colour", "", "none", 1, lambda clips: clips.mean((1, 2, 3), dtype=np.float64)
)
MEASURE = measures.Measure("KVD", "sets", DETECTOR, frechet.kernel_distance)


def colours(seed, shift):
  values = np.random.default_rng(seed).integers(50, 150, (8, 1, 1, 1, 3)) + shift
  return np.broadcast_to(values, (8, 3, 8, 8, 3)).astype(np.uint8)


class GroupsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.config = tiny_config.get_config()
    for target, name, value in (
      (evaluate, "_make_measures", [MEASURE]),
      (checkpoint, "read_meta", (7, {})),
    ):
      self.enter_context(mock.patch.object(target, name, return_value=value))
    self.real = colours(0, 0)
    shifts = np.array([0, 60] * 4).reshape(8, 1, 1, 1, 1).astype(np.uint8)
    self.sampled = (colours(1, 0) + shifts)[:, None]
    self.notes = [{"label": i % 2, "subject": i // 4, "caption": ""} for i in range(8)]

  def write(self):
    run = make_run(self.config, self.folder)
    return evaluate._write_cards(run, self.real, None, self.sampled, 1, self.notes)

  def test_the_mean_over_labels_is_of_scores_within_each(self):
    self.config.evaluate.group_by = ("label", "subject")
    values = self.write()
    card = json.loads((self.folder / "cards/sample_kvd_by_label.json").read_text())
    mean = lambda videos: videos.reshape(-1, 3, 8, 8, 3).mean((1, 2, 3))
    expected = [
      frechet.kernel_distance(mean(self.real[i::2]), mean(self.sampled[i::2]))
      for i in range(2)
    ]
    np.testing.assert_allclose(
      [card["groups"][name] for name in "01"], expected, rtol=1e-6
    )
    np.testing.assert_allclose(values["sample_kvd_by_label"], np.mean(expected))
    # Samples of the one label are far brighter, of the two subjects half are.
    self.assertGreater(card["groups"]["1"], 5 * abs(card["groups"]["0"]))
    self.assertIn("sample_kvd_by_subject", values)
    self.assertIn("sample_kvd", values)

  def test_samples_are_judged_also_with_the_given_frames_put_back(self):
    self.config.evaluate.substitute_given = True
    values = self.write()
    mean = lambda videos: videos.mean((1, 2, 3))
    put_back = self.sampled[:, 0].copy()
    put_back[:, 0] = self.real[:, 0]
    for name, videos in (("sample", self.sampled[:, 0]), ("sample-given", put_back)):
      expected = frechet.kernel_distance(mean(self.real), mean(videos))
      self.assertAlmostEqual(values[f"{name}_kvd"], expected, places=5)
    card = json.loads((self.folder / "cards/sample-given_kvd.json").read_text())
    self.assertIn("put back as given", card["protocol"]["given_frames"])
    self.assertNotEqual(values["sample_kvd"], values["sample-given_kvd"])

  def test_all_samples_of_each_clip_are_judged_and_grouped_with_it(self):
    self.config.evaluate.group_by = ("label",)
    # Three samples, of which the first is far from the others.
    self.sampled = np.concatenate(
      [self.sampled, colours(2, 0)[:, None], colours(3, 0)[:, None]], axis=1
    )
    values = self.write()
    mean = lambda videos: videos.reshape(-1, 3, 8, 8, 3).mean((1, 2, 3))
    expected = frechet.kernel_distance(mean(self.real), mean(self.sampled))
    np.testing.assert_allclose(values["sample_kvd"], expected, rtol=1e-6)
    card = json.loads((self.folder / "cards/sample_kvd.json").read_text())
    self.assertEqual(card["name"], "KVD@24")
    self.assertEqual(card["protocol"]["num_real"], 8)
    card = json.loads((self.folder / "cards/sample_kvd_by_label.json").read_text())
    expected = [
      frechet.kernel_distance(mean(self.real[i::2]), mean(self.sampled[i::2]))
      for i in range(2)
    ]
    np.testing.assert_allclose(
      [card["groups"][name] for name in "01"], expected, rtol=1e-6
    )

  def test_given_frames_count_in_no_measure_of_frames(self):
    self.config.evaluate.substitute_given = True
    kid = MEASURE._replace(name="KID", is_of_frames=True)
    self.sampled[:, :, 0] = 0  # A model that spoils what it was given.
    with mock.patch.object(evaluate, "_make_measures", return_value=[MEASURE, kid]):
      values = self.write()
    mean = lambda videos: videos.mean((1, 2, 3))
    real, sampled = mean(self.real[:, 1:]), mean(self.sampled[:, 0, 1:])
    expected = frechet.kernel_distance(real, sampled)
    np.testing.assert_allclose(values["sample_kid"], expected, rtol=1e-6)
    np.testing.assert_allclose(values["sample-given_kid"], expected, rtol=1e-6)
    self.assertNotAlmostEqual(values["sample_kvd"] / expected, 1, places=3)
    card = json.loads((self.folder / "cards/sample_kid.json").read_text())
    self.assertEqual(card["protocol"]["num_frames"], 2)
    self.assertIn("left out", card["protocol"]["given_frames"])

  def test_other_real_clips_are_of_all_training_videos(self):
    run = make_run(self.config, self.folder)
    others = evaluate._others(run, 4)
    source = sources.make_source(run.data(run.stages[-1]), "train")
    self.assertGreaterEqual(len(others), len(source))
    first = next(iter(others))
    num_frames, stride, _ = run.clip(run.stages[-1])
    np.testing.assert_array_equal(first, source.read(0, 0, num_frames, stride))

  def test_a_group_that_clips_do_not_have_is_named(self):
    self.config.evaluate.group_by = ("gesture",)
    with self.assertRaisesRegex(
      UserError, "'gesture', .* known: caption, label, subject"
    ):
      self.write()


if __name__ == "__main__":
  absltest.main()
