"""The jobs, end to end: what a run leaves, and what interruptions and damage change."""

import errno
import itertools
import json
import os
import pathlib
import shutil
import signal
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
from PIL import Image
import pytest
import safetensors
import tiny_config
import whole_jobs

import lamd_jax
from lamd_jax.data import media, pipeline, sources
from lamd_jax.experiment import trained
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import evaluate, export, generate, train
from lamd_jax.metrics import card as card_lib
from lamd_jax.metrics import motion, protocol
from lamd_jax.report import page
from lamd_jax.systems import pipeline as pipeline_lib
from lamd_jax.training import checkpoint, health, sharding
from lamd_jax.training import logging as training_log
from lamd_jax.types import UserError

CONFIG = whole_jobs.lamd_config()
STAGES = ("mcd_vae", "dmg")
CHECKPOINTS = workdir_lib.CHECKPOINTS


def setUpModule():
  global WHOLE, INDICES
  WHOLE, INDICES = whole_jobs.lamd()


def killing(owner, name, call, number):
  """Sends this process a signal at the end of the n-th call of a function."""
  function, calls = getattr(owner, name), itertools.count(1)

  def call_and_kill(*args, **kwargs):
    result = function(*args, **kwargs)
    if next(calls) == call:
      os.kill(os.getpid(), number)
    return result

  return mock.patch.object(owner, name, call_and_kill)


def arrays(folder, stage):
  """Everything in the newest checkpoint of a stage."""
  path = folder / stage / CHECKPOINTS
  step = checkpoint.latest_step(path)
  with ocp.StandardCheckpointer() as checkpointer:
    return step, checkpointer.restore(path.absolute() / str(step) / "state")


def losses(folder, stage):
  return [line["loss"] for line in training_log.read_scalars(folder / stage)]


def snapshot(folder):
  """Bytes and times of all files."""
  return {
    str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def cut(folder):
  """Cuts all files that hold arrays in half."""
  for path in folder.rglob("d/*"):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class JobsTestCase(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"

  def assert_is_whole(self, stages=STAGES):
    """Parameters, averages, optimizer and losses are those of the whole job."""
    for stage in stages:
      expected, given = arrays(WHOLE, stage), arrays(self.folder, stage)
      self.assertEqual(given[0], expected[0])
      expected_keys = {"step", "params", "ema_params", "opt_state"}
      if stage == "mcd_vae":  # Which has an adversary.
        expected_keys |= {"critic_params", "critic_opt_state"}
      self.assertEqual(expected_keys, set(given[1]))
      chex.assert_trees_all_equal(given[1], expected[1])
      self.assertEqual(losses(self.folder, stage), losses(WHOLE, stage))


class WholeJobTest(JobsTestCase):
  def test_everything_is_there(self):
    expected = ["config.json", "environment.json", "metrics.json", "report.html"]
    expected += ["cards/sample_motion.json", "cards/reconstruction_flicker.json"]
    expected += ["skipped_files.txt", "samples/clips.npz", "samples/clip_0.png"]
    expected += [
      f"samples/{name}.{ending}"
      for name in ("real_0", "reconstructed_3", "sample_0_0", "sample_3_1")
      for ending in ("mp4", "gif")
    ]
    expected += ["mcd_vae/grid_2.png", "mcd_vae/grid_4.png", "dmg/grid_4.png"]
    for stage in STAGES:
      expected += [
        f"{stage}/scalars.jsonl",
        f"{stage}/checkpoints/2/_CHECKPOINT_METADATA",
      ]
      expected += [f"{stage}/checkpoints/4/_CHECKPOINT_METADATA"]
      self.assertLen(list((WHOLE / stage / "tensorboard").iterdir()), 1)
    for name in expected:
      self.assertGreater(
        (WHOLE / name).stat().st_size + (name == "skipped_files.txt"), 0, name
      )
    leftovers = [p for p in WHOLE.rglob("*") if ".part" in p.name or "tmp" in p.name]
    self.assertEmpty(leftovers)

  def test_every_figure_is_a_number_under_its_name(self):
    figures = json.loads((WHOLE / "metrics.json").read_text())
    for name, value in figures.items():
      self.assertIsInstance(value, int | float, name)
      self.assertTrue(np.isfinite(value), name)
    self.assertContainsSubset(
      {
        *("reconstruction_psnr", "still_psnr", "sample_motion_ratio"),
        *("sample_pairwise_psnr", "sample_first_frame_psnr", "wall_seconds"),
        *("peak_memory_gb", "mcd_vae_steps", "dmg_steps", "skipped_files"),
      },
      figures,
    )
    expected = set(protocol.FIGURES) - {"reconstruction_ssim"}  # For larger frames.
    self.assertContainsSubset(expected, figures)
    self.assertEqual((figures["mcd_vae_steps"], figures["dmg_steps"]), (4, 4))
    parts = [v for k, v in figures.items() if k.endswith("_seconds")]
    self.assertAlmostEqual(figures["wall_seconds"], sum(parts) / 2)
    self.assertEqual(figures["startup_seconds"], 1.5)
    for stage in STAGES:
      _, state = arrays(WHOLE, stage)
      size = sum(x.size for x in jax.tree.leaves(state["params"]))
      self.assertEqual(figures[f"num_parameters_{stage}"], size)

  def test_a_card_says_how_its_score_was_taken(self):
    card = json.loads((WHOLE / "cards/sample_motion.json").read_text())
    figures = json.loads((WHOLE / "metrics.json").read_text())
    self.assertEqual(card["name"], "MOTION@8")
    self.assertEqual(card["value"], figures["sample_motion"])
    self.assertContainsSubset(card_lib.FIELDS, card["protocol"])
    self.assertEqual(card["protocol"]["sampling_steps"], 3)
    self.assertEqual(card["protocol"]["checkpoint"], "step 4 of dmg")
    self.assertEqual(card["companions"]["stills"], 0.0)
    # All samples of each clip, against the clips they were made from.
    with np.load(WHOLE / "samples/clips.npz", allow_pickle=False) as file:
      real, sampled = file["real"], file["sampled"]
    expected = motion.motion_ratio(sampled, real)
    self.assertAlmostEqual(card["value"], expected)
    # As many other clips, of any training videos.
    source = sources.make_source(CONFIG.data.to_dict(), "train")
    others = pipeline.eval_clips(source, len(source), 3, 1)
    chosen = np.random.default_rng(0).permutation(len(source))[:8]
    expected = motion.motion_ratio(others[chosen], real)
    self.assertAlmostEqual(card["companions"]["other real"], expected)

  def test_motion_is_logged_where_the_stage_drew(self):
    lines = training_log.read_scalars(WHOLE / "mcd_vae")
    drawn = {line["step"] for line in lines if "motion_ratio" in line}
    self.assertEqual(drawn, {2, 4})

  def test_clips_are_the_held_out_ones_and_samples_begin_alike(self):
    with np.load(WHOLE / "samples/clips.npz", allow_pickle=False) as file:
      clips = dict(file)
    for name, shape in (("real", (4,)), ("reconstructed", (4,)), ("sampled", (4, 2))):
      self.assertEqual(clips[name].shape, (*shape, 3, 8, 8, 3))
      self.assertEqual(clips[name].dtype, np.uint8)
    source = sources.make_source(CONFIG.data.to_dict(), "eval")
    np.testing.assert_array_equal(clips["real"], pipeline.eval_clips(source, 4, 3, 1))
    self.assertEqual(clips["caption"][3], source.annotation(3)["caption"])
    self.assertEqual(clips["fps"], source.fps)
    # The two samples of a clip share its first frame, not their noise.
    self.assertFalse(np.array_equal(clips["sampled"][:, 0], clips["sampled"][:, 1]))
    probed = media.probe(WHOLE / "samples/sample_2_1.mp4")
    self.assertEqual((probed.num_frames, probed.fps), (3, source.fps))

  def test_the_report_has_the_figures(self):
    text = (WHOLE / "report.html").read_text()
    self.assertIn("Gain over a still", text)
    self.assertIn("MOTION@4", text)
    self.assertIn("data:video/mp4", text)

  def test_what_is_done_is_not_done_again(self):
    shutil.copytree(WHOLE, self.folder)
    before = snapshot(self.folder)
    with (
      mock.patch.object(train, "train_stage", side_effect=AssertionError("trained")),
      mock.patch.object(generate, "Sampler", side_effect=AssertionError("sampled")),
    ):
      whole_jobs.do(CONFIG, self.folder)
    after = snapshot(self.folder)
    self.assertEqual(after.keys(), before.keys())
    rewritten = {"config.json", "metrics.json", "report.html"}
    rewritten |= {name for name in before if name.startswith("cards/")}
    for name in before.keys() - rewritten:
      self.assertEqual(after[name], before[name], name)
    self.assertEqual(after["config.json"][1], before["config.json"][1])

  def test_the_best_checkpoint_is_of_the_last_stage_and_said_wherever_it_counts(self):
    shutil.copytree(WHOLE, self.folder)
    lines = training_log.read_scalars(self.folder / "dmg")
    saved = {line["step"]: line["loss"] for line in lines if line["step"] in (2, 4)}
    best = max(saved, key=lambda step: saved[step])
    config = CONFIG.copy_and_resolve_references()
    config.sample.checkpoint = "best"
    with self.assertLogs("absl", "INFO") as logs:
      loaded = [trained.load(make_run(config, self.folder), name) for name in STAGES]
    self.assertEqual([x.meta["step"] for x in loaded], [4, best])
    self.assertIn(f"stage dmg: step {best}, best by loss", "\n".join(logs.output))
    with mock.patch.object(
      generate, "Sampler", Echo
    ):  # Made anew if it is another step.
      generate.sample_clips(make_run(config, self.folder))
    figures = evaluate.evaluate(make_run(config, self.folder), 0.0)
    self.assertEqual((figures["dmg_best_step"], figures["dmg_steps"]), (best, 4))
    self.assertNotIn("mcd_vae_best_step", figures)
    card = json.loads((self.folder / "cards/sample_motion.json").read_text())
    said = f"step {best} of dmg, best by loss"
    self.assertEqual(card["protocol"]["checkpoint"], said)
    text = page.write_report(self.folder).read_text()
    self.assertIn(f"samples of step {best}, the best", text)

  def test_other_settings_of_sampling_make_other_samples_only(self):
    shutil.copytree(WHOLE, self.folder)
    config = tiny_config.get_config()
    config.evaluate.num_clips = 2
    with mock.patch.object(generate, "Sampler", Echo):
      generate.sample_clips(make_run(config, self.folder))
    with np.load(self.folder / "samples/clips.npz") as file:
      self.assertLen(file["real"], 2)


@pytest.mark.slow
class InterruptionTest(JobsTestCase):
  def test_a_run_in_four_parts_equals_a_whole_one_bit_for_bit(self):
    indices = []

    def stopped(owner, name, call, number):
      with (
        killing(owner, name, call, number),
        whole_jobs.noting_indices(indices),
        self.assertRaises(train.Stopped) as caught,
      ):
        train.train(make_run(CONFIG, self.folder))
      self.assertIn("the same command goes on", str(caught.exception))
      return caught.exception.exit_status, {
        stage: checkpoint.latest_step(self.folder / stage / CHECKPOINTS)
        for stage in STAGES
      }

    # Before step 3; while the last step is logged; while step 1 is logged, too late
    # to be saved with it.
    status, steps = stopped(sharding, "shard_batch", 3, signal.SIGTERM)
    self.assertEqual((status, steps), (143, {"mcd_vae": 3, "dmg": None}))
    status, steps = stopped(training_log.Log, "step", 1, signal.SIGTERM)
    self.assertEqual((status, steps), (143, {"mcd_vae": 4, "dmg": None}))
    status, steps = stopped(training_log.Log, "step", 1, signal.SIGINT)
    self.assertEqual((status, steps), (130, {"mcd_vae": 4, "dmg": 2}))
    with whole_jobs.noting_indices(indices):
      train.train(make_run(CONFIG, self.folder))
    self.assert_is_whole()
    self.assertEqual(indices, INDICES)
    self.assertLen(indices, 8)

  def test_last_checkpoints_cut_short_are_made_again_from_those_before(self):
    shutil.copytree(WHOLE, self.folder)
    for stage in STAGES:
      cut(self.folder / stage / CHECKPOINTS / "4" / "state")
    with self.assertLogs("absl", "WARNING") as logs:
      train.train(make_run(CONFIG, self.folder))
    text = "\n".join(logs.output)
    for stage in STAGES:
      self.assertRegex(text, f"step 4 in .*{stage}.* cannot be read .* step 2 instead")
    self.assert_is_whole()

  def test_divergence_and_a_full_disk_leave_what_was_saved(self):
    shutil.copytree(WHOLE, self.folder)
    folder = self.folder / "dmg" / CHECKPOINTS
    shutil.rmtree(folder / "4")
    before = snapshot(self.folder / "mcd_vae"), snapshot(folder)
    bad = health.Bad(3, "loss is nan", ("somewhere",))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for owner, name, replacement, message in (
      (
        health,
        "find_bad",
        dict(return_value=bad),
        "diverged: loss .* 3",
      ),
      (ocp.CheckpointManager, "save", dict(side_effect=full), "the disk is full"),
    ):
      with (
        mock.patch.object(owner, name, **replacement),
        self.assertRaisesRegex(UserError, message),
      ):
        train.train(make_run(CONFIG, self.folder))
      self.assertEqual((snapshot(self.folder / "mcd_vae"), snapshot(folder)), before)
    train.train(make_run(CONFIG, self.folder))
    self.assert_is_whole()


class Echo(pipeline_lib.Sampler):
  """Gives back the clips that it should animate, and remembers them."""

  asked = None

  def __init__(self, *args):
    pass

  def __call__(self, batch, key, shown=iter):
    Echo.asked = batch["video"]
    return batch["video"]


def animate(folder, picture):
  """Animates a picture as --mode=sample --image does."""
  wish = generate.Wish("animate", picture, is_picture=True)
  return generate.generate(make_run(CONFIG, folder), wish)


class AnimateTest(JobsTestCase):
  def animated(self, image):
    """Returns a picture as the network gets it: b f h w 3."""
    shutil.copytree(WHOLE, self.folder, dirs_exist_ok=True)
    path = self.folder / "picture.png"
    image.save(path, exif=image.getexif())
    with mock.patch.object(pipeline_lib, "Sampler", Echo):
      paths = animate(self.folder, path)
    self.assertLen(paths, 2)
    return Echo.asked

  def test_a_trained_folder_animates_a_picture(self):
    shutil.copytree(WHOLE, self.folder)
    image = np.random.default_rng(0).integers(0, 256, (31, 17, 3)).astype(np.uint8)
    picture = self.folder.parent / "mine.png"
    Image.fromarray(image).save(picture)
    paths = animate(self.folder, picture)
    videos = [media.read_window(path, 0, 3) for path in paths]
    self.assertEqual([path.name for path in paths], ["mine_0.mp4", "mine_1.mp4"])
    self.assertGreater(np.abs(np.subtract(*videos, dtype=float)).mean(), 1.0)
    for name in ("mine_0.gif", "mine_1.gif", "mine.png"):
      self.assertTrue((self.folder / "animated" / name).exists())
    # What was there before stays as it was.
    before, after = snapshot(WHOLE), snapshot(self.folder)
    self.assertEqual({k: after[k] for k in before}, before)

  def test_python_makes_the_videos_of_the_command_from_an_export_too(self):
    shutil.copytree(WHOLE, self.folder)
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    picture = self.folder.parent / "mine.png"
    Image.fromarray(image).save(picture)
    written = mock.Mock(wraps=workdir_lib.write_videos)
    with mock.patch.object(workdir_lib, "write_videos", written):
      animate(self.folder, picture)
    _, _, videos, fps = written.call_args[0]
    folder = export.export(make_run(CONFIG, self.folder))
    self.assertEqual(
      sorted(path.name for path in folder.iterdir()),
      ["model.json", "model.safetensors"],
    )
    elsewhere = self.folder.parent / "elsewhere"
    folder.rename(elsewhere)
    for path in (self.folder, elsewhere):
      model = lamd_jax.load(path)
      self.assertEqual(model.fps, fps)
      found = model.animate(image, num=2, seed=CONFIG.seed)
      np.testing.assert_array_equal(found, videos, err_msg=str(path))
    with safetensors.safe_open(elsewhere / "model.safetensors", "np") as file:
      saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for stage in STAGES:
      _, state = arrays(WHOLE, stage)
      for path, x in jax.tree.leaves_with_path(state["ema_params"]):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        np.testing.assert_array_equal(saved.pop(f"{stage}/{name}"), x)
    self.assertEmpty(saved)

  @parameterized.parameters(
    dict(mode="L", size=(3, 100)),
    dict(mode="RGBA", size=(17, 31)),
    dict(mode="LA", size=(1, 1)),
    dict(mode="P", size=(8, 8)),
    dict(mode="I;16", size=(9, 20)),
  )
  def test_a_picture_of_any_kind_and_size_is_every_frame(self, mode, size):
    clips = self.animated(Image.new(mode, size))
    self.assertEqual(clips.shape, (2, 3, 8, 8, 3))
    np.testing.assert_array_equal(clips, np.broadcast_to(clips[:1, :1], clips.shape))

  def test_a_turned_picture_is_put_upright(self):
    # Dark at the left; a camera held on its side says: turn by a quarter.
    image = Image.fromarray(np.repeat([[0, 255]], 8, axis=1).repeat(16, 0).astype("u1"))
    image.getexif()[0x0112] = 6
    frame = self.animated(image)[0, 0].astype(float)
    self.assertGreater(frame[-1].mean() - frame[0].mean(), 200.0)


class TransferTest(JobsTestCase):
  @pytest.mark.slow
  def test_a_trained_autoencoder_alone_gives_motion_to_a_picture(self):
    shutil.copytree(WHOLE, self.folder)
    shutil.rmtree(self.folder / "dmg")
    before = snapshot(self.folder)
    path = self.folder / "samples/real_0.mp4"
    clip = media.read_window(path, 0, 3, 1, 8)
    run = make_run(CONFIG, self.folder)
    wish = generate.Wish("transfer", path, motions=(path,))
    write_videos = workdir_lib.write_videos
    with mock.patch.object(workdir_lib, "write_videos", wraps=write_videos) as written:
      paths = generate.generate(run, wish)
    names = ["real_0_by_real_0_0.mp4", "real_0_by_real_0_grid.mp4"]
    self.assertEqual([path.name for path in paths], names)
    # What the job of sampling makes of the clip with the same checkpoint.
    autoencoder = trained.load(run, "mcd_vae")
    sampler = pipeline_lib.Sampler(autoencoder, trained.devices_of(run), 1)
    (expected,) = sampler({"video": clip[None]}, jax.random.key(0))
    _, _, (found,), fps, _ = written.call_args[0]
    self.assertLessEqual(np.abs(np.subtract(found, expected, dtype=int)).max(), 1)
    self.assertEqual(fps, autoencoder.meta["fps"])
    after = snapshot(self.folder)
    self.assertEqual({k: after[k] for k in before}, before)


class DamageTest(JobsTestCase):
  def test_samples_on_a_full_disk_are_a_message_and_the_old_ones_stay(self):
    shutil.copytree(WHOLE, self.folder)
    config = tiny_config.get_config()
    config.evaluate.num_clips = 2
    before = (self.folder / "samples/clips.npz").read_bytes()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
      mock.patch.object(generate, "Sampler", Echo),
      mock.patch.object(np, "savez_compressed", side_effect=full),
      self.assertRaisesRegex(UserError, "the disk is full"),
    ):
      generate.sample_clips(make_run(config, self.folder))
    self.assertEqual((self.folder / "samples/clips.npz").read_bytes(), before)

  def test_damaged_samples_are_named_and_made_again(self):
    shutil.copytree(WHOLE, self.folder)
    path = self.folder / "samples/clips.npz"
    path.write_bytes(path.read_bytes()[:1000])
    with self.assertRaisesRegex(UserError, "clips.npz is damaged .* --mode=sample"):
      evaluate.evaluate(make_run(CONFIG, self.folder), 0.0)
    with mock.patch.object(generate, "Sampler", Echo):
      generate.sample_clips(make_run(CONFIG, self.folder))
    self.assertEqual(
      evaluate.evaluate(make_run(CONFIG, self.folder), 0.0)["dmg_steps"], 4
    )

  def test_without_samples_there_is_nothing_to_measure(self):
    shutil.copytree(WHOLE, self.folder)
    shutil.rmtree(self.folder / "samples")
    with self.assertRaisesRegex(UserError, "nothing to evaluate: .* --mode=sample"):
      evaluate.evaluate(make_run(CONFIG, self.folder), 0.0)


if __name__ == "__main__":
  absltest.main()
