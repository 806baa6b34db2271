"""The whole job of a tiny VDM: joint training, classes, samples, and their edits."""

import json
import pathlib
import tempfile

from absl.testing import absltest
import numpy as np
import tiny_vdm

from lamd_jax.data import media, sources
from lamd_jax.experiment import conditions
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.jobs import edit, evaluate, sample, train
from lamd_jax.report import page
from lamd_jax.training import logging as training_log
from lamd_jax.types import UserError


class VDMJobTest(absltest.TestCase):
  def test_from_data_to_report_and_on(self):
    config = tiny_vdm.get_config()
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
    train.check(config)
    train.rehearse(config)
    workdir_lib.open_workdir(folder, config)
    train.train(config, folder)
    self.assertLen(training_log.read_scalars(folder / "base"), 2)
    sample.sample_clips(config, folder)
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
    figures = evaluate.evaluate(config, folder, 0.0)
    self.assertNotIn("reconstruction_psnr", figures)
    self.assertGreater(figures["sample_first_frame_psnr"], 45)
    card = json.loads((folder / "cards/sample_motion.json").read_text())
    self.assertIn("classifier-free 2", card["protocol"]["guidance"])
    self.assertIn("stills", card["companions"])
    text = page.write_report(folder).read_text()
    self.assertNotIn("not complete", text)
    self.assertIn("MOTION@4", text)

    video = folder / "samples/real_0.mp4"
    paths = edit.edit(config, folder, "extend", video, num_frames=5, label=3)
    self.assertEqual(media.probe(paths[0]).num_frames, 5)
    source = sources.make_source(config.data.to_dict(), "eval")
    describe = conditions.describer(config, source)
    self.assertEqual(int(describe(1)["label"]), source.annotation(1)["label"])

    # A picture is one given frame; of another number it cannot be asked.
    (path, _) = sample.animate(config, folder, real[0, 0], "mine", label=3)
    self.assertTrue(path.exists())
    with self.assertRaisesRegex(UserError, "--caption: .* is 'class', not"):
      sample.animate(config, folder, real[0, 0], "mine", caption="a disc")
    config.sample.given_frames = 0
    with self.assertRaisesRegex(UserError, "0 given frames.*given_frames=1"):
      sample.animate(config, folder, real[0, 0], "mine")


if __name__ == "__main__":
  absltest.main()
