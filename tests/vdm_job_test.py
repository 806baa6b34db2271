"""The whole job of a tiny VDM: joint training, classes, samples, and their edits."""

import json
import pathlib
import tempfile

from absl.testing import absltest
import ml_collections
import numpy as np

from lamd_jax import beside, edit, evaluate, report, sample, train
from lamd_jax import workdir as workdir_lib
from lamd_jax.data import sources, video_io
from lamd_jax.training import logging as training_log
from lamd_jax.types import UserError


def tiny():
  config = ml_collections.ConfigDict()
  config.system = "vdm"
  config.seed = 0
  config.compute_dtype = "float32"
  config.mesh = dict(data=-1, fsdp=1, tensor=1, context=1)
  # How it is run, not what is learned: configs/README.md.
  config.run = dict(
    remat="none", on_nonfinite="stop", keep_best="", log_examples=False, wandb=""
  )
  config.data = dict(
    name="shapes", num_frames=3, frame_stride=1, resolution=8, num_train=8, num_eval=4
  )
  config.images = dict(num=2, source=dict())
  config.augment = dict(flip=True)
  config.condition = dict(kind="class", dropout=0.5, num_classes=5)
  config.stages = ("base",)
  config.base = dict(
    model=dict(
      model_channels=4,
      channel_mults=(1,),
      num_res_blocks=1,
      attention_factors=(),
      head_channels=4,
      embedding_channels=4,
      num_embedding_layers=2,
      max_frames=3,
    ),
    diffusion=dict(schedule="cosine", parameterization="v"),
    train=dict(
      steps=2,
      batch_size=8,
      accumulate=1,
      learning_rate=1e-3,
      ema_decay=0.9,
      log_every=1,
      checkpoint_every=2,
      sample_every=0,
    ),
  )
  config.sample = dict(
    num_steps=2,
    gamma=0.1,
    langevin_delta=0.1,
    guidance=2.0,
    given_frames=1,
    overlap=1,
    method="reconstruction",
    frames_weight=9.0,
    size_weight=2.0,
    batch_size=8,
  )
  config.evaluate = dict(
    num_clips=4, samples_per_clip=2, metrics=("motion",), weights="weights"
  )
  return config


class VDMJobTest(absltest.TestCase):
  def test_from_data_to_report_and_on(self):
    config = tiny()
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
    page = report.write_report(folder).read_text()
    self.assertNotIn("not complete", page)
    self.assertIn("MOTION@4", page)

    video = folder / "samples/real_0.mp4"
    paths = edit.edit(config, folder, "extend", video, num_frames=5, label=3)
    self.assertEqual(video_io.probe(paths[0]).num_frames, 5)
    source = sources.make_source(config.data.to_dict(), "eval")
    describe = beside.describer(config, source)
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
