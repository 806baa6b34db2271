"""The whole job of a tiny VDM: joint training, classes, samples, and their edits."""

import json
import pathlib
import shutil
import tempfile

from absl.testing import absltest
import numpy as np
import pytest
import tiny_vdm
import whole_jobs

from lamd_jax.data import media, sources
from lamd_jax.experiment import conditions
from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import check, generate
from lamd_jax.training import logging as training_log
from lamd_jax.types import UserError


class VDMJobTest(absltest.TestCase):
  @pytest.mark.slow
  def test_from_data_to_report_and_on(self):
    config = tiny_vdm.get_config()
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
    shutil.copytree(whole_jobs.vdm(), folder)
    run = make_run(config, folder)
    check.rehearse(run)
    self.assertLen(training_log.read_scalars(folder / "base"), 2)
    with np.load(folder / "samples/clips.npz") as file:
      real, sampled = file["real"], file["sampled"]
      self.assertNotIn("reconstructed", file)
      self.assertEqual(int(file["given_frames"]), 1)
    self.assertEqual(sampled.shape, (4, 2, 3, 8, 8, 3))
    # The given frame is kept; the others differ from sample to sample.
    difference = np.abs(sampled[:, :, 0].astype(int) - real[:, None, 0])
    self.assertLessEqual(difference.max(), 1)
    self.assertGreater(
      np.abs(sampled[:, 0, 1:].astype(int) - sampled[:, 1, 1:]).max(), 9
    )
    figures = json.loads((folder / "metrics.json").read_text())
    self.assertNotIn("reconstruction_psnr", figures)
    self.assertGreater(figures["sample_first_frame_psnr"], 45)
    card = json.loads((folder / "cards/sample_motion.json").read_text())
    self.assertIn("classifier-free 2", card["protocol"]["guidance"])
    self.assertIn("stills", card["companions"])
    text = (folder / "report.html").read_text()
    self.assertNotIn("not complete", text)
    self.assertIn("MOTION@8", text)

    video = folder / "samples/real_0.mp4"
    longer = generate.Wish("extend", video, num_frames=5, said={"label": 3})
    paths = generate.generate(run, longer)
    self.assertEqual(media.probe(paths[0]).num_frames, 5)
    source = sources.make_source(config.data.to_dict(), "eval")
    describe = conditions.describer(conditions.make_conditions(config), source)
    self.assertEqual(int(describe(1)["label"]), source.annotation(1)["label"])

    # A picture is one given frame; of another number it cannot be asked.
    wish = generate.Wish("animate", video, said={"label": 3})
    path, _ = generate.generate(run, wish)
    self.assertTrue(path.exists())
    with self.assertRaisesRegex(UserError, "--caption: .* is 'class', not"):
      generate.generate(run, wish._replace(said={"caption": "a disc"}))
    from_nothing = generate.Wish("generate", said={"label": 3})
    with self.assertRaisesRegex(UserError, "begins with 1 given frames; .* --image"):
      generate.generate(run, from_nothing)
    config.sample.given_frames = 0
    with self.assertRaisesRegex(UserError, "0 given frames.*given_frames=1"):
      generate.generate(make_run(config, folder), wish)
    paths = generate.generate(make_run(config, folder), from_nothing)
    names = [f"{path.parent.name}/{path.name}" for path in paths]
    self.assertEqual(names, ["generated/video_0.mp4", "generated/video_1.mp4"])


if __name__ == "__main__":
  absltest.main()
