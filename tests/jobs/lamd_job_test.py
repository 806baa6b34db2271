"""The job of a tiny LaMD with captions: trained, sampled, asked, and gone on from."""

import pathlib
import tempfile

from absl.testing import absltest
import numpy as np
from PIL import Image
import pytest
import tiny_config

from lamd_jax.data import media, vocabulary
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import check, generate, train
from lamd_jax.types import UserError


def tiny():
  config = tiny_config.get_config("steps=1")
  config.data.num_train = config.data.num_eval = 8
  config.condition = dict(
    kind="words",
    dropout=0.5,
    vocabulary="shapes",
    num_words=len(vocabulary.VOCABULARIES["shapes"].words),
  )
  for stage in config.stages:
    config[stage].train.checkpoint_every = 1
  config.sample = dict(num_steps=2, guidance=2.0, overlap=2, batch_size=8)
  return config


class LaMDJobTest(absltest.TestCase):
  @pytest.mark.slow
  def test_from_captions_to_longer_videos(self):
    config = tiny()
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
    run = make_run(config, folder)
    check.check(run)
    check.rehearse(run)
    workdir_lib.open_workdir(run)
    train.train(run)
    generate.sample_clips(run)
    with np.load(folder / "samples/clips.npz") as file:
      real, sampled = file["real"], file["sampled"]
    self.assertEqual(sampled.shape, (4, 2, *real.shape[1:]))

    picture = folder / "photo.png"
    Image.fromarray(real[0, 0]).save(picture)
    wish = generate.Wish("animate", picture, is_picture=True)
    said = {"caption": "a red circle glides"}
    paths = generate.generate(run, wish._replace(said=said))
    self.assertTrue(paths[0].exists())
    with self.assertRaisesRegex(UserError, "'hat' is not in the vocabulary"):
      generate.generate(run, wish._replace(said={"caption": "a hat"}))

    longer = wish._replace(task="extend", num_frames=6, said=said)
    paths = generate.generate(run, longer)
    self.assertEqual(media.probe(paths[0]).num_frames, 6)
    with self.assertRaisesRegex(UserError, "--task=upsample: lamd can animate, pred"):
      generate.generate(run, wish._replace(task="upsample", said=said))


if __name__ == "__main__":
  absltest.main()
