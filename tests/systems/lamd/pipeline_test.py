"""Motion given to pictures: what is asked of the network, and what is written.

The network is real and tiny, its parameters are those of `tiny_lamd`; pixels are
compared as they are given to be written, since mp4 changes them.
"""

import itertools
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
import numpy as np
from PIL import Image
import tiny_config
from tiny_lamd import KEY, autoencoder

from lamd_jax.data import media
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.jobs import transfer
from lamd_jax.systems import pixels
from lamd_jax.systems.lamd import motion as lamd_motion
from lamd_jax.training import sharding
from lamd_jax.types import UserError

F, S = 3, 8
FPS = 6.0


class TransferTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.config = tiny_config.get_config()
    rng = np.random.default_rng(5)
    self.clips = []
    for name in ("first", "second"):
      self.clips.append(self.folder / f"{name}.mp4")
      frames = rng.integers(0, 256, (2 * F - 1, S, S, 3)).astype(np.uint8)
      media.write_mp4(self.clips[-1], frames, 24.0)
    self.image = rng.integers(0, 256, (S, S, 3)).astype(np.uint8)
    mesh = jax.make_mesh(
      (1,) * 4, sharding.AXES, (AxisType.Auto,) * 4, devices=jax.devices()[:1]
    )
    self.enterContext(mock.patch.object(sharding, "make_mesh", lambda sizes: mesh))
    self.enterContext(
      mock.patch.object(
        workdir_lib,
        "load_params",
        lambda *args, **kwargs: (autoencoder()[1], {"fps": FPS}),
      )
    )

  def window(self, number, stride=1):
    """The frames of a clip that the model sees."""
    return media.read_window(self.clips[number], 0, F, stride, S)

  def run_transfer(self, clips, image=None, **kwargs):
    """Returns the videos `n f h w 3`, the rows of the png and the grid, as arrays."""
    with (
      mock.patch.object(
        workdir_lib, "write_videos", wraps=workdir_lib.write_videos
      ) as many,
      mock.patch.object(
        workdir_lib, "write_video", wraps=workdir_lib.write_video
      ) as each,
    ):
      self.paths = transfer.transfer(
        self.config,
        self.folder,
        clips,
        self.image if image is None else image,
        "mine",
        **kwargs,
      )
    *_, videos, _, rows = many.call_args[0]
    _, grid, _ = each.call_args[0]
    return videos, rows, grid

  def test_the_motion_of_a_clip_makes_of_its_first_frame_its_reconstruction(self):
    stage, params = autoencoder()
    clip = self.window(0)
    batch = {"video": jnp.asarray(clip[None])}
    expected = pixels.to_uint8(jax.jit(stage.sample)(params, batch, KEY))
    (found,), _, _ = self.run_transfer(self.clips[:1], clip[0])
    self.assertLessEqual(np.abs(np.subtract(found, expected[0], dtype=int)).max(), 1)
    # Of a wider picture the centre is taken.
    wide = np.pad(clip[0], ((0, 0), (5, 5), (0, 0)))
    (of_wide,), _, _ = self.run_transfer(self.clips[:1], wide)
    np.testing.assert_array_equal(of_wide, found)

  def test_each_motion_at_each_strength_and_all_together(self):
    videos, rows, grid = self.run_transfer(self.clips, strengths=(0.0, 1.0, 2.0))
    self.assertLen(videos, 6)
    for i in range(2):
      (alone,), _, _ = self.run_transfer(self.clips[i : i + 1])
      np.testing.assert_array_equal(videos[3 * i + 1], alone)
    # At strength 0 there is the picture's own still and nothing of a clip.
    vae, params = autoencoder()[0].model, autoencoder()[1]
    image = pixels.from_uint8(jnp.asarray(self.image[None]))
    z = jax.jit(lamd_motion.encode_still, static_argnums=0)(vae, params, image)
    decode = jax.jit(lamd_motion.decode_motion, static_argnums=0)
    still = pixels.to_uint8(decode(vae, params, z, image))
    for video in (videos[0], videos[3]):
      self.assertLessEqual(np.abs(np.subtract(video, still[0], dtype=int)).max(), 1)
    for other in (videos[0], videos[2], videos[4]):
      self.assertGreater(np.abs(np.subtract(videos[1], other, dtype=int)).max(), 20)
    # The png: each clip, then what it became.
    order = [self.window(0), *videos[:3], self.window(1), *videos[3:]]
    np.testing.assert_array_equal(np.stack(rows), np.stack(order))
    # The grid: a column for each clip, under the picture.
    tiles = grid.reshape(F, 5, S + transfer.GAP, 2, S + transfer.GAP, 3)
    tiles = tiles[:, :, :S, :, :S].transpose(3, 1, 0, 2, 4, 5)  # Column, row, f h w 3.
    for column in range(2):
      appearance, clip, *made = tiles[column]
      np.testing.assert_array_equal(appearance, self.image[None].repeat(F, axis=0))
      np.testing.assert_array_equal(clip, self.window(column))
      np.testing.assert_array_equal(made, videos[3 * column : 3 * column + 3])

  def test_a_mix_goes_from_the_first_motion_to_the_second(self):
    ends, _, _ = self.run_transfer(self.clips)
    videos, rows, grid = self.run_transfer(self.clips, mix=4)
    self.assertLen(videos, 4)
    np.testing.assert_allclose(videos[[0, 3]].astype(float), ends, atol=1)
    for one, two in itertools.pairwise(videos):
      self.assertGreater(np.abs(np.subtract(one, two, dtype=int)).max(), 5)
    order = [self.window(0), *videos[:3], self.window(1), videos[3]]
    np.testing.assert_array_equal(np.stack(rows), np.stack(order))
    # No clip moves as what is between: its place stays white.
    row = grid[:, S + transfer.GAP : 2 * S + transfer.GAP]
    self.assertEqual(row[:, :, S : 3 * (S + transfer.GAP)].min(), 255)
    np.testing.assert_array_equal(row[:, :, :S], self.window(0))

  def test_everything_is_written_at_the_rate_of_the_model(self):
    self.run_transfer(self.clips)
    names = ["mine_0.mp4", "mine_1.mp4", "mine_grid.mp4"]
    self.assertEqual([path.name for path in self.paths], names)
    for path in self.paths:
      self.assertEqual(path.parent, self.folder / "transferred")
      probed = media.probe(path)
      self.assertEqual((probed.num_frames, probed.fps), (F, FPS))
      self.assertTrue(path.with_suffix(".gif").exists())
    with Image.open(self.folder / "transferred" / "mine.png") as sheet:
      # Rows and columns of 64 pixels, 2 between them: two clips and two videos.
      self.assertEqual(sheet.size, (F * 66 + 2, 4 * 66 + 2))

  def test_of_a_clip_every_so_many_frames_are_taken_as_in_training(self):
    self.config.data.frame_stride = 2
    _, (clip, _), _ = self.run_transfer(self.clips[:1])
    np.testing.assert_array_equal(clip, self.window(0, stride=2))
    self.config.data.frame_stride = 3
    with self.assertRaisesRegex(
      UserError, "first.mp4 has 5 frames; .* need 7, 3 of them at a stride of 3"
    ):
      self.run_transfer(self.clips[:1])

  @parameterized.parameters(
    (1, dict(mix=3), "--mix=3 with 1 motions: expected 2 or more"),
    (2, dict(mix=1), "--mix=1 with 2 motions: expected 2 or more"),
    (1, dict(strengths=(1.0, float("nan"))), "1 motions at the strengths .*nan"),
    (0, dict(), "0 motions at the strengths"),
  )
  def test_what_cannot_be_made_is_said(self, count, kwargs, message):
    with self.assertRaisesRegex(UserError, message):
      self.run_transfer(self.clips[:count], **kwargs)

  def test_a_system_without_motion_of_its_own_says_so(self):
    self.config.system, self.config.stages = "vdm", ("base",)
    with self.assertRaisesRegex(UserError, "vdm with the stages base .*; lamd does"):
      self.run_transfer(self.clips[:1])


if __name__ == "__main__":
  absltest.main()
