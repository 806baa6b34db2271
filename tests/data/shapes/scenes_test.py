"""Moving shapes: what the captions say is what the pixels do."""

import collections
import dataclasses
from unittest import mock

from absl.testing import absltest, parameterized
import numpy as np

from lamd_jax.data import shapes
from lamd_jax.data.shapes import outlines as forms

NUM_FRAMES, RESOLUTION = 16, 80


def front_mask(scene, video):
  """Where the front shape is, by its colour alone; bool [f h w]."""
  distance = np.abs(video.astype(np.float64) - np.asarray(scene.shapes[-1].color))
  return distance.max(axis=-1) < 6


def observed_motion(mask):
  """Names the motion of a blob from its pixels, knowing nothing of the scene."""
  grid = (np.arange(mask.shape[1]) + 0.5) / mask.shape[1]
  areas = mask.mean(axis=(1, 2))
  x = (mask * grid).mean(axis=(1, 2)) / areas
  y = (mask * grid[:, None]).mean(axis=(1, 2)) / areas
  if np.hypot(np.ptp(x), np.ptp(y)) < 0.04:
    return "grows and shrinks" if areas.max() > 1.6 * areas.min() else "spins"
  across, down = np.abs(np.diff(x)), np.abs(np.diff(y))
  is_still = np.hypot(across, down) < 0.008
  if (is_still[1:] & is_still[:-1]).any():  # A wall stops a glide for one step only.
    return "stops and goes"
  # A circle through all centres: x^2 + y^2 = a x + b y + c.
  system = np.stack([x, y, np.ones_like(x)], axis=1)
  a, b, _ = np.linalg.lstsq(system, x**2 + y**2, rcond=None)[0]
  radii = np.hypot(x - a / 2, y - b / 2)
  return "orbits" if radii.std() < 0.005 and radii.mean() < 0.3 else "glides"


def covered(shape, frames, resolution):
  """Returns the coverage of a shape over whole frames."""
  whole = np.zeros((len(frames), resolution, resolution))
  coverage, rows, columns = shape.coverage(frames, resolution)
  whole[:, rows, columns] = coverage
  return whole


class ShapesTest(parameterized.TestCase):
  def test_the_motion_class_is_what_the_front_shape_does(self):
    seen = collections.Counter()
    for index in range(120):
      scene = shapes.make_scene(3, "train", index)
      if index % 2:  # Half of them alone, where nothing shines through a ring.
        scene = dataclasses.replace(scene, shapes=scene.shapes[-1:])
      video = scene.render(NUM_FRAMES, RESOLUTION)
      observed = observed_motion(front_mask(scene, video))
      self.assertEqual(observed, shapes.MOTIONS[scene.motion_class], scene.caption)
      seen[observed] += 1
    self.assertLen(seen, len(shapes.MOTIONS))
    self.assertGreater(min(seen.values()), 10)

  def test_a_spin_can_be_seen(self):
    for index in range(200):
      scene = shapes.make_scene(4, "train", index)
      if shapes.MOTIONS[scene.motion_class] == "spins":
        mask = front_mask(scene, scene.render(NUM_FRAMES, RESOLUTION))
        changed = (mask[1:] != mask[:-1]).sum(axis=(1, 2)) / mask[1:].sum(axis=(1, 2))
        self.assertGreater(changed.min(), 0.03, scene.caption)

  def test_the_caption_names_every_shape_and_each_is_there_to_see(self):
    for index in range(100):
      scene = shapes.make_scene(5, "train", index)
      video = scene.render(NUM_FRAMES, RESOLUTION)
      self.assertBetween(len(scene.shapes), 2, 4)
      for shape in scene.shapes:
        self.assertRegex(
          scene.caption,
          rf"an? (small |large )?{shape.color_name} {shape.form} "
          rf"{shapes.MOTIONS[shape.motion]}",
        )
        near = np.abs(video[0].astype(float) - np.asarray(shape.color)).max(-1) < 6
        self.assertGreater(near.sum(), 5, f"{index}: {scene.caption}")
      self.assertEndsWith(scene.caption, f" {scene.background_name} background")
      self.assertEqual(
        sum(scene.caption.count(motion) for motion in shapes.MOTIONS),
        len(scene.shapes),
      )
      self.assertNotRegex(scene.caption, r"\ba [aeiou]|\ban [^aeiou]")

  def test_a_caption_reads_like_this(self):
    scene = shapes.make_scene(0, "train", 0)
    red, blue, green = (
      dataclasses.replace(scene.shapes[0], form=form, color_name=color, **values)
      for form, color, values in (
        ("star", "red", dict(size=0.3, motion=1)),
        ("square", "blue", dict(size=0.22, motion=2)),
        ("ring", "orange", dict(size=0.36, motion=4)),
      )
    )
    scene = dataclasses.replace(
      scene, shapes=(green, blue, red), background_name="green"
    )
    self.assertEqual(
      scene.caption,
      "a red star orbits while a small blue square spins and a large orange ring "
      "stops and goes on a green background",
    )

  def test_the_front_shape_is_the_largest_and_covers_the_others(self):
    overlaps = 0
    for index in range(30):
      scene = shapes.make_scene(6, "train", index)
      front = scene.shapes[-1]
      self.assertEqual(front.size, max(shape.size for shape in scene.shapes))
      frames = np.arange(NUM_FRAMES, dtype=np.float64)
      whole = covered(front, frames, RESOLUTION) == 1.0
      video = scene.render(NUM_FRAMES, RESOLUTION)
      expected = np.rint(np.asarray(front.color))
      self.assertLessEqual(np.abs(video[whole] - expected).max(), 1.0)
      behind = covered(scene.shapes[0], frames, RESOLUTION) == 1.0
      overlaps += (whole & behind).any()
    self.assertGreater(overlaps, 10)  # Occlusion is not an exception.

  def test_shapes_stay_in_the_picture(self):
    for index in range(60):
      for shape in shapes.make_scene(7, "train", index).shapes:
        centers = shape.centers(np.arange(64.0))
        self.assertGreaterEqual(centers.min(), shape.extent - 1e-6)
        self.assertLessEqual(centers.max(), 1.0 - shape.extent + 1e-6)

  def test_a_shape_begins_where_its_way_does(self):
    seen = set()
    for index in range(30):
      for shape in shapes.make_scene(7, "train", index).shapes:
        np.testing.assert_allclose(shape.begin, shape.centers(np.zeros(1))[0])
        seen.add(shape.motion)
    self.assertLen(seen, len(shapes.MOTIONS))

  def test_a_glide_travels_a_third_to_two_thirds_of_the_side_in_16_frames(self):
    ways = []
    for index in range(150):
      shape = shapes.make_scene(8, "train", index).shapes[-1]
      if shapes.MOTIONS[shape.motion] == "glides":
        centers = shape.centers(np.arange(NUM_FRAMES, dtype=np.float64))
        ways.append(np.hypot(*np.diff(centers, axis=0).T).sum())
    self.assertNotEmpty(ways)
    self.assertBetween(min(ways), 0.25, 0.5)
    self.assertBetween(max(ways), 0.5, 0.7)

  def test_one_frame_does_not_tell_the_next(self):
    other_ways = {
      "glides": lambda s: dict(heading=s.heading + 2.0),
      "orbits": lambda s: dict(speed=-s.speed),
      "spins": lambda s: dict(turn=-s.turn),
      "grows and shrinks": lambda s: dict(phase=s.period / 2 - s.phase),
      "stops and goes": lambda s: dict(heading=s.heading + 2.0),
    }
    seen = set()
    for index in range(40):
      scene = shapes.make_scene(9, "train", index)
      front = scene.shapes[-1]
      motion = shapes.MOTIONS[front.motion]
      other = dataclasses.replace(front, **other_ways[motion](front))
      twin = dataclasses.replace(scene, shapes=(*scene.shapes[:-1], other))
      a, b = scene.render(9, RESOLUTION), twin.render(9, RESOLUTION)
      self.assertLessEqual(np.abs(a[0].astype(int) - b[0]).max(), 1)
      self.assertGreater(np.abs(a.astype(int) - b).max(), 50)
      seen.add(motion)
    self.assertLen(seen, len(shapes.MOTIONS))

  @parameterized.product(form=tuple(forms.FORMS), resolution=(8, 31))
  def test_nothing_is_covered_outside_the_part_that_is_drawn(self, form, resolution):
    base = shapes.make_scene(0, "train", 0).shapes[-1]
    frames = np.arange(12.0)
    x, y = np.meshgrid(*[(np.arange(resolution) + 0.5) / resolution] * 2)
    for home in ((0.5, 0.5), (0.19, 0.8), (0.3, 0.25)):
      shape = dataclasses.replace(
        base, form=form, size=0.3, motion=2, turn=0.13, growth=0.4, period=7.0,
        home=home,
      )  # fmt: skip
      got = covered(shape, frames, resolution)
      sizes, angles = shape.sizes(frames), shape.angles(frames)
      for mask, size, angle in zip(got, sizes, angles, strict=True):
        ahead = np.exp(-1j * angle) * (x - home[0] + 1j * (y - home[1])) / size
        distance = forms.FORMS[form].distance_fn(ahead.real[None], ahead.imag[None])[0]
        expected = np.clip(0.5 - distance * size * resolution, 0, 1)
        np.testing.assert_allclose(mask, expected, atol=1e-4)

  @parameterized.parameters(*forms.FORMS)
  def test_edges_are_antialiased(self, form):
    base = shapes.make_scene(0, "train", 0).shapes[-1]
    areas = []
    for offset in np.linspace(0.0, 1.0 / 24, 5):
      shape = dataclasses.replace(
        base, form=form, size=0.4, motion=2, turn=0.05, growth=0.0,
        home=(0.5 + offset, 0.5 - offset),
      )  # fmt: skip
      coarse = covered(shape, np.arange(3.0), 24)
      fine = covered(shape, np.arange(3.0), 480)
      pooled = fine.reshape(3, 24, 20, 24, 20).mean(axis=(2, 4))
      self.assertLess(np.abs(coarse - pooled).max(), 0.4)  # At the tips of a star.
      self.assertLess(np.abs(coarse - pooled).mean(), 0.01)
      areas.append(coarse.mean())
    self.assertLess(np.ptp(areas), 0.02 * np.mean(areas))

  @parameterized.parameters(
    ("circle", np.pi / 4),
    ("ring", np.pi * (0.52**2 - 0.24**2)),
    ("square", 0.9**2),
    ("bar", 1.2 * 0.4),
    ("cross", 2 * 1.06 * 0.36 - 0.36**2),
    ("triangle", 3 * np.sqrt(3) * 0.31**2),
    ("star", 5 * 0.62 * 0.27 * np.sin(np.pi / 5)),
  )
  def test_an_outline_has_the_area_of_its_figure(self, form, area):
    base = shapes.make_scene(0, "train", 0).shapes[-1]
    shape = dataclasses.replace(
      base, form=form, size=0.5, motion=2, growth=0.0, home=(0.5, 0.5), angle=0.3
    )
    drawn = covered(shape, np.zeros(1), 128).mean()
    self.assertAlmostEqual(drawn / 0.5**2, area, delta=0.01 * area)

  def test_a_larger_picture_is_the_same_scene_finer(self):
    for index in range(5):
      scene = shapes.make_scene(10, "eval", index)
      small = scene.render(6, 32).astype(np.float64)
      large = scene.render(6, 128).astype(np.float64)
      pooled = large.reshape(6, 32, 4, 32, 4, 3).mean(axis=(2, 4))
      self.assertLess(np.abs(small - pooled).mean(), 1.5)

  def test_a_longer_clip_goes_on_where_the_shorter_one_ends(self):
    scene = shapes.make_scene(11, "train", 2)
    long = scene.render(40, 20)
    np.testing.assert_array_equal(scene.render(16, 20), long[:16])
    np.testing.assert_array_equal(scene.render(7, 20, start=5, stride=3), long[5:26:3])
    self.assertGreater(np.abs(long[39].astype(int) - long[20]).max(), 50)

  def test_a_clip_depends_on_seed_split_and_index_alone(self):
    first = {}
    for seed in (0, 1, 2**40):
      for split in shapes.SPLITS:
        for index in range(20):
          scene = shapes.make_scene(seed, split, index)
          again = shapes.make_scene(seed, split, index)
          frame = scene.render(1, 16).tobytes()
          self.assertEqual(frame, again.render(1, 16).tobytes())
          self.assertNotIn(frame, first, f"{seed} {split} {index}")
          first[frame] = True


class ShapesSourceTest(absltest.TestCase):
  def test_a_source_has_as_many_clips_as_it_was_asked_for(self):
    values = dict(num_frames=5, frame_stride=3, resolution=12, num_train=7, num_eval=3)
    train = shapes.ShapesSource("train", **values)
    held_out = shapes.ShapesSource("eval", **values)
    self.assertLen(train, 7)
    self.assertLen(held_out, 3)
    self.assertEqual(train.num_frames(6), 13)
    video = train.read(6, 0, 5, 3)
    self.assertEqual((video.shape, video.dtype), ((5, 12, 12, 3), np.uint8))
    np.testing.assert_array_equal(video, train.scene(6).render(5, 12, stride=3))
    self.assertFalse(np.array_equal(video, held_out.read(2, 0, 5, 3)))

  def test_an_annotation_is_that_of_the_scene(self):
    source = shapes.ShapesSource("eval", num_frames=4, num_eval=5)
    scene = shapes.make_scene(0, "eval", 3)
    motion = scene.motion_class
    self.assertEqual(
      source.annotation(3),
      {"label": motion, "motion_class": motion, "caption": scene.caption},
    )
    self.assertEqual(source.num_classes, 5)

  def test_a_clip_is_drawn_once_as_long_as_the_memory_lasts(self):
    size = 4 * 10 * 10 * 3
    source = shapes.ShapesSource(
      "train", num_frames=4, resolution=10, num_train=3, cache_bytes=2 * size
    )
    render = shapes.Scene.render
    with mock.patch.object(
      shapes.Scene, "render", autospec=True, side_effect=render
    ) as counted:
      first = [source.read(index, 0, 4, 1) for index in range(3)]
      self.assertEqual(counted.call_count, 3)
      second = [source.read(index, 0, 4, 1) for index in range(3)]
      self.assertEqual(counted.call_count, 4)  # The third did not fit.
    np.testing.assert_array_equal(first, second)

  def test_a_window_beyond_the_clip_is_an_error(self):
    source = shapes.ShapesSource("train", num_frames=4, resolution=8)
    with self.assertRaisesRegex(ValueError, "frames 2 to 5 of a clip of 4"):
      source.read(0, 2, 4, 1)


if __name__ == "__main__":
  absltest.main()
