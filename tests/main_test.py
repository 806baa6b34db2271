"""The command line: a mistake gets one line that says what to do, and status 2."""

import contextlib
import io
import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock
import warnings

from absl import flags
from absl.testing import absltest, flagsaver, parameterized
import pytest
import tiny_config
import window_stages

from lamd_jax import command_line, main
from lamd_jax.experiment import trained
from lamd_jax.experiment import workdir as workdir_lib
from lamd_jax.experiment.run import make_run
from lamd_jax.jobs import evaluate, export, generate, plan, train
from lamd_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[1]
TINY_FOLDER = ROOT / "tests" / "tiny"
TINY = f"--config={TINY_FOLDER / 'tiny_config.py'}"


def run(*args):
  """Runs the command line in this process: (status, what it printed on stderr)."""
  argv = ["main", *map(str, args)]
  stderr = io.StringIO()
  with (
    flagsaver.flagsaver(),
    mock.patch.object(sys, "argv", argv),  # Where the flag --config looks.
    contextlib.redirect_stderr(stderr),
    contextlib.redirect_stdout(io.StringIO()),
    warnings.catch_warnings(),
  ):
    # ml_collections loads files in a way that later versions of Python drop.
    warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)
    flags.FLAGS.unparse_flags()
    sys.modules.pop("config_config", None)  # Of the run before.
    try:
      status = main.main(command_line.parse_flags(argv))
    except SystemExit as e:
      status = e.code
  return status, stderr.getvalue()


class MainTestCase(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    temporary = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.temporary = temporary.resolve()
    self.folder = self.temporary / "run"

  def assert_refused(self, message, *args, folder=None):
    """One line, status 2, and nothing written."""
    status, stderr = run(*args, f"--workdir={folder or self.folder}")
    self.assertEqual(status, 2, stderr)
    self.assertRegex(stderr, rf"\Aerror: .*{message}.*\n\Z")
    self.assertFalse(self.folder.exists())


class ConfigurationTest(MainTestCase):
  @parameterized.parameters(
    ("--config.data.num_framse=8", "--config.data.num_framse=8: .* mean num_frames"),
    ("--config.dmg.train.step=8", "--config.dmg.train.step=8: .* mean steps"),
    ("--config.zzz=1", "--config.zzz=1: the configuration has no 'zzz'"),
    ("--config.seed=abc", "--config.seed=abc: expected a whole number"),
    ("--config.mcd_vae.train.steps=1.5", "steps=1.5: expected a whole number"),
    ("--config.sample.eta=high", "--config.sample.eta=high: expected a number"),
    ("--config.data.resolution=9", "data.resolution=9 does not divide .* nearest: "),
    (
      "--config.data.num_frames=0",
      "data.num_frames=0: expected a whole number from 1 to",
    ),
    (
      "--config.data.num_train=0",
      "data.num_train=0: expected a whole number from 1 to",
    ),
    ("--config.data.name=shaps", "'shaps'; known: cater_gen, .*, video_folder"),
    ("--config.system=ladm", "'ladm'; known: lamd"),
    ("--config.stages=vae", "'vae'; lamd has mcd_vae, dmg"),
    ("--config.stages=()", "config.stages is empty"),
    ("--config.compute_dtype=half", "'half'; known: float32, bfloat16"),
    ("--config.mesh.data=3", "mesh .* does not fit 1 device"),
    ("--config.run.log_examples=2", "log_examples=2: expected True or False|bool"),
    ("--config.dmg.train.schedule=cos", "'cos'; known: constant, cosine, linear"),
    (
      "--config.dmg.train.log_every=0",
      "dmg.train.log_every=0: expected a whole number from 1",
    ),
    (
      "--config.mcd_vae.train.ema_decay=2.0",
      "ema_decay=2.0: expected a number from 0 to 1",
    ),
    (
      "--config.mcd_vae.train.steps=0",
      "mcd_vae.train.steps=0: expected a whole number from 1",
    ),
    (
      "--config.evaluate.num_clips=0",
      "evaluate.num_clips=0: expected a whole number from 1",
    ),
    ("--config.sample.num_steps=1001", "num_steps=1001: .* 1 to 1000"),
    ("--config.sample.checkpoint=newest", "'newest'; known: latest, best"),
    ("--config.sample.checkpoint=best", "'best' needs config.run.keep_best"),
    ("--config.run.on_nonfinite=ignore", "'ignore'; known: stop, skip, rollback"),
    ("--config.dmg.diffusion.parameterization=e", "'e'; known: x, eps, v"),
    ("--config.dmg.model.head_channels=3", "head_channels=3 does not divide"),
    ("--config.mcd_vae.model.decoder_channels=(4,)", "decoder_channels has 1"),
    (
      "--config.mcd_vae.model.kernels=((3,),)",
      "kernels=.*: expected a tuple of 1 to 8 values, each a tuple of 3 values, each",
    ),
  )
  def test_a_wrong_value_is_named_with_what_is_right(self, flag, message):
    self.assert_refused(message, TINY, flag)

  @pytest.mark.mesh
  def test_a_batch_that_eight_devices_cannot_share_is_named(self):
    message = "batch_size=12 .* nearest sizes: 8 or 16"
    self.assert_refused(message, TINY, "--config.dmg.train.batch_size=12")

  @parameterized.parameters(
    ("configs/quikstart.py", "no such file; did you mean .*configs/quickstart.py"),
    ("configs/nothing-like-it.py", "no such file; see configs/"),
    ("configs", "no such file"),
    ("configs/bair.py:smok", "'smok' .* known: small, smoke"),
    ("configs/quickstart.py:minutes=x", "minutes='x': expected int"),
    ("README.md", "--config: SyntaxError: .*README.md, line"),
    ("configs/video_folder.py", "data.path is not set; .* --config.data.path=FOLDER"),
    ("configs/bair.py", "data_dir|not stored|prepare"),
  )
  def test_a_wrong_file_is_named(self, name, message):
    self.assert_refused(message, f"--config={ROOT / name}")

  def test_a_file_with_a_mistake_in_it_says_which(self):
    path = self.temporary / "mine.py"
    path.write_text("def get_config():\n  raise TypeError('two\\nlines')\n")
    self.assert_refused("--config=.*mine.py: TypeError: two lines", f"--config={path}")
    path.write_text("import nothing_like_it\n")
    self.assert_refused("--config: ModuleNotFoundError: No mod", f"--config={path}")
    path.write_text("")
    self.assert_refused("defines no function get_config", f"--config={path}")
    path.write_text(
      f"import sys\nsys.path.insert(0, {str(TINY_FOLDER)!r})\nimport tiny_config\n"
      "def get_config():\n  config = tiny_config.get_config()\n"
      "  del config.dmg.train.ema_decay\n  return config\n"
    )
    self.assert_refused("dmg.train.ema_decay is missing", f"--config={path}")

  @parameterized.parameters(
    ("return None", "mine.py: get_config returns None; expected an ml_collections"),
    ("return 3", "get_config returns 3; expected"),
    ("return [1]", r"get_config returns \[1\]; expected"),
    ("return lambda: 0", "get_config returns <function .*; expected"),
    ("import sys; sys.exit(7)", "mine.py: the file ended .* .SystemExit: '7'.; get_"),
    ("raise SystemExit", "mine.py: the file ended the program .SystemExit: ''.; get"),
    ("raise GeneratorExit", "the file ended the program .GeneratorExit: ''.; get"),
    ("raise Exception('two\\nlines')", "--config: Exception: two lines"),
    ("raise OSError(5, 'no disk')", "no disk"),
    ("raise MemoryError", "--config: MemoryError"),
    ("return get_config()", "RecursionError"),
    ("return {1: 2}", "."),
    ("return {'a.b': 3}", "."),
    ("return {'sytem': 'lamd'}", "config.system is missing"),
  )
  def test_a_file_that_gives_no_configuration_is_one_line(self, body, message):
    path = self.temporary / "mine.py"
    path.write_text(f"def get_config():\n  {body}\n")
    self.assert_refused(message, f"--config={path}")

  def test_a_file_that_returns_a_dict_is_taken(self):
    path = self.temporary / "mine.py"
    path.write_text(
      f"import sys\nsys.path.insert(0, {str(TINY_FOLDER)!r})\nimport tiny_config\n"
      "def get_config():\n  return tiny_config.get_config().to_dict()\n"
    )
    message = "mean .*num_frames|num_framse"
    self.assert_refused(message, f"--config={path}", "--config.data.num_framse=8")
    self.assert_refused("seed=-1: expected", f"--config={path}", "--config.seed=-1")

  def test_a_file_that_is_interrupted_ends_as_an_interrupt(self):
    path = self.temporary / "mine.py"
    path.write_text("def get_config():\n  raise KeyboardInterrupt\n")
    self.assertEqual(run(f"--config={path}"), (130, "interrupted\n"))

  def test_a_plan_of_what_makes_no_network_is_one_line(self):
    flag = "--config.mcd_vae.model.motion_encoder_channels=(4,)"
    message = "config.mcd_vae: motion_encoder_channels has 1 numbers"
    self.assert_refused(message, TINY, flag, "--mode=plan")

  def test_what_jax_says_of_shapes_names_the_block(self):
    flag = "--config.dmg.model.head_channels=8"
    with mock.patch.object(
      main.check, "_init_and_loss", side_effect=IndexError("two\nlines")
    ):
      message = r"config.mcd_vae does not make a network \(IndexError: two\)"
      self.assert_refused(message, TINY, flag)

  def test_without_a_configuration_it_shows_one(self):
    self.assert_refused("--config is missing, for example --config=configs/quick")


class DataTest(MainTestCase):
  def test_videos_that_are_not_there_are_said_before_anything_is_written(self):
    config = f"--config={ROOT / 'configs' / 'video_folder.py'}"
    clips = self.temporary / "clips"
    path = f"--config.data.path={clips}"
    self.assert_refused("clips' does not exist; expected a folder", config, path)
    clips.mkdir()
    self.assert_refused("no video of 31 frames or more in", config, path)
    (clips / "text.mp4").write_text("not a video")
    with self.assertLogs("absl", "WARNING"):
      self.assert_refused("no video .* left out: text.mp4: ", config, path)


class ArgumentsTest(MainTestCase):
  @parameterized.parameters(
    (["extra"], "unexpected argument 'extra'"),
    (["--imge=x.png"], "Unknown command line flag 'imge'"),
    (["--mode=trian"], r"--mode=trian: .* <all\|train\|.*\|plan\|export>"),
    (["--image=x.png"], "--image needs --mode=sample or --mode=transfer"),
    (["--video=x.mp4", "--mode=train"], "--video needs --mode=sample or --mode=tr"),
    (["--task=extend", "--video=x", "--mode=transfer"], "--task needs --mode=sample"),
    (["--motion=x.mp4"], "--motion needs --mode=transfer"),
    (["--profile_steps=1:2", "--mode=sample"], "--profile_steps needs --mode=all or "),
    (["--profile_steps=20:10"], "--profile_steps=20:10: expected FIRST:LAST"),
    (["--strength=2", "--mode=sample"], "--strength needs --mode=transfer"),
    (["--mix=5", "--mode=sample"], "--mix needs --mode=transfer"),
    (["--devices=8", "--mode=train"], "--devices needs --mode=plan"),
    (["--memory_gb=16"], "--memory_gb needs --mode=plan"),
    (["--mode=transfer", "--image=x.png"], "--mode=transfer needs --motion"),
    (["--mode=transfer", "--motion=x.mp4"], "--mode=transfer needs .* --image"),
    (["--mode=transfer", "--strength=1,a"], "--strength=1,a: expected a number"),
    (["--image=x", "--video=y", "--mode=sample"], "--image or --video, not both"),
    (["--task=extend", "--mode=sample"], "--task=extend needs .*--video or --image"),
    (
      ["--mode=sample", "--image=x", "--frames=9"],
      "--frames needs --task, one of pred",
    ),
    (["--caption=x", "--mode=sample"], "--caption needs --mode=sample and --image or"),
    (["--label=1"], "--label needs --mode=sample and --image or --video"),
    (["--mode=sample"], "no config.json: expected a folder that --mode=train wrote"),
    (["--mode=evaluate"], "no config.json: expected a folder"),
    (["--mode=report"], "no work folder"),
    (["--num_processes=2"], "--coordinator is missing: several processes need"),
    (["--coordinator=a", "--num_processes=2", "--process_id=0"], "expected host:port"),
    (["--distributed", "--coordinator=a:1"], "give --distributed, .*or --coordinator"),
    (["--init_timeout=9"], "--init_timeout needs --distributed or --coordinator"),
  )
  def test_a_wrong_argument_is_named(self, args, message):
    self.assert_refused(message, TINY, *args)

  @parameterized.parameters(
    ("--mode=plan", "--memory_gb=nan", "--memory_gb=nan: expected a number from 0.001"),
    ("--mode=plan", "--memory_gb=inf", "--memory_gb=inf: expected a number"),
    ("--mode=plan", "--memory_gb=-1", "--memory_gb=-1.0: expected a number"),
    ("--mode=plan", "--memory_gb=1e400", "--memory_gb=inf: expected a number"),
    ("--mode=plan", "--devices=0", "--devices=0: expected a whole number from 1"),
    ("--mode=plan", "--devices=99999999", "--devices=99999999: expected a whole"),
    ("--mode=sample", f"--image={'a' * 300}", "--image=.*a name .* has 300 bytes"),
    ("--mode=sample", f"--video={'a/' * 3000}", "--video=.*: expected a path"),
    ("--mode=sample", "--image=~nobody-x/a.png", "--image=.*no user 'nobody-x'"),
    ("--mode=transfer", "--motion=~nobody-x/a", "--motion=.*no user 'nobody-x'"),
    ("--mode=transfer", "--strength=nan", r"--strength=\[nan\]: expected a tuple"),
    ("--mode=transfer", "--strength=1,inf", "--strength=.*: expected a tuple"),
    ("--mode=transfer", "--mix=1", "--mix=1: expected a whole number from 2"),
    ("--mode=sample", "--frames=1", "--frames=1: expected a whole number from 2"),
    ("--mode=sample", "--frames=99999999999", "--frames=99999999999: expected"),
    ("--mode=sample", "--factor=1", "--factor=1: expected a whole number from 2"),
    ("--mode=sample", "--every=0", "--every=0: expected a whole number from 1"),
    ("--mode=train", "--num_processes=0", "--num_processes=0: expected a whole"),
    ("--mode=train", "--process_id=-1", "--process_id=-1: expected a whole"),
    ("--mode=train", "--init_timeout=0", "--init_timeout=0: expected a whole"),
    ("--mode=train", f"--profile_steps=1:{'9' * 5000}", "--profile_steps=1:99"),
    ("--mode=train", f"--frames={'9' * 5000}", "."),
  )
  def test_a_value_that_no_flag_takes_is_named(self, mode, flag, message):
    self.assert_refused(message, TINY, mode, flag)

  @parameterized.parameters("all", "train", "sample", "evaluate", "report", "export")
  def test_a_work_folder_that_cannot_be_is_named_in_every_mode(self, mode):
    for folder, message in (
      ("~nobody-x/run", "--workdir='~nobody-x/run': there is no user 'nobody-x'"),
      ("a" * 300, "--workdir=.*a name in this path has 300 bytes"),
      ("a/" * 3000, "--workdir=.*: expected a path"),
    ):
      self.assert_refused(message, TINY, f"--mode={mode}", folder=folder)

  def test_a_file_of_configurations_that_cannot_be_is_named(self):
    self.assert_refused("--config=.*a name .* 300 bytes", f"--config={'a' * 300}")
    self.assert_refused("--config='~nobody-x/a.py'.*no user", "--config=~nobody-x/a.py")
    name = "two\nlines\x1b[31m\udcff.py"
    escaped = r"two lines\\x1b\[31m\\xff.py: there is no such file"
    self.assert_refused(escaped, f"--config={name}")

  def test_a_report_into_a_folder_that_cannot_be_written_is_one_line(self):
    self.folder.mkdir()
    error = PermissionError(13, "Permission denied", str(self.folder / "report.html"))
    with mock.patch.object(main.page, "write_report", side_effect=error):
      status, stderr = run("--mode=report", f"--workdir={self.folder}")
    self.assertEqual(status, 2)
    self.assertRegex(stderr, r"\Aerror: '.*/report.html': Permission denied\n\Z")

  def test_a_work_folder_that_is_a_file_is_left_alone(self):
    file = self.temporary / "file"
    file.write_text("mine")
    self.assert_refused("file is a file; expected a folder", TINY, folder=file)
    self.assert_refused("cannot write .*Not a directory", TINY, folder=file / "below")
    self.assertEqual(file.read_text(), "mine")

  def test_by_default_the_folder_has_the_name_of_the_configuration(self):
    for name, folder in (
      ("quickstart.py", "runs/quickstart"),
      ("bair.py:small", "runs/bair_small"),
      ("quickstart.py:minutes=60", "runs/quickstart_minutes_60"),
    ):
      page = pathlib.Path("report.html")
      with mock.patch.object(main.page, "write_report", return_value=page) as write:
        status, _ = run(f"--config={ROOT / 'configs' / name}", "--mode=report")
      self.assertEqual((status, str(write.call_args[0][0])), (0, folder))


class BegunFolderTest(MainTestCase):
  def setUp(self):
    super().setUp()
    workdir_lib.open_workdir(make_run(tiny_config.get_config(), self.folder))

  def assert_refused_untouched(self, message, *args):
    files = lambda: {
      path: (path.stat().st_mtime_ns, path.read_bytes())
      for path in self.folder.rglob("*")
    }
    before = files()
    status, stderr = run(TINY, *args, f"--workdir={self.folder}")
    self.assertEqual(status, 2, stderr)
    self.assertRegex(stderr, rf"\Aerror: .*{message}.*\n\Z")
    self.assertEqual(files(), before)

  @parameterized.parameters(*(x for x in main.MODES if x not in ("transfer", "report")))
  def test_a_folder_in_use_is_left_alone_and_its_process_named(self, mode):
    with workdir_lib.only_writer(self.folder):
      who = rf"process {os.getpid()} on .* since .*\(.*\)"
      self.assert_refused_untouched(f"run is in use by {who}; wait", f"--mode={mode}")

  @parameterized.parameters("all", "train", "sample", "evaluate")
  def test_another_configuration_is_told_apart_and_nothing_touched(self, mode):
    self.assert_refused_untouched(
      r"another configuration: data.num_frames \(there 3, now 4\), seed"
      r" \(there 3, now 5\); choose another --workdir",
      f"--mode={mode}",
      "--config.seed=5",
      "--config.data.num_frames=4",
    )

  def test_what_is_not_trained_cannot_be_sampled_or_measured(self):
    self.assert_refused_untouched("no checkpoint in .*mcd_vae.*train", "--mode=sample")
    self.assert_refused_untouched("nothing to evaluate", "--mode=evaluate")
    self.assert_refused_untouched("no checkpoint in .*mcd_vae.*train", "--mode=export")

  def test_a_picture_that_is_none_is_named(self):
    text = self.temporary / "text.png"
    text.write_text("not a picture")
    stages = {"dmg": window_stages.trained(window_stages.Clips(given_frames=1))}
    self.enterContext(mock.patch.object(trained, "TrainedStages", lambda run: stages))
    for path, message in (
      (text, "text.png' cannot be read as a picture"),
      (self.temporary / "none.png", "no such picture: .*none.png"),
      (self.temporary, "no such picture"),
    ):
      self.assert_refused_untouched(message, "--mode=sample", f"--image={path}")
    self.assert_refused_untouched("text.png: ", "--mode=sample", f"--video={text}")

  def wish(self, *args):
    """The wish for videos that flags express."""
    with mock.patch.object(generate, "generate", return_value=[]) as called:
      status, stderr = run(TINY, *args, f"--workdir={self.folder}")
    self.assertEqual((status, stderr), (0, ""))
    experiment, wish = called.call_args[0]
    self.assertEqual(experiment.folder, self.folder)
    return wish

  def test_a_picture_or_the_first_frame_of_a_video_is_animated(self):
    nothing = {"caption": None, "label": None}
    wish = self.wish("--mode=sample", "--image=a b.png")
    expected = generate.Wish("animate", pathlib.Path("a b.png"), True, said=nothing)
    self.assertEqual(wish, expected._replace(options={}))
    wish = self.wish("--mode=sample", "--video=~/clip.mp4")
    path = pathlib.Path.home() / "clip.mp4"
    expected = generate.Wish("animate", path, False, said=nothing, options={})
    self.assertEqual(wish, expected)

  def test_a_picture_is_animated_under_a_condition_or_continued(self):
    image = "--mode=sample", "--image=photo.png"
    wish = self.wish(*image, "--caption=a disc", "--label=3")
    self.assertEqual(wish.said, {"caption": "a disc", "label": "3"})
    wish = self.wish(*image, "--task=extend", "--frames=20", "--label=3")
    self.assertEqual((wish.task, wish.path), ("extend", pathlib.Path("photo.png")))
    self.assertEqual((wish.is_picture, wish.num_frames), (True, 20))
    self.assertEqual(wish.said, {"caption": None, "label": "3"})
    self.assertEqual(wish.options, {})
    video = "--mode=sample", "--video=clip.mp4"
    wish = self.wish(*video, "--task=interpolate", "--factor=3")
    self.assertEqual((wish.is_picture, wish.options), (False, {"factor": 3}))
    wish = self.wish(*video, "--task=upsample", "--every=4")
    self.assertEqual(wish.options, {"factor": 2, "every": 4})

  def test_the_motions_of_videos_are_given_to_a_picture(self):
    flags = ["--mode=transfer", "--image=a b.png", "--motion=x y.mp4"]
    wish = self.wish(*flags)
    self.assertEqual((wish.task, wish.is_picture), ("transfer", True))
    self.assertEqual(wish.motions, (pathlib.Path("x y.mp4"),))
    self.assertEqual(wish.options, {"strengths": (1.0,), "mix": None})
    wish = self.wish(*flags, "--motion=z.mp4", "--strength=0.5,-1", "--mix=5")
    self.assertEqual([path.name for path in wish.motions], ["x y.mp4", "z.mp4"])
    self.assertEqual(wish.options, {"strengths": (0.5, -1.0), "mix": 5})

  def test_a_mode_does_its_job_and_no_other(self):
    jobs = {
      "train": (train, "train"),
      "sample": (generate, "sample_clips"),
      "evaluate": (evaluate, "evaluate"),
      "export": (export, "export"),
      "plan": (plan, "plan"),
      "report": (main.page, "write_report"),
    }
    with contextlib.ExitStack() as stack:
      called = {
        name: stack.enter_context(mock.patch.object(*job)) for name, job in jobs.items()
      }
      for mode in (*jobs, "all"):
        with self.subTest(mode):
          status, stderr = run(TINY, f"--mode={mode}", f"--workdir={self.folder}")
          self.assertEqual((status, stderr), (0, ""))
          done = {name for name, job in called.items() if job.call_count}
          everything = {"train", "sample", "evaluate", "report"}
          self.assertEqual(done, everything if mode == "all" else {mode})
          for job in called.values():
            job.reset_mock()

  def test_a_stop_is_one_line_with_the_status_that_shells_expect(self):
    for error, expected in (
      (train.Stopped("SIGTERM: saved", 143), (143, "SIGTERM: saved\n")),
      (
        KeyboardInterrupt(),
        (130, "interrupted; the same command goes on from there\n"),
      ),
    ):
      with mock.patch.object(train, "train", side_effect=error):
        self.assertEqual(run(TINY, f"--workdir={self.folder}"), expected)


class SeveralProcessesTest(MainTestCase):
  """Exit of main when it is one of several processes, which are mocked."""

  def run_with(self, error):
    with (
      mock.patch.object(main.processes, "are_several", lambda: True),
      mock.patch.object(main.processes, "leave", side_effect=SystemExit) as leave,
      mock.patch.object(train, "train", side_effect=error),
    ):
      _, stderr = run(TINY, "--mode=train", f"--workdir={self.folder}")
    self.assertEqual(leave.call_count, 1)
    return leave.call_args[0][0], stderr

  def test_a_lost_process_is_one_line_that_says_what_to_do(self):
    lost = ValueError("UNKNOWN: Gloo all-reduce failed:\nConnection reset by peer")
    status, stderr = self.run_with(lost)
    self.assertEqual(status, 134)
    self.assertRegex(
      stderr, r"\Aerror: another process of this run is gone \(.*\); start all .*\n\Z"
    )

  def test_an_error_of_its_own_ends_it_at_once_too(self):
    status, stderr = self.run_with(ValueError("mine"))
    self.assertEqual(status, 1)
    self.assertRegex(stderr, r"(?s)Traceback.*ValueError: mine\n\Z")
    self.assertEqual(self.run_with(UserError("given")), (2, "error: given\n"))


@pytest.mark.process
class ProcessTest(MainTestCase):
  """Behaviour that only shows in a process of its own."""

  def start(self, *args):
    command = [sys.executable, "-m", "lamd_jax.main", *args]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
      command, cwd=self.temporary, env=environment, capture_output=True, text=True
    )

  def test_a_mistake_is_one_line_and_status_2_and_nothing_else(self):
    done = self.start(TINY, "--config.data.num_framse=8")
    self.assertEqual((done.returncode, done.stdout), (2, ""))
    self.assertRegex(done.stderr, r"\Aerror: .*num_framse.*num_frames\?\n\Z")
    self.assertEmpty(list(self.temporary.iterdir()))

  def test_help_lists_the_flags(self):
    done = self.start("--help")
    for name in ("--config", "--workdir", "--mode", "--image", "--video"):
      self.assertIn(name, done.stdout)


if __name__ == "__main__":
  absltest.main()
