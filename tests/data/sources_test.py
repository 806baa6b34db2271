"""The table of sources, and mistakes in what is asked of it."""

import subprocess
import sys

from absl.testing import absltest, parameterized

from lamd_jax.data import sources
from lamd_jax.types import UserError

SHAPES = dict(name="shapes", num_frames=4, frame_stride=2, resolution=16)


class MakeSourceTest(parameterized.TestCase):
  @parameterized.parameters("train", "eval")
  def test_a_source_is_made_from_its_part_of_a_configuration(self, split):
    source = sources.make_source(SHAPES | dict(num_train=9, num_eval=4), split)
    self.assertIsInstance(source, sources.VideoSource)
    self.assertLen(source, dict(train=9, eval=4)[split])
    self.assertEqual(source.read(2, 0, 4, 2).shape, (4, 16, 16, 3))

  @parameterized.parameters(
    (
      dict(name="shape"),
      "'shape'; known: cater_gen, .*, shapes, tfds, ucf101, video_c",
    ),
    (dict(num_trian=3), "data.num_trian .*did you mean data.num_train?"),
    (
      dict(path="x"),
      "data.path means nothing to data.name='shapes'; known: num_frames",
    ),
    (dict(num_frames=0), "data.num_frames=0: expected a whole number from 1 to"),
    (dict(resolution=32.5), "data.resolution=32.5: expected a whole number"),
    (dict(frame_stride=-1), "data.frame_stride=-1:"),
    (dict(num_frames=10**11), "data.num_frames=100000000000: expected"),
    (dict(frame_stride=10**11), "data.frame_stride=100000000000: expected"),
    (dict(resolution=10**6), "data.resolution=1000000: expected"),
    (dict(num_train=2**31), "data.num_train=2147483648: expected"),
    (dict(num_frames=10**4, resolution=512), "takes 7 GiB; at most 4"),
    (dict(num_eval=True), "data.num_eval=True:"),
    (dict(name="video_folder"), "data.path is missing; data.name='video_folder'"),
  )
  def test_a_mistake_names_the_key_and_what_to_do(self, change, expected):
    with self.assertRaisesRegex(UserError, expected) as caught:
      sources.make_source(SHAPES | change, "train")
    self.assertNotIn("\n", str(caught.exception))

  def test_a_missing_key_is_named(self):
    with self.assertRaisesRegex(UserError, "data.num_frames is missing"):
      sources.make_source(dict(name="shapes"), "train")

  def test_neither_tensorflow_nor_pytorch_is_imported(self):
    code = (
      "import sys, lamd_jax.data.pipeline, lamd_jax.data.sources\n"
      "print([m for m in ('tensorflow', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    self.assertEqual(done.stdout.strip(), "[]", done.stderr)


if __name__ == "__main__":
  absltest.main()
