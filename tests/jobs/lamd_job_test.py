"""The job of a tiny LaMD with captions: trained, sampled, asked, and gone on from."""

import pathlib
import tempfile

from absl.testing import absltest
import numpy as np
from PIL import Image
import tiny_config

from lamd_jax.data import media, vocabulary
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.jobs import edit, sample, train
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
  def test_from_captions_to_longer_videos(self):
    config = tiny()
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
    train.check(config)
    train.rehearse(config)
    workdir_lib.open_workdir(folder, config)
    train.train(config, folder)
    sample.sample_clips(config, folder)
    with np.load(folder / "samples/clips.npz") as file:
      real, sampled = file["real"], file["sampled"]
    self.assertEqual(sampled.shape, (4, 2, *real.shape[1:]))

    caption = "a red circle glides"
    paths = sample.animate(config, folder, real[0, 0], "mine", caption=caption)
    self.assertTrue(paths[0].exists())
    with self.assertRaisesRegex(UserError, "'hat' is not in the vocabulary"):
      sample.animate(config, folder, real[0, 0], "mine", caption="a hat")

    picture = folder / "photo.png"
    Image.fromarray(real[0, 0]).save(picture)
    asked = dict(is_picture=True, caption=caption)
    paths = edit.edit(config, folder, "extend", picture, num_frames=6, **asked)
    self.assertEqual(media.probe(paths[0]).num_frames, 6)
    with self.assertRaisesRegex(UserError, "does not upsample"):
      edit.edit(config, folder, "upsample", picture, **asked)


if __name__ == "__main__":
  absltest.main()
