"""A trained model from Python: arrays in, arrays out, and the same model elsewhere."""

import functools
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import tiny_config
from tiny_lamd import VIDEO
from tiny_run import FPS, random_stages, tiny_run, trained_folder
import tiny_vdm

import lamd_jax
from lamd_jax.data import media
from lamd_jax.experiment import model as model_lib
from lamd_jax.experiment.model import Model
from lamd_jax.systems import pixels
from lamd_jax.types import UserError

PICTURE = np.random.default_rng(7).integers(0, 256, (8, 8, 3)).astype(np.uint8)


def make(config):
  run = tiny_run(config)
  return Model(run, random_stages(run))


@functools.cache
def lamd():
  return make(tiny_config.get_config())


@functools.cache
def vdm():
  """VDM without given frames, of two classes among its five."""
  config = tiny_vdm.get_config()
  config.sample.given_frames = 0
  return make(config)


@functools.cache
def animated(seed):
  return lamd().animate(PICTURE, num=2, seed=seed)


def snapshot(folder):
  """Names, times and bytes of all files below a folder."""
  return {
    path: (path.stat().st_mtime_ns, path.read_bytes())
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


class ModelTestCase(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def assert_videos(self, videos, shape):
    self.assertEqual((videos.shape, videos.dtype), (shape, np.dtype(np.uint8)))

  def assert_says(self, message, function, *args, **kwargs):
    """The error is one line."""
    with self.assertRaisesRegex(UserError, message) as caught:
      function(*args, **kwargs)
    self.assertNotIn("\n", str(caught.exception))


class LaMDTest(ModelTestCase):
  def test_an_animation_is_the_sample_of_its_stage(self):
    found = animated(5)
    self.assert_videos(found, (2, 3, 8, 8, 3))
    trained_dmg = random_stages(tiny_run())["dmg"]
    # All devices have an example, whatever is asked for.
    rows = max(2, jax.device_count())
    batch = {"video": jnp.asarray(np.broadcast_to(PICTURE, (rows, 3, 8, 8, 3)))}
    key = jax.random.fold_in(jax.random.key(5), 0)
    expected = jax.jit(trained_dmg.stage.sample)(trained_dmg.params, batch, key)
    expected = np.asarray(pixels.to_uint8(expected))[:2]
    # Programs of other devices round otherwise: by a level, where any.
    difference = np.abs(found.astype(int) - expected)
    self.assertLessEqual(difference.max(), 2)
    self.assertLess(difference.mean(), 0.1)

  def test_equal_seeds_are_equal_bit_for_bit_and_others_differ(self):
    again = lamd().animate(PICTURE, num=2, seed=5)
    np.testing.assert_array_equal(animated(5), again)
    self.assertFalse(np.array_equal(animated(6), again))
    self.assertFalse(np.array_equal(again[0], again[1]))

  def test_a_picture_of_any_size_is_the_centre_of_it_in_the_size_of_the_model(self):
    wide = np.repeat(np.repeat(PICTURE, 2, axis=0), 2, axis=1)
    wide = np.concatenate([255 - wide[:, :6], wide, wide[:, :6]], axis=1)  # 16 28 3
    square = media.resize_crop(wide[None], 8)[0]
    np.testing.assert_array_equal(
      lamd().animate(wide, seed=1), lamd().animate(square, seed=1)
    )

  @pytest.mark.slow
  def test_a_longer_video_begins_with_the_given_one(self):
    found = lamd().extend(VIDEO[0], 5, num=2)
    self.assert_videos(found, (2, 5, 8, 8, 3))
    for video in found:
      np.testing.assert_array_equal(video[:3], VIDEO[0])
    self.assertFalse(np.array_equal(found[0], found[1]))
    # A picture is a video of one frame.
    found = lamd().extend(PICTURE, 4)
    self.assert_videos(found, (1, 4, 8, 8, 3))
    np.testing.assert_array_equal(found[0, 0], PICTURE)

  def test_motion_given_back_to_its_own_picture_is_the_reconstruction(self):
    reconstructed = lamd().reconstruct(VIDEO)
    self.assert_videos(reconstructed, (2, 3, 8, 8, 3))
    one = lamd().reconstruct(VIDEO[1])
    np.testing.assert_allclose(one[0].astype(int), reconstructed[1], atol=1)
    found = lamd().transfer(VIDEO[0], VIDEO[0, 0])
    self.assert_videos(found, (1, 3, 8, 8, 3))
    np.testing.assert_allclose(found[0].astype(int), reconstructed[0], atol=1)

  def test_a_transfer_has_a_video_for_each_motion_and_strength(self):
    found = lamd().transfer(list(VIDEO), PICTURE, strength=(0.0, 1.0))
    self.assert_videos(found, (4, 3, 8, 8, 3))
    # Without any of its motion, a clip no longer matters.
    np.testing.assert_array_equal(found[0], found[2])
    self.assertFalse(np.array_equal(found[1], found[3]))
    mixed = lamd().transfer(list(VIDEO), PICTURE, mix=3)
    self.assert_videos(mixed, (3, 3, 8, 8, 3))
    np.testing.assert_array_equal(mixed[[0, 2]], found[[1, 3]])

  def test_it_knows_the_size_and_the_rate_of_its_clips(self):
    self.assertEqual(lamd().clip, (3, 1, 8))
    self.assertEqual(lamd().fps, FPS)

  def test_what_it_cannot_do_is_said(self):
    says = functools.partial(self.assert_says)
    says("0 videos were asked for; expected 1", lamd().animate, PICTURE, num=0)
    says("begins with 1 given frames; give it a picture", lamd().generate)
    says("'none', not 'class'", lamd().animate, PICTURE, label=0)
    says("a clip of 2 frames was given; .* have 3", lamd().reconstruct, VIDEO[0, :2])
    says("a clip of 2 frames", lamd().transfer, VIDEO[0, :2], PICTURE)
    says("3 frames cannot be extended to 3", lamd().extend, VIDEO[0], 3)
    says("0 motions at the strengths", lamd().transfer, [], PICTURE)
    says("mix=3 with 1 motions", lamd().transfer, VIDEO[0], PICTURE, mix=3)
    says("upsample: lamd can animate, predict", lamd().request, "upsample", VIDEO[0])
    says("extend needs a picture or a video to begin with", lamd().request, "extend")

  @parameterized.parameters(
    (np.zeros((8, 8), np.uint8), r"\[8, 8\] and type uint8"),
    (np.zeros((8, 8, 4), np.uint8), r"\[8, 8, 4\] and type uint8"),  # With alpha.
    (np.zeros((8, 8, 3), np.float32), r"\[8, 8, 3\] and type float32"),
    (np.zeros((1, 8, 8, 3), np.uint8), r"\[1, 8, 8, 3\] and type uint8"),
  )
  def test_what_is_no_picture_is_said(self, picture, message):
    # The annotations say it first, where they are checked: in tests.
    self.enterContext(unchecked())
    expected = f"a picture of shape {message} .* expected .height, width, 3. and uint8"
    self.assert_says(expected, lamd().animate, picture)
    self.assert_says(expected, lamd().transfer, VIDEO[0], picture)

  def test_what_is_no_clip_is_said(self):
    self.enterContext(unchecked())
    grey, message = VIDEO[0, ..., 0], r"\[3, 8, 8\] .* expected .frames, height, width"
    self.assert_says(message, lamd().transfer, grey, PICTURE)
    half = VIDEO[0].astype(np.float16)
    self.assert_says("clip of .* type float16", lamd().reconstruct, half)
    self.assert_says("video of .* type float16", lamd().extend, half, 5)


class unchecked:  # noqa: N801  A context.
  """Annotations are not checked, as where a user calls."""

  def __enter__(self):
    jaxtyping.config.update("jaxtyping_disable", True)

  def __exit__(self, *args):
    jaxtyping.config.update("jaxtyping_disable", False)


class VDMTest(ModelTestCase):
  def test_videos_from_noise_have_the_seed_and_the_condition_they_are_asked_for(self):
    found = vdm().generate(num=2, seed=4, label=1)
    self.assert_videos(found, (2, 3, 8, 8, 3))
    self.assertFalse(np.array_equal(found[0], found[1]))
    np.testing.assert_array_equal(found, vdm().generate(num=2, seed=4, label=1))
    for other in (dict(seed=5, label=1), dict(seed=4, label=2), dict(seed=4)):
      self.assertFalse(np.array_equal(found, vdm().generate(num=2, **other)))

  def test_what_it_cannot_do_is_said(self):
    says = self.assert_says
    says("works on pixels: it has no autoencoder", vdm().reconstruct, VIDEO)
    says("begins with 0 given frames, a picture is one", vdm().animate, PICTURE)
    says("--mode=transfer: vdm does not take motion", vdm().transfer, VIDEO[0], PICTURE)
    says("--label=5: expected 0 to 4", vdm().generate, label=5)
    says("--caption: .* is 'class'", vdm().generate, caption="a")


class SavedTest(ModelTestCase):
  @functools.cached_property
  def saved(self):
    """Saves the tiny LaMD; returns the folder."""
    lamd().save(self.folder / "saved")
    return self.folder / "saved"

  def test_elsewhere_it_makes_the_same_videos_bit_for_bit(self):
    elsewhere = self.folder / "elsewhere"
    shutil.move(self.saved, elsewhere)
    loaded = lamd_jax.load(elsewhere)
    self.assertEqual((loaded.clip, loaded.fps), (lamd().clip, lamd().fps))
    before = snapshot(self.folder)
    found = loaded.animate(PICTURE, num=2, seed=5)
    np.testing.assert_array_equal(found, animated(5))
    np.testing.assert_array_equal(
      loaded.transfer(VIDEO[0], PICTURE), lamd().transfer(VIDEO[0], PICTURE)
    )
    self.assertEqual(snapshot(self.folder), before)  # Nothing was written.

  def test_a_folder_has_every_parameter_once_and_a_description(self):
    arrays = load_file(self.saved / "model.safetensors")
    stages = random_stages(tiny_run())
    self.assertLen(
      arrays, sum(len(jax.tree.leaves(stage.params)) for stage in stages.values())
    )
    np.testing.assert_array_equal(
      arrays["mcd_vae/conv_out/bias"], stages["mcd_vae"].params["conv_out"]["bias"]
    )
    said = json.loads((self.saved / "model.json").read_text())
    self.assertEqual(said["config"]["system"], "lamd")
    self.assertEqual(said["stages"]["dmg"]["meta"], {"fps": FPS, "step": 7})
    names = {path.name for path in self.saved.iterdir()}
    self.assertEqual(names, {"model.safetensors", "model.json"})

  def test_what_was_measured_goes_along(self):
    run = tiny_run()
    stages = random_stages(run)
    measured = {"scale": 0.25, "shift": [1.0, 2.0]}
    stages["mcd_vae"] = stages["mcd_vae"]._replace(statistics=measured)
    Model(run, stages).save(self.folder)
    loaded = lamd_jax.load(self.folder)
    self.assertEqual(loaded.stage("mcd_vae").statistics, measured)
    self.assertEmpty(loaded.stage("dmg").statistics)

  def test_it_is_not_saved_over_a_work_folder_or_a_file(self):
    (self.folder / "config.json").write_text("{}")
    self.assert_says("is a work folder; choose another", lamd().save, self.folder)
    (self.folder / "file").write_text("mine")
    self.assert_says("cannot write .*file", lamd().save, self.folder / "file")
    self.assertLen(list(self.folder.iterdir()), 2)

  @parameterized.parameters(
    "missing", "misshapen", "other numbers", "unknown", "foreign names"
  )
  def test_parameters_that_are_others_are_named(self, damage):
    path = self.saved / "model.safetensors"
    arrays = load_file(path)
    bias = arrays.pop("dmg/unet/conv_in/bias")
    message = r"dmg/unet/conv_in/bias has the shape of nothing, expected \(8,\)"
    if damage == "misshapen":
      arrays["dmg/unet/conv_in/bias"] = bias[:-1]
      message = r"dmg/unet/conv_in/bias has the shape \(7,\), expected \(8,\)"
    elif damage == "other numbers":
      arrays["dmg/unet/conv_in/bias"] = bias.astype(np.int8)
      message = "dmg/unet/conv_in/bias is of int8, expected float32"
    elif damage == "unknown":
      arrays |= {"dmg/unet/conv_in/bias": bias, "dmg/extra/bias": bias}
      message = "dmg/extra/bias has the shape .*, expected nothing of this name"
    elif damage == "foreign names":
      arrays = {name.replace("/", "."): x for name, x in arrays.items()}
      message = "mcd_vae/.* has the shape of nothing"
    save_file(arrays, path)
    self.assert_says(message, lamd_jax.load, self.saved)

  @parameterized.parameters(
    (
      "model.safetensors",
      b"cut",
      "model.safetensors is damaged .*save the model",
    ),
    ("model.safetensors", None, "model.safetensors is damaged .*No such file"),
    ("model.json", b"{", "model.json is damaged"),
    ("model.json", b"{}", "model.json is damaged .KeyError 'config'"),
    ("model.json", b"[]", "model.json is damaged .it holds no JSON object"),
    ("model.json", b"[" * 100_000, "model.json is damaged .it nests too deep"),
  )
  def test_a_damaged_folder_is_named(self, name, content, message):
    self.enterContext(unchecked())
    path = self.saved / name
    if content is None:
      path.unlink()
    else:
      path.write_bytes(content if content != b"cut" else path.read_bytes()[:-40])
    self.assert_says(message, lamd_jax.load, self.saved)

  def test_another_folder_is_no_model(self):
    for path in (self.folder, self.folder / "missing"):
      self.assert_says("is no model: expected a work folder", lamd_jax.load, path)


class WorkFolderTest(ModelTestCase):
  def test_a_work_folder_is_a_model_and_stays_as_it_is(self):
    trained_folder(tiny_config.get_config(), self.folder)
    before = snapshot(self.folder)
    loaded = lamd_jax.load(str(self.folder))
    np.testing.assert_array_equal(loaded.animate(PICTURE, num=2, seed=5), animated(5))
    self.assertEqual(loaded.fps, FPS)
    self.assertEqual(snapshot(self.folder), before)

  def test_one_that_is_not_trained_yet_is_said_when_it_is_needed(self):
    config = tiny_config.get_config()
    (self.folder / "config.json").write_text(config.to_json_best_effort())
    loaded = lamd_jax.load(self.folder)
    self.assert_says("no checkpoint in .*: train this stage", loaded.animate, PICTURE)


class FaceTest(absltest.TestCase):
  def test_the_name_alone_loads_nothing(self):
    code = (
      "import sys, lamd_jax\n"
      "assert callable(lamd_jax.load) and lamd_jax.__version__\n"
      "heavy = {'jax', 'flax', 'numpy', 'orbax'} & {*sys.modules}\n"
      "assert not heavy, heavy\n"
    )
    root = pathlib.Path(lamd_jax.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)

  def test_the_face_is_that_of_the_model(self):
    first, second = (f.__doc__.split("\n")[0] for f in (lamd_jax.load, model_lib.load))
    self.assertEqual(first, second)


if __name__ == "__main__":
  absltest.main()
