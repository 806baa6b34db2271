"""The clips of a stage: those of the data, unless the stage says otherwise."""

from absl.testing import absltest, parameterized
import ml_collections

from lamd_jax.systems import clip


def config(**stage):
  return ml_collections.ConfigDict(
    dict(
      data=dict(name="shapes", num_frames=5, frame_stride=3, resolution=8, seed=7),
      first=dict(model=dict()),
      second=dict(model=dict()) | stage,
    )
  )


class ClipTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(num_frames=9), (9, 3, 8)),
    (dict(frame_stride=1), (5, 1, 8)),
    (dict(resolution=16), (5, 3, 16)),
    (dict(num_frames=2, frame_stride=4, resolution=32), (2, 4, 32)),
    ({}, (5, 3, 8)),
  )
  def test_what_a_stage_says_of_its_clips_is_over_the_data(self, values, expected):
    given = config(clip=values)
    self.assertEqual(clip.clip_of(given, "second"), expected)
    # The other stage, and one without a block, have the clips of the data.
    for stage in ("first", "third"):
      self.assertEqual(clip.clip_of(given, stage), (5, 3, 8))

  def test_the_source_of_a_stage_has_the_same_clips_and_all_else_of_the_data(self):
    given = config(clip=dict(num_frames=2, resolution=16))
    expected = dict(name="shapes", num_frames=2, frame_stride=3, resolution=16, seed=7)
    self.assertEqual(clip.data_of(given, "second").to_dict(), expected)
    self.assertEqual(clip.data_of(given, "first").to_dict(), given.data.to_dict())
    # The configuration stays as it was, locked or not.
    self.assertEqual(given.data.num_frames, 5)
    given.lock()
    self.assertEqual(clip.data_of(given, "second").to_dict(), expected)

  def test_data_without_a_stride_are_read_frame_by_frame(self):
    given = config()
    del given.data.frame_stride
    self.assertEqual(clip.clip_of(given, "second").frame_stride, 1)

  def test_the_span_is_from_the_first_frame_to_the_last(self):
    for num_frames, stride in ((1, 1), (1, 4), (5, 1), (5, 3)):
      frames = range(0, num_frames * stride, stride)  # Which frames a clip has.
      span = clip.Clip(num_frames, stride, 8).span
      self.assertEqual(span, frames[-1] - frames[0] + 1)


if __name__ == "__main__":
  absltest.main()
