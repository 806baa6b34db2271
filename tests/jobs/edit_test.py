"""Videos of one's own, extended, filled in and enlarged by a trained work folder.

In place of a model there is one that makes grey: which frames stay and what is asked
for is all there is to see here.
"""

import dataclasses
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import ml_collections
import numpy as np
from PIL import Image

from lamd_jax.data import media, vocabulary
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.jobs import edit
from lamd_jax.systems import stage as stage_lib
from lamd_jax.types import UserError

F, S = 5, 16


@dataclasses.dataclass(frozen=True)
class Stage:
  """Fills unknown frames with grey, and notes what it was told."""

  calls: list = dataclasses.field(default_factory=list, hash=False, compare=False)
  given_frames: int = 2
  overlap: int = 2

  # A video is edited window by window, and in no other way.
  init = loss = sample = protocol = mock.Mock(side_effect=AssertionError)

  def sample_window(
    self, params, conditions, key, video, is_known=None, low=None, has_low=None
  ):
    self.calls.append((video, is_known, low, has_low, conditions))
    known = np.zeros(video.shape[1], bool) if is_known is None else np.asarray(is_known)
    return np.where(known[None, :, None, None, None], video, 0.0)


class EditTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.video = self.folder / "clip.mp4"
    # Frames of one grey each, which survives the codec nearly as it was.
    greys = np.linspace(20, 230, 9).astype(np.uint8)
    frames = np.broadcast_to(greys[:, None, None, None], (9, S, S, 3))
    media.write_mp4(self.video, np.ascontiguousarray(frames), 10.0)
    self.greys = greys.astype(float)
    self.stage = Stage()
    self.enterContext(
      mock.patch.multiple(
        workdir_lib,
        load_stage=lambda *args: self.stage,
        load_params=lambda *args, **kwargs: ({}, {"fps": 10.0}),
      )
    )
    # What is traced cannot be noted.
    self.enterContext(mock.patch.object(jax, "jit", lambda fn, **kwargs: fn))

  def run_edit(self, task, kind="none", **kwargs):
    config = ml_collections.ConfigDict(
      dict(
        system="vdm",
        seed=0,
        stages=("base",),
        mesh=dict(data=-1),
        data=dict(num_frames=F, resolution=S, frame_stride=1),
        sample=dict(),
        evaluate=dict(samples_per_clip=2),
        condition=dict(
          kind=kind,
          num_classes=3,
          vocabulary="shapes",
          num_words=len(vocabulary.VOCABULARIES["shapes"].words),
        ),
      )
    )
    paths = edit.edit(config, self.folder, task, self.video, **kwargs)
    self.assertLen(paths, 2)
    for path in paths:
      self.assertTrue(path.with_suffix(".gif").exists())
    name = f"{self.video.stem}_{task}.png"
    self.assertTrue((self.folder / "edited" / name).exists())
    probed = media.probe(paths[0])
    video = media.read_window(paths[0], 0, probed.num_frames)
    return video.astype(float).mean(axis=(1, 2, 3)), probed

  def assert_greys(self, found, expected):
    np.testing.assert_allclose(found, expected, atol=6)

  def test_extend_keeps_the_clip_and_goes_on(self):
    found, _ = self.run_edit("extend", num_frames=13)
    self.assert_greys(found, [*self.greys, *[127] * 4])
    # Windows of 5 that share 2, the first with what is given: 7 to 11 and 10 to 14, of
    # which the last two are cut off.
    self.assertLen(self.stage.calls, 2)
    for video, is_known, *_ in self.stage.calls:
      self.assertEqual(np.asarray(is_known).tolist(), [True] * 2 + [False] * 3)
      self.assertEqual(video.shape, (2, F, S, S, 3))
    first, second = (np.asarray(call[0])[0, 0].mean() for call in self.stage.calls)
    self.assert_greys(127.5 * (1 + np.array([first, second])), [self.greys[7], 127])

  def test_extend_by_less_than_a_window_asks_for_a_whole_one(self):
    found, _ = self.run_edit("extend", num_frames=10)
    self.assert_greys(found, [*self.greys, 127])
    self.assertLen(self.stage.calls, 1)
    self.assertEqual(self.stage.calls[0][0].shape[1], F)

  def test_a_picture_is_a_video_of_one_frame(self):
    self.video = self.folder / "photo.png"
    pixels = np.zeros((2 * S, 3 * S, 3), np.uint8)
    pixels[:, S : 2 * S] = 200  # The centre, and what is cut off.
    Image.fromarray(pixels).save(self.video)
    found, _ = self.run_edit("extend", num_frames=7, is_picture=True)
    known = [np.asarray(call[1]).tolist() for call in self.stage.calls]
    # Shorter than what windows share: the first one knows the picture alone.
    self.assertEqual(known, [[True] + [False] * 4, [True] * 2 + [False] * 3])
    row = np.asarray(self.stage.calls[0][0])[0, 0, S // 2, :, 0]
    self.assertGreater(row[S // 2], 0.5)
    self.assertLess(row[0], -0.9)
    self.assertLen(found, 7)
    with self.assertRaisesRegex(UserError, "has 1 frames .* needs 2"):
      self.run_edit("interpolate", is_picture=True)
    self.stage.calls.clear()
    found, _ = self.run_edit("upsample", is_picture=True)
    self.assertLen(found, 1)
    self.assertEqual(self.stage.calls[0][2].shape, (2, 1, S // 2, S // 2, 3))

  def test_predict_takes_the_given_frames_only(self):
    found, _ = self.run_edit("predict")
    self.assert_greys(found, [*self.greys[:2], *[127] * 3])
    self.stage = Stage(given_frames=0)
    with self.assertRaisesRegex(UserError, "--config.sample.given_frames=1"):
      self.run_edit("predict")

  def test_interpolate_multiplies_the_rate(self):
    found, probed = self.run_edit("interpolate", factor=2)
    self.assertLen(found, 17)
    self.assertEqual(probed.fps, 20.0)
    self.assert_greys(found[::2], self.greys)
    self.assert_greys(found[1::2], [127] * 8)
    with self.assertRaisesRegex(UserError, "at most 3 between two, --factor=4"):
      self.run_edit("interpolate", factor=5)

  def test_upsample_is_told_the_low_resolution(self):
    _, probed = self.run_edit("upsample", factor=2)
    self.assertEqual(probed.num_frames, 9)
    _, is_known, low, has_low, _ = self.stage.calls[0]
    self.assertEqual(low.shape, (2, F, S // 2, S // 2, 3))
    self.assertIsNone(is_known)
    self.assertTrue(has_low.all())
    # The next window knows the frame that it shares.
    self.assertEqual(np.asarray(self.stage.calls[1][1]).tolist(), [True] + [False] * 4)
    self.stage.calls.clear()
    _, probed = self.run_edit("upsample", factor=2, every=4)
    self.assertEqual((probed.num_frames, probed.fps), (33, 40.0))
    self.assertEqual(
      np.asarray(self.stage.calls[0][3]).tolist(), [True, *[False] * 3, True]
    )
    with self.assertRaisesRegex(UserError, "--factor=3: expected .* divisor of .* 16"):
      self.run_edit("upsample", factor=3)

  def test_a_label_and_a_caption_are_for_models_that_know_them(self):
    self.run_edit("predict", "class", label=2)
    np.testing.assert_array_equal(self.stage.calls[0][4]["label"], [2, 2])
    self.run_edit("predict", "words", caption="a red circle glides")
    words = vocabulary.VOCABULARIES["shapes"].encode(["a red circle glides"])
    np.testing.assert_array_equal(
      self.stage.calls[1][4]["words"], words.repeat(2, axis=0)
    )
    with self.assertRaisesRegex(UserError, "--label=3: expected 0 to 2"):
      self.run_edit("predict", "class", label=3)
    with self.assertRaisesRegex(UserError, "--caption: .* is 'class', not 'caption'"):
      self.run_edit("predict", "class", caption="x")

  def test_a_clip_that_is_too_short(self):
    short = np.zeros((1, S, S, 3), np.uint8)
    media.write_mp4(self.video, short, 10.0)
    with self.assertRaisesRegex(UserError, "has 1 frames at a stride of 1.* needs 2"):
      self.run_edit("predict")
    with self.assertRaisesRegex(UserError, "has 1 frames .* needs 2"):
      self.run_edit("interpolate")
    media.write_mp4(self.video, np.repeat(short, 9, axis=0), 10.0)
    with self.assertRaisesRegex(UserError, "9 frames cannot be extended to 9"):
      self.run_edit("extend", num_frames=9)

  def test_a_model_of_whole_clips_says_so(self):
    self.stage = mock.Mock(spec=["init", "loss", "sample", "protocol", "given_frames"])
    self.assertNotIsInstance(self.stage, stage_lib.WindowStage)
    with self.assertRaisesRegex(UserError, "vdm makes whole clips only"):
      self.run_edit("extend")


if __name__ == "__main__":
  absltest.main()
