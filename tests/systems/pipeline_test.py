"""Videos by windows: which frames stay, what a model is asked for, and going on.

In place of a model there is one that makes grey, or noise of its key: which frames
stay and what is asked for is all there is to see here.
"""

import itertools
from unittest import mock

from absl.testing import absltest, parameterized
import chex
from flax import struct
import jax
import numpy as np
import window_stages
from window_stages import DEVICES, FPS, Clips, Grey, Noise

from lamd_jax.systems import pipeline
from lamd_jax.systems import stage as stage_lib
from lamd_jax.systems.clip import Clip
from lamd_jax.types import UserError

F, S = 5, 16
STRIDE = 3
KEY = jax.random.key(7)
GREYS = np.linspace(20, 230, 9).astype(np.uint8)
VIDEO = np.ascontiguousarray(np.broadcast_to(GREYS[:, None, None, None], (9, S, S, 3)))
LOW = np.ascontiguousarray(VIDEO[:, : S // 2, : S // 2])
MADE = 128  # What a model's zero is in uint8.


def make(stage, *, upsamples=True):
  clip = Clip(F, STRIDE, S)
  generator = window_stages.trained(stage)
  return pipeline.WindowPipeline("vdm", clip, generator, DEVICES, 2, upsamples)


def request(task, video=None, num_frames=None, **options):
  return pipeline.Request(task, 2, video=video, num_frames=num_frames, options=options)


REQUESTS = {
  "predict": request("predict", VIDEO[:2]),
  "extend": request("extend", VIDEO, 13),
  "extend a picture": request("extend", VIDEO[:1]),
  "interpolate": request("interpolate", VIDEO, factor=2),
  "upsample": request("upsample", LOW, factor=2),
  "upsample and fill": request("upsample", LOW, factor=2, every=4),
}


class WindowsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.stage = Grey()

  def run_request(self, wish):
    """The grey of each frame of the result, and its rate."""
    made = make(self.stage)
    plan = made.plan(wish)
    videos = pipeline.collect(plan, made.run(wish, KEY))
    self.assertEqual(videos.shape[:2], (2, plan.num_frames))
    # Both videos, and each frame of one grey.
    greys = videos[0, :, 0, 0, 0]
    expected = np.broadcast_to(greys[None, :, None, None, None], videos.shape)
    np.testing.assert_array_equal(videos, expected)
    return greys.tolist(), plan.fps

  def known(self):
    """Which frames each window knew."""
    return [np.asarray(is_known).tolist() for _, is_known, *_ in self.stage.calls]

  def test_extend_keeps_the_clip_and_goes_on(self):
    found, fps = self.run_request(REQUESTS["extend"])
    self.assertEqual((found, fps), ([*GREYS, *[MADE] * 4], FPS))
    # Windows of 5 that share 2, the first with what is given: 7 to 11 and 10 to 14, of
    # which the last two are cut off.
    self.assertEqual(self.known(), [[True] * 2 + [False] * 3] * 2)
    for video, *_ in self.stage.calls:
      self.assertEqual(video.shape, (2, F, S, S, 3))
    first, second = (call[0][0, 0].mean() for call in self.stage.calls)
    self.assertAlmostEqual(127.5 * (1 + first), GREYS[7], places=4)
    self.assertAlmostEqual(second, 0.0)

  def test_extend_by_less_than_a_window_asks_for_a_whole_one(self):
    found, _ = self.run_request(request("extend", VIDEO, 10))
    self.assertEqual(found, [*GREYS, MADE])
    self.assertLen(self.stage.calls, 1)
    self.assertEqual(self.stage.calls[0][0].shape[1], F)

  def test_a_picture_is_shorter_than_what_windows_share(self):
    found, _ = self.run_request(request("extend", VIDEO[:1], 7))
    # The first window knows the picture alone.
    self.assertEqual(self.known(), [[True] + [False] * 4, [True] * 2 + [False] * 3])
    self.assertEqual(found, [GREYS[0], *[MADE] * 6])
    # Two windows' worth unless a length is asked for.
    self.assertLen(self.run_request(request("extend", VIDEO[:1]))[0], 2 * F)

  def test_predict_takes_the_given_frames_only(self):
    found, fps = self.run_request(REQUESTS["predict"])
    self.assertEqual((found, fps), ([*GREYS[:2], *[MADE] * 3], FPS))
    reading = make(self.stage).reading("predict", {})
    self.assertEqual(reading, (S, STRIDE, 2, 2))
    with self.assertRaisesRegex(UserError, "--config.sample.given_frames=1"):
      make(Grey(given_frames=0)).reading("predict", {})

  def test_interpolate_multiplies_the_rate(self):
    found, fps = self.run_request(REQUESTS["interpolate"])
    self.assertEqual(fps, 2 * FPS)
    self.assertEqual(found[::2], GREYS.tolist())
    self.assertEqual(found[1::2], [MADE] * 8)
    with self.assertRaisesRegex(UserError, "at most 3 between two, --factor=4"):
      self.run_request(request("interpolate", VIDEO, factor=5))

  def test_upsample_is_told_the_low_resolution(self):
    found, fps = self.run_request(REQUESTS["upsample"])
    self.assertEqual((len(found), fps), (9, FPS))
    _, is_known, low, has_low, *_ = self.stage.calls[0]
    self.assertIsNone(is_known)
    self.assertTrue(has_low.all())
    self.assertEqual(low.shape, (2, F, S // 2, S // 2, 3))
    np.testing.assert_allclose(127.5 * (1 + low[:, :, 0, 0, 0]), [GREYS[:F]] * 2)
    # The next window knows the frame that it shares.
    self.assertEqual(self.known()[1], [True] + [False] * 4)
    self.stage.calls.clear()
    found, fps = self.run_request(REQUESTS["upsample and fill"])
    self.assertEqual((len(found), fps), (33, 4 * FPS))
    has_low = np.asarray(self.stage.calls[0][3]).tolist()
    self.assertEqual(has_low, [True, *[False] * 3, True])

  @parameterized.parameters(
    ("animate", {}, pipeline.Reading(S, STRIDE, 1, 1)),
    ("extend", {}, pipeline.Reading(S, STRIDE)),
    ("interpolate", {}, pipeline.Reading(S, least=2)),
    ("upsample", {"factor": 4}, pipeline.Reading(S // 4)),
  )
  def test_frames_are_read_as_the_task_needs_them(self, task, options, expected):
    made = make(Grey(given_frames=1))
    self.assertEqual(made.reading(task, options), expected)

  def test_a_factor_that_does_not_divide_is_refused(self):
    for factor in (3, 1):
      with self.assertRaisesRegex(UserError, f"factor={factor}: .* divisor of .* 16"):
        make(self.stage).reading("upsample", {"factor": factor})

  def test_a_video_that_is_as_long_already_is_refused(self):
    for wish in (request("extend", VIDEO, 9), request("extend", VIDEO, 8)):
      with self.assertRaisesRegex(UserError, "9 frames cannot be extended to [89]"):
        make(self.stage).plan(wish)

  @parameterized.parameters(*REQUESTS)
  def test_the_plan_counts_the_segments_that_come(self, name):
    made, wish = make(self.stage), REQUESTS[name]
    plan, segments = made.plan(wish), list(made.run(wish, KEY))
    self.assertLen(segments, plan.num_segments)
    covered = set()
    for first, frames in segments:
      covered.update(range(first, first + frames.shape[1]))
    self.assertContainsSubset(range(plan.num_frames), covered)

  def test_every_window_draws_from_the_key_of_its_number(self):
    list(make(self.stage).run(REQUESTS["upsample and fill"], KEY))
    self.assertLen(self.stage.calls, 8)
    for number, (*_, key) in enumerate(self.stage.calls):
      expected = jax.random.key_data(jax.random.fold_in(KEY, number))
      np.testing.assert_array_equal(jax.random.key_data(key), expected)

  def test_conditions_reach_every_window(self):
    label = np.array([1, 2], np.int32)
    wish = REQUESTS["extend"]._replace(conditions={"label": label})
    list(make(self.stage).run(wish, KEY))
    self.assertLen(self.stage.calls, 2)
    for *_, conditions, _ in self.stage.calls:
      chex.assert_trees_all_equal(conditions, {"label": label})


class Killed(Exception):  # noqa: N818  As a signal would.
  pass


class GoingOnTest(parameterized.TestCase):
  """A generation that was broken off, and its finished segments."""

  @parameterized.parameters(*REQUESTS)
  def test_a_killed_generation_samples_the_rest_only_and_ends_the_same(self, name):
    wish = REQUESTS[name]
    whole, first, second = Noise(), Noise(), Noise()
    plan = make(whole).plan(wish)
    expected = pipeline.collect(plan, make(whole).run(wish, KEY))
    windows = len(whole.calls)
    for done in {1, windows - 1} - {0}:
      first.calls.clear()
      second.calls.clear()
      keep = {}
      segments = make(first).run(wish, KEY, keep)
      while len(first.calls) < done:
        next(segments)
      segments.close()
      self.assertLen(keep, done)
      keep = {number: x.copy() for number, x in keep.items()}  # As from a file.
      found = pipeline.collect(plan, make(second).run(wish, KEY, keep))
      np.testing.assert_array_equal(found, expected)
      self.assertLen(second.calls, windows - done)

  def test_killed_inside_a_window_only_that_one_is_lost(self):
    class Dying(Noise):
      def sample_window(self, *args, **kwargs):
        if self.calls:
          raise Killed
        return super().sample_window(*args, **kwargs)

    wish, keep = REQUESTS["extend"], {}
    with self.assertRaises(Killed):
      list(make(Dying()).run(wish, KEY, keep))
    self.assertEqual([*keep], [0])
    again, whole = Noise(), Noise()
    found = [frames for _, frames in make(again).run(wish, KEY, keep)]
    expected = [frames for _, frames in make(whole).run(wish, KEY)]
    chex.assert_trees_all_equal(found, expected)
    self.assertEqual((len(again.calls), len(whole.calls)), (1, 2))

  def test_a_finished_clip_is_not_sampled_again(self):
    wish, keep = request("generate"), {}
    stage = Clips(given_frames=0)
    ((_, expected),) = make(stage).run(wish, KEY, keep)
    ((_, found),) = make(stage).run(wish, KEY, keep)
    np.testing.assert_array_equal(found, expected)
    self.assertLen(stage.calls, 1)


class ClipsTest(parameterized.TestCase):
  def test_a_picture_is_every_frame_of_what_a_clip_begins_with(self):
    stage = Clips(given_frames=1)
    made, wish = make(stage), request("animate", VIDEO[3:4])
    self.assertEqual(made.plan(wish), pipeline.Plan(F, FPS))
    ((first, frames),) = made.run(wish, KEY)
    self.assertEqual((first, frames.shape), (0, (2, F, S, S, 3)))
    ((batch, key),) = stage.calls
    np.testing.assert_array_equal(batch["video"], np.full_like(frames, GREYS[3]))
    np.testing.assert_array_equal(frames[:, 0], batch["video"][:, 0])
    expected = jax.random.key_data(jax.random.fold_in(KEY, 0))
    np.testing.assert_array_equal(jax.random.key_data(key), expected)

  def test_more_clips_than_a_batch_are_drawn_in_several(self):
    stage, label = Clips(given_frames=0), np.arange(5)
    wish = pipeline.Request("generate", 5, {"label": label})
    ((_, frames),) = make(stage).run(wish, KEY)
    self.assertEqual(frames.shape, (5, F, S, S, 3))
    given = [batch["label"].tolist() for batch, _ in stage.calls]
    # The last batch is filled up, and what is too much left out.
    self.assertEqual(given, [[0, 1], [2, 3], [4, 4]])
    for a, b in itertools.combinations(frames, 2):
      self.assertGreater(np.abs(np.subtract(a, b, dtype=int)).max(), 50)

  @parameterized.parameters(
    (0, "animate", "begins with 0 given frames, .* takes --config.sample.given_fr"),
    (2, "animate", "begins with 2 given frames, a picture is one"),
    (1, "generate", "begins with 1 given frames; give it a picture or a video"),
  )
  def test_a_clip_needs_the_frames_that_the_model_begins_with(
    self, given_frames, task, message
  ):
    made = make(Grey(given_frames=given_frames))
    self.assertNotIn(task, made.tasks)
    wish = request(task, VIDEO[:1])
    for refused in (
      lambda: made.reading(task, {}),
      lambda: made.plan(wish),
      lambda: next(made.run(wish, KEY)),
    ):
      with self.assertRaisesRegex(UserError, message):
        refused()

  def test_a_model_of_whole_clips_says_so(self):
    stage = Clips(given_frames=1)
    self.assertNotIsInstance(stage, stage_lib.WindowStage)
    made = make(stage)
    self.assertEqual([*made.tasks], ["animate"])
    with self.assertRaisesRegex(UserError, "=extend: vdm makes whole clips only"):
      made.reading("extend", {})

  def test_a_task_that_it_does_not_know_is_answered_with_those_that_it_does(self):
    made = make(Grey(given_frames=0), upsamples=False)
    known = "generate, predict, extend, interpolate"
    with self.assertRaisesRegex(UserError, f"--task=upsample: vdm can {known}$"):
      made.plan(request("upsample", LOW))


TRACES = []  # A line whenever a method of `Traced` is traced.


@struct.dataclass
class Traced:
  """A stage for `jax.jit`, which traces a method once for each program."""

  given_frames: int = struct.field(pytree_node=False, default=1)
  overlap: int = struct.field(pytree_node=False, default=1)
  init = loss = protocol = mock.Mock(side_effect=AssertionError)

  def sample(self, params, batch, key, on_step=None):
    TRACES.append("sample")
    return jax.random.normal(key, batch["video"].shape)

  def sample_window(self, params, conditions, key, video, *known, on_step=None):
    TRACES.append("sample_window")
    return video + jax.random.normal(key, video.shape)


class CompilationTest(absltest.TestCase):
  def test_the_same_wish_with_another_seed_compiles_nothing(self):
    devices = pipeline.Devices(put=lambda x: dict(x), jit=lambda fn: jax.jit(fn))
    generator = window_stages.trained(Traced())
    made = pipeline.WindowPipeline("vdm", Clip(F, STRIDE, S), generator, devices, 2)
    for task, num_frames in (("animate", None), ("extend", 9)):
      TRACES.clear()
      wish = request(task, VIDEO[:1], num_frames)
      one, two = ([*made.run(wish, jax.random.key(seed))] for seed in (0, 1))
      self.assertLen(TRACES, 1)
      self.assertFalse(np.array_equal(one[-1].frames, two[-1].frames))


class CollectTest(absltest.TestCase):
  def test_frames_past_the_end_are_left_out_and_later_segments_win(self):
    frames = np.arange(2 * 5).reshape(2, 5, 1, 1, 1).repeat(3, -1).astype(np.uint8)
    segments = [(0, frames), (3, frames + 100), (6, frames + 200)]
    segments = (pipeline.Segment(*x) for x in segments)
    found = pipeline.collect(pipeline.Plan(8, FPS, 3), segments)
    self.assertEqual(found.shape, (2, 8, 1, 1, 3))
    expected = [0, 1, 2, 100, 101, 102, 200, 201]
    np.testing.assert_array_equal(found[0, :, 0, 0, 2], expected)
    np.testing.assert_array_equal(found[1], found[0] + 5)


if __name__ == "__main__":
  absltest.main()
