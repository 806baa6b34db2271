"""Motion given to pictures: what is asked of the network, and what comes of it.

The network is real and tiny, its parameters are those of `tiny_lamd`.
"""

import functools
import itertools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import tiny_config
from tiny_lamd import KEY, autoencoder
import window_stages

from lamd_jax.systems import pixels
from lamd_jax.systems.lamd import motion, pipeline
from lamd_jax.systems.pipeline import (
  Devices,
  Plan,
  Reading,
  Request,
  Trained,
  collect,
)
from lamd_jax.types import UserError

F, S = 3, 8
FPS = 6.0
COMPILED = {}


def compiled(fn):
  """Compiles a function of the network, once for all tests."""
  return COMPILED.setdefault((fn.func, fn.args), jax.jit(fn))


def make(config=None, **stages):
  stage, params = autoencoder()
  stages = {"mcd_vae": Trained(stage, params, {}, {"fps": FPS})} | stages
  devices = Devices(put=lambda x: x, jit=compiled)
  return pipeline.LaMDPipeline(config or tiny_config.get_config(), stages, devices)


def difference(a, b):
  return np.abs(np.subtract(a, b, dtype=int)).max()


class TransferTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(5)
    draw = lambda *shape: rng.integers(0, 256, (*shape, S, S, 3)).astype(np.uint8)
    self.clips, self.image = (draw(F), draw(F)), draw()

  def transfer(self, clips, image=None, **options):
    """Returns the videos, `n f h w 3`."""
    image = self.image if image is None else image
    request = Request("transfer", 1, {}, image[None], tuple(clips), options=options)
    made = make()
    return collect(made.plan(request), made.run(request, KEY))

  def test_the_motion_of_a_clip_makes_of_its_first_frame_its_reconstruction(self):
    stage, params = autoencoder()
    clip = self.clips[0]
    batch = {"video": jnp.asarray(clip[None])}
    expected = pixels.to_uint8(jax.jit(stage.sample)(params, batch, KEY))
    (found,) = self.transfer(self.clips[:1], clip[0])
    self.assertLessEqual(difference(found, expected[0]), 1)

  def test_each_motion_at_each_strength(self):
    videos = self.transfer(self.clips, strengths=(0.0, 1.0, 2.0))
    self.assertLen(videos, 6)
    for i in range(2):
      (alone,) = self.transfer(self.clips[i : i + 1])
      np.testing.assert_array_equal(videos[3 * i + 1], alone)
    # At strength 0 there is the picture's own still and nothing of a clip.
    vae, params = autoencoder()[0].model, autoencoder()[1]
    image = pixels.from_uint8(jnp.asarray(self.image[None]))
    z = compiled(functools.partial(motion.encode_still, vae))(params, image)
    decode = compiled(functools.partial(motion.decode_motion, vae))
    still = pixels.to_uint8(decode(params, z, image))
    for video in (videos[0], videos[3]):
      self.assertLessEqual(difference(video, still[0]), 1)
    for other in (videos[0], videos[2], videos[4]):
      self.assertGreater(difference(videos[1], other), 20)

  def test_a_mix_goes_from_the_first_motion_to_the_second(self):
    ends = self.transfer(self.clips)
    videos = self.transfer(self.clips, mix=4)
    self.assertLen(videos, 4)
    np.testing.assert_allclose(videos[[0, 3]].astype(float), ends, atol=1)
    for one, two in itertools.pairwise(videos):
      self.assertGreater(difference(one, two), 5)

  def test_a_picture_is_read_and_the_rate_is_the_model_s(self):
    config = tiny_config.get_config()
    config.data.frame_stride = 2
    made = make(config)
    self.assertEqual(made.reading("transfer", {}), Reading(S, 2, 1, 1))
    request = Request("transfer", 1, {}, self.image[None], self.clips[:1])
    self.assertEqual(made.plan(request), Plan(F, FPS))

  @parameterized.parameters(
    (1, dict(mix=3), "--mix=3 with 1 motions: expected 2 or more"),
    (2, dict(mix=1), "--mix=1 with 2 motions: expected 2 or more"),
    (1, dict(strengths=(1.0, float("nan"))), "1 motions at the strengths .*nan"),
    (1, dict(strengths=()), "1 motions at the strengths"),
    (0, dict(), "0 motions at the strengths"),
  )
  def test_what_cannot_be_made_is_said(self, count, options, message):
    request = Request("transfer", 1, {}, self.image[None], self.clips[:count])
    request = request._replace(options=options)
    for refused in (make().plan, lambda x: next(make().run(x, KEY))):
      with self.assertRaisesRegex(UserError, message):
        refused(request)


class TasksTest(absltest.TestCase):
  def test_all_other_tasks_are_of_the_generator(self):
    made = make(dmg=window_stages.trained(window_stages.Grey(given_frames=1)))
    self.assertEqual(
      [*made.tasks], ["transfer", "animate", "predict", "extend", "interpolate"]
    )
    self.assertEqual(made.reading("animate", {}), Reading(S, 1, 1, 1))
    video = np.zeros((1, S, S, 3), np.uint8)
    plan = made.plan(Request("extend", 1, {}, video, num_frames=4))
    self.assertEqual((plan.num_frames, plan.fps), (4, window_stages.FPS))
    with self.assertRaisesRegex(UserError, "--task=upsample: lamd can animate"):
      made.reading("upsample", {})

  def test_an_autoencoder_alone_transfers_and_generates_nothing(self):
    config = tiny_config.get_config()
    config.stages = ("mcd_vae",)
    made = make(config)
    self.assertEqual([*made.tasks], ["transfer"])
    with self.assertRaisesRegex(UserError, "this model only reconstructs"):
      made.reading("animate", {})

  def test_no_stage_is_restored_before_it_is_needed(self):
    class Nothing(dict):
      def __missing__(self, stage):
        raise AssertionError(stage)

    config = tiny_config.get_config()
    devices = Devices(put=lambda x: x, jit=compiled)
    made = pipeline.LaMDPipeline(config, Nothing(), devices)
    self.assertEqual(made.reading("transfer", {}), Reading(S, 1, 1, 1))
    self.assertIn("animate", made.tasks)


if __name__ == "__main__":
  absltest.main()
