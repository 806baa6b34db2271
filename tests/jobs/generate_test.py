"""Videos of files: what is read of them, and what is written under which names.

In place of VDM's network there is one that makes grey; that of LaMD is real and tiny,
and its pixels are compared as they are given to be written, since mp4 changes them.
"""

import functools
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import numpy as np
from PIL import Image
import tiny_config
from tiny_lamd import autoencoder
import tiny_vdm
import window_stages
from window_stages import Clips, Grey

from lamd_jax.data import media, sources, vocabulary
from lamd_jax.experiment import trained
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import generate
from lamd_jax.systems.pipeline import Devices, Trained
from lamd_jax.types import UserError

F, S = 5, 16
GREY = 127  # What a model's zero nearly is, after the codec.


class GenerateTestCase(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def use(self, devices, **stages):
    """Has the jobs find these stages in every work folder."""
    self.enterContext(
      mock.patch.multiple(
        trained, TrainedStages=lambda run: stages, devices_of=lambda run: devices
      )
    )

  def names(self, folder, ending="*"):
    return sorted(path.name for path in (self.folder / folder).glob(ending))


def assert_greys(found, expected):
  np.testing.assert_allclose(found, expected, atol=6)


class WindowsTest(GenerateTestCase):
  def setUp(self):
    super().setUp()
    self.video = self.folder / "clip.mp4"
    # Frames of one grey each, which survives the codec nearly as it was.
    greys = np.linspace(20, 230, 9).astype(np.uint8)
    self.greys = greys.astype(float)
    self.write(np.broadcast_to(greys[:, None, None, None], (9, S, S, 3)))
    self.set_stage(Grey())

  def write(self, frames):
    media.write_mp4(self.video, np.ascontiguousarray(frames), 25.0)

  def set_stage(self, stage):
    self.stage = stage
    self.use(window_stages.DEVICES, base=window_stages.trained(stage))

  def generate(self, task, kind="none", *, stride=1, path=None, **wish):
    """Returns the grey of each frame of the first mp4, its probe and all paths."""
    config = tiny_vdm.get_config()
    config.data.update(num_frames=F, resolution=S, frame_stride=stride)
    config.evaluate.samples_per_clip = 2
    words = len(vocabulary.VOCABULARIES["shapes"].words)
    config.condition = dict(kind=kind, num_classes=3, vocabulary="shapes")
    config.condition.num_words = words
    wish = generate.Wish(task, path or self.video, **wish)
    paths = generate.generate(make_run(config, self.folder), wish)
    probed = media.probe(paths[0])
    video = media.read_window(paths[0], 0, probed.num_frames)
    return video.astype(float).mean(axis=(1, 2, 3)), probed, paths

  def test_a_longer_video_is_written_with_its_frames_at_the_rate_of_the_model(self):
    found, probed, paths = self.generate("extend", num_frames=13)
    assert_greys(found, [*self.greys, *[GREY] * 4])
    self.assertEqual(probed.fps, window_stages.FPS)
    names = ["clip_extend_0.mp4", "clip_extend_1.mp4"]
    self.assertEqual([path.name for path in paths], names)
    written = [*names, "clip_extend_0.gif", "clip_extend_1.gif", "clip_extend.png"]
    self.assertEqual(self.names("edited"), sorted(written))

  def test_what_was_broken_off_goes_on_with_the_window_after(self):
    self.set_stage(window_stages.Noise())
    *_, paths = self.generate("extend", num_frames=19)
    whole = [path.read_bytes() for path in paths]
    number = len(self.stage.calls)
    self.assertEqual(number, 4)
    self.assertFalse((self.folder / "unfinished").exists())

    class Broken(window_stages.Noise):
      def sample_window(self, *args, **kwargs):
        if len(self.calls) == 2:
          raise KeyboardInterrupt
        return super().sample_window(*args, **kwargs)

    self.set_stage(Broken())
    with self.assertRaises(KeyboardInterrupt):
      self.generate("extend", num_frames=19)
    self.assertTrue((self.folder / "unfinished").exists())
    self.set_stage(window_stages.Noise())
    *_, paths = self.generate("extend", num_frames=19)
    self.assertLen(self.stage.calls, number - 2)
    self.assertEqual([path.read_bytes() for path in paths], whole)
    self.assertFalse((self.folder / "unfinished").exists())

  def test_other_wishes_do_not_go_on_with_it(self):
    class Broken(window_stages.Noise):
      def sample_window(self, *args, **kwargs):
        if self.calls:
          raise KeyboardInterrupt
        return super().sample_window(*args, **kwargs)

    self.set_stage(Broken())
    with self.assertRaises(KeyboardInterrupt):
      self.generate("extend", num_frames=19)
    self.write(np.full((9, S, S, 3), 90, np.uint8))  # Another video of this name.
    self.set_stage(window_stages.Noise())
    self.generate("extend", num_frames=19)
    self.assertLen(self.stage.calls, 4)

  def test_tasks_read_the_frames_that_they_need(self):
    found, *_ = self.generate("predict", stride=3)
    assert_greys(found, [*self.greys[[0, 3]], *[GREY] * 3])
    # Frames between those of the file are sampled: they are read without a stride.
    found, probed, _ = self.generate("interpolate", stride=3, options={"factor": 2})
    assert_greys(found[::2], self.greys)
    self.assertEqual(probed.fps, 2 * window_stages.FPS)
    self.stage.calls.clear()
    options = {"factor": 2, "every": 4}
    _, probed, _ = self.generate("upsample", options=options)
    self.assertEqual((probed.num_frames, probed.fps), (33, 4 * window_stages.FPS))
    self.assertEqual(self.stage.calls[0][2].shape[2:], (S // 2, S // 2, 3))

  def test_of_a_video_to_animate_the_first_frame_is_read(self):
    self.set_stage(Clips(given_frames=1))
    _, probed, paths = self.generate("animate")
    self.assertEqual(probed.num_frames, F)
    ((batch, _),) = self.stage.calls
    self.assertEqual(batch["video"].shape, (2, F, S, S, 3))
    assert_greys(batch["video"], self.greys[0])
    self.assertEqual([path.name for path in paths], ["clip_0.mp4", "clip_1.mp4"])
    self.assertEqual(self.names("animated", "*.png"), ["clip.png"])

  def test_from_nothing_videos_have_a_name_too(self):
    self.set_stage(Clips(given_frames=0))
    self.assertEqual(generate._name(generate.Wish("generate")), "video")
    _, _, paths = self.generate("generate")
    self.assertEqual({path.parent.name for path in paths}, {"generated"})

  def test_a_picture_is_a_video_of_one_frame_of_which_the_centre_is_taken(self):
    path = self.folder / "a photo, mine.png"
    pixels = np.zeros((2 * S, 3 * S, 3), np.uint8)
    pixels[:, S : 2 * S] = 200  # The centre, and what is cut off.
    Image.fromarray(pixels).save(path)
    picture = dict(path=path, is_picture=True)
    found, _, paths = self.generate("extend", num_frames=7, **picture)
    self.assertLen(found, 7)
    self.assertEqual(paths[0].name, "a_photo_mine_extend_0.mp4")
    row = np.asarray(self.stage.calls[0][0])[0, 0, S // 2, :, 0]
    self.assertGreater(row[S // 2], 0.5)
    self.assertLess(row[0], -0.9)
    with self.assertRaisesRegex(UserError, "has 1 frames .* needs 2"):
      self.generate("interpolate", **picture)
    self.stage.calls.clear()
    found, *_ = self.generate("upsample", options={"factor": 2}, **picture)
    self.assertLen(found, 1)
    self.assertEqual(self.stage.calls[0][2].shape, (2, 1, S // 2, S // 2, 3))

  def test_a_label_and_a_caption_are_for_models_that_know_them(self):
    self.generate("predict", "class", said={"label": 2, "caption": None})
    np.testing.assert_array_equal(self.stage.calls[0][4]["label"], [2, 2])
    self.generate("predict", "words", said={"caption": "a red circle glides"})
    words = vocabulary.VOCABULARIES["shapes"].encode(["a red circle glides"])
    np.testing.assert_array_equal(
      self.stage.calls[1][4]["words"], words.repeat(2, axis=0)
    )
    source = mock.MagicMock(__len__=lambda source: 2)
    source.annotation = lambda i: {"label": i, "class_name": ("-1", "waving")[i]}
    with mock.patch.object(sources, "make_source", return_value=source):
      self.generate("predict", "class", said={"label": "waving"})
      np.testing.assert_array_equal(self.stage.calls[2][4]["label"], [1, 1])
      with self.assertRaisesRegex(UserError, "'wave' is no class .* '-1', 'waving'"):
        self.generate("predict", "class", said={"label": "wave"})
    with self.assertRaisesRegex(UserError, "--label=3: expected 0 to 2"):
      self.generate("predict", "class", said={"label": 3})
    with self.assertRaisesRegex(UserError, "--caption: .* is 'class', not 'caption'"):
      self.generate("predict", "class", said={"caption": "x"})

  def test_a_clip_that_is_too_short(self):
    short = np.zeros((1, S, S, 3), np.uint8)
    self.write(short)
    with self.assertRaisesRegex(UserError, "has 1 frames at a stride of 1.* needs 2"):
      self.generate("predict")
    with self.assertRaisesRegex(UserError, "has 1 frames .* needs 2"):
      self.generate("interpolate")
    self.write(np.repeat(short, 9, axis=0))
    with self.assertRaisesRegex(UserError, "has 1 frames at a stride of 9.* needs 2"):
      self.generate("predict", stride=9)
    with self.assertRaisesRegex(UserError, "9 frames cannot be extended to 9"):
      self.generate("extend", num_frames=9)
    self.assertFalse((self.folder / "edited").exists())

  def test_what_the_model_cannot_do_is_said(self):
    for given_frames, task in ((1, "generate"), (0, "animate"), (2, "animate")):
      self.set_stage(Grey(given_frames=given_frames))
      message = f"begins with {given_frames} given frames"
      with self.assertRaisesRegex(UserError, message):
        self.generate(task)
    with self.assertRaisesRegex(UserError, "--mode=transfer: vdm does not take motion"):
      self.generate("transfer", motions=(self.video,))


COMPILED = {}


def compiled(fn):
  """Compiles a function of the network, once for all tests."""
  return COMPILED.setdefault((fn.func, fn.args), jax.jit(fn))


class TransferTest(GenerateTestCase):
  """LaMD with 3 frames of 8x8."""

  F, S, FPS = 3, 8, 6.0

  def setUp(self):
    super().setUp()
    self.config = tiny_config.get_config()
    rng = np.random.default_rng(5)
    self.clips = []
    for name in ("first", "second"):
      self.clips.append(self.folder / f"{name}.mp4")
      shape = (2 * self.F - 1, self.S, self.S, 3)
      frames = rng.integers(0, 256, shape).astype(np.uint8)
      media.write_mp4(self.clips[-1], frames, 24.0)
    self.image = rng.integers(0, 256, (self.S, self.S, 3)).astype(np.uint8)
    self.picture = self.save(self.image)
    stage, params = autoencoder()
    devices = Devices(put=lambda x: x, jit=compiled)
    self.use(devices, mcd_vae=Trained(stage, params, {}, {"fps": self.FPS}))

  def save(self, image):
    path = self.folder / "mine.png"
    Image.fromarray(image).save(path)
    return path

  def window(self, number, stride=1):
    """The frames of a clip that the model sees."""
    return media.read_window(self.clips[number], 0, self.F, stride, self.S)

  def transfer(self, clips, **options):
    """Returns the videos `n f h w 3`, the rows of the png and the grid, as arrays."""
    wish = generate.Wish(
      "transfer", self.picture, is_picture=True, motions=tuple(clips), options=options
    )
    patch = lambda name: mock.patch.object(
      workdir_lib, name, wraps=getattr(workdir_lib, name)
    )
    with patch("write_videos") as many, patch("write_video") as each:
      self.paths = generate.generate(make_run(self.config, self.folder), wish)
    *_, videos, _, rows = many.call_args[0]
    _, grid, _ = each.call_args[0]
    return videos, rows, grid

  def test_the_png_and_the_grid_show_each_motion_with_what_it_became(self):
    videos, rows, grid = self.transfer(self.clips, strengths=(0.0, 1.0, 2.0))
    self.assertLen(videos, 6)
    (alone,), *_ = self.transfer(self.clips[1:])
    np.testing.assert_array_equal(videos[4], alone)
    # The png: each clip, then what it became.
    order = [self.window(0), *videos[:3], self.window(1), *videos[3:]]
    np.testing.assert_array_equal(np.stack(rows), np.stack(order))
    # The grid: a column for each clip, under the picture.
    side = self.S + generate.GAP
    tiles = grid.reshape(self.F, 5, side, 2, side, 3)
    tiles = tiles[:, :, : self.S, :, : self.S].transpose(3, 1, 0, 2, 4, 5)
    for column in range(2):
      appearance, clip, *made = tiles[column]  # Each f h w 3.
      np.testing.assert_array_equal(appearance, self.image[None].repeat(self.F, 0))
      np.testing.assert_array_equal(clip, self.window(column))
      np.testing.assert_array_equal(made, videos[3 * column : 3 * column + 3])

  def test_between_two_motions_there_is_no_clip_to_show(self):
    videos, rows, grid = self.transfer(self.clips, mix=4)
    self.assertLen(videos, 4)
    order = [self.window(0), *videos[:3], self.window(1), videos[3]]
    np.testing.assert_array_equal(np.stack(rows), np.stack(order))
    side = self.S + generate.GAP
    row = grid[:, side : side + self.S]  # Its place stays white.
    self.assertEqual(row[:, :, self.S : 3 * side].min(), 255)
    np.testing.assert_array_equal(row[:, :, : self.S], self.window(0))
    self.assertEqual(self.paths[0].name, "mine_by_first_second_mix_0.mp4")

  def test_of_a_wider_picture_the_centre_is_taken(self):
    (expected,), *_ = self.transfer(self.clips[:1])
    self.save(np.pad(self.image, ((0, 0), (5, 5), (0, 0))))
    (found,), *_ = self.transfer(self.clips[:1])
    np.testing.assert_array_equal(found, expected)

  def test_everything_is_written_at_the_rate_of_the_model(self):
    self.transfer(self.clips)
    name = "mine_by_first_second"
    names = [f"{name}_0.mp4", f"{name}_1.mp4", f"{name}_grid.mp4"]
    self.assertEqual([path.name for path in self.paths], names)
    for path in self.paths:
      self.assertEqual(path.parent, self.folder / "transferred")
      probed = media.probe(path)
      self.assertEqual((probed.num_frames, probed.fps), (self.F, self.FPS))
      self.assertTrue(path.with_suffix(".gif").exists())
    with Image.open(self.folder / "transferred" / f"{name}.png") as sheet:
      # Rows and columns of 64 pixels, 2 between them: two clips and two videos.
      self.assertEqual(sheet.size, (self.F * 66 + 2, 4 * 66 + 2))

  def test_of_a_clip_every_so_many_frames_are_taken_as_in_training(self):
    self.config.data.frame_stride = 2
    _, (clip, _), _ = self.transfer(self.clips[:1])
    np.testing.assert_array_equal(clip, self.window(0, stride=2))
    self.config.data.frame_stride = 3
    with self.assertRaisesRegex(
      UserError, "first.mp4 has 5 frames; .* need 7, 3 of them at a stride of 3"
    ):
      self.transfer(self.clips[:1])


class NameTest(absltest.TestCase):
  def test_many_motions_fit_into_a_name_and_odd_characters_are_replaced(self):
    path = functools.partial(pathlib.Path, "somewhere")
    wish = generate.Wish("transfer", path("a b.png"), True, (path("x y.mp4"),))
    self.assertEqual(generate._name(wish), "a_b_by_x_y")
    several = wish._replace(motions=(path("x y.mp4"), path("z.mp4")))
    mixed = several._replace(options={"mix": 5})
    self.assertEqual(generate._name(mixed), "a_b_by_x_y_z_mix")
    many = wish._replace(motions=(path("x" * 30 + ".mp4"),) * 9)
    self.assertLen(generate._name(many), 100)
    self.assertEqual(generate._name(wish._replace(task="extend")), "a_b_extend")
    self.assertEqual(generate._name(wish._replace(task="animate")), "a_b")


if __name__ == "__main__":
  absltest.main()
