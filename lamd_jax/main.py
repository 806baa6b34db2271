r"""The command line: flags, logging, devices; calls the jobs.

    python -m lamd_jax.main --config=configs/quickstart.py

trains every stage of the configuration, samples, evaluates and writes a report
into the work folder. What is already done there is not done again, and what was
interrupted goes on. One part alone, or a picture of one's own:

    python -m lamd_jax.main --config=... --mode=train
    python -m lamd_jax.main --config=... --mode=sample --image=photo.png
    python -m lamd_jax.main --config=... --mode=transfer --motion=a.mp4 --image=b.png

How much memory and arithmetic training needs, and what would fit, without training:

    python -m lamd_jax.main --config=... --mode=plan --devices=8 --memory_gb=16

Any value of the configuration can be given: --config.dmg.train.steps=500
"""

from collections.abc import Sequence
import contextlib
import os
import pathlib
import re
import sys
import time
import traceback
from typing import Annotated

STARTED = time.monotonic()  # Before the imports, which take seconds.

from absl import app, flags, logging  # noqa: E402
import jax  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from lamd_jax import command_line  # noqa: E402
from lamd_jax.experiment import workdir  # noqa: E402
from lamd_jax.experiment.run import Run, make_run  # noqa: E402
from lamd_jax.jobs import check, evaluate, export, generate, plan, train  # noqa: E402
from lamd_jax.report import page  # noqa: E402
from lamd_jax.schema import FilePath, Length, Range, shown  # noqa: E402
from lamd_jax.schema import check as check_value  # noqa: E402
from lamd_jax.training import preemption, processes, profiling  # noqa: E402
from lamd_jax.types import UserError, printable  # noqa: E402

MODES = (
  *("all", "train", "sample", "evaluate", "report", "transfer", "plan"),
  "export",
)
TASKS = ("predict", "extend", "interpolate", "upsample")  # Of --mode=sample.
# The flags that only some modes know.
MODES_OF = {
  "profile_steps": ("all", "train"),
  "image": ("sample", "transfer"),
  "video": ("sample", "transfer"),
  "task": ("sample",),
  "motion": ("transfer",),
  "strength": ("transfer",),
  "mix": ("transfer",),
  "devices": ("plan",),
  "memory_gb": ("plan",),
}


Processes = Annotated[int, Range(1, 2**20)]
# The values that flags take, all but the choices that absl checks.
VALUES = {
  "workdir": FilePath,
  "image": FilePath,
  "video": FilePath,
  "motion": tuple[FilePath, ...],
  "frames": Annotated[int, Range(2, 2**16)],
  "factor": Annotated[int, Range(2, 2**10)],
  "every": Annotated[int, Range(1, 2**14)],
  "caption": str,
  "label": str,
  "strength": Annotated[
    tuple[Annotated[float, Range(-1000, 1000)], ...], Length(1, 2**10)
  ],
  "mix": Annotated[int, Range(2, 2**10)],
  "devices": Annotated[int, Range(1, 2**10)],
  "memory_gb": Annotated[float, Range(0.001, 10**6)],
  "num_processes": Processes,
  "process_id": Annotated[int, Range(0, 2**20)],
  "init_timeout": Annotated[int, Range(1, 10**7)],
}


class _Numbers(flags.ArgumentParser):
  """Numbers with commas between them."""

  def parse(self, argument):
    """Returns a list of them."""
    return [float(text) for text in argument.split(",")]


_CONFIG = command_line.define_config(
  "config", "A file of configs/, or one of your own."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Work folder; by default runs/ and the name of the configuration."
)
_MODE = flags.DEFINE_enum("mode", "all", MODES, "What to do; all parts by default.")
_IMAGE = flags.DEFINE_string(
  "image", None, "With --mode=sample: a picture to animate; or to give motion to."
)
_VIDEO = flags.DEFINE_string(
  "video", None, "The same: a video whose first frame is the picture."
)
_TASK = flags.DEFINE_enum(
  "task", None, TASKS, "With --mode=sample: what to make of --video or --image."
)
_FRAMES = flags.DEFINE_integer(
  "frames", None, "With --task=extend: frames of the result."
)
_FACTOR = flags.DEFINE_integer("factor", 2, "Of --task=interpolate and upsample.")
_EVERY = flags.DEFINE_integer(
  "every", 1, "With --task=upsample: given frames are every so many."
)
_CAPTION = flags.DEFINE_string(
  "caption", None, "With --image or --video: what happens, if the model knows captions."
)
_LABEL = flags.DEFINE_string(
  "label",
  None,
  "With --image or --video: its class, by number or by name.",
)
_MOTION = flags.DEFINE_multi_string(
  "motion", None, "With --mode=transfer: a video whose motion the picture is to have."
)
_STRENGTH = flags.DEFINE(
  _Numbers(), "strength", "1", "Of --motion, as in 0.5,1,2: 0 is a still's, 1 its own."
)
_MIX = flags.DEFINE_integer(
  "mix", None, "So many videos from the first of two --motion to the second."
)
_DEVICES = flags.DEFINE_integer(
  "devices", None, "With --mode=plan: simulate so many, on the CPU."
)
_MEMORY_GB = flags.DEFINE_float(
  "memory_gb", None, "With --mode=plan: of a device; by default this machine's."
)
_PROFILE_STEPS = flags.DEFINE_string(
  "profile_steps", None, "Trace these steps of each stage for xprof, as in 10:20."
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "One process of several: a TPU pod, Slurm, Open MPI or Kubernetes says which.",
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "The same, by hand: host:port of process 0."
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", None, "With --coordinator: how many there are."
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "With --coordinator: which this is, from 0."
)
_INIT_TIMEOUT = flags.DEFINE_integer(
  "init_timeout", processes.INIT_SECONDS, "Seconds to wait until all processes came."
)


def main(argv: Sequence[str]) -> int:
  """Runs the jobs that the flags ask for; returns the exit status."""
  if len(argv) > 1:
    return command_line.fail(f"unexpected argument {argv[1]!r}; flags begin with --")
  try:
    _run()
    return 0
  except UserError as error:
    status = command_line.fail(str(error))
  except train.Stopped as stopped:  # All processes stop at the same update.
    if processes.is_first():
      print(stopped, file=sys.stderr)
    return stopped.exit_status
  except KeyboardInterrupt:
    print("interrupted; the same command goes on from there", file=sys.stderr)
    status = 130
  except Exception as error:
    if not processes.are_several():
      if not isinstance(error, OSError) or error.filename is None:
        raise
      logging.debug("", exc_info=True)
      return command_line.fail(
        f"{shown(os.fsdecode(error.filename))}: {error.strerror}"
      )
    if processes.is_peer_lost(error):
      command_line.fail(
        f"another process of this run is gone ({command_line.one_line(error)[:200]});"
        " start all of them again with the same command: they go on from the last"
        " checkpoint"
      )
      status = processes.LOST
    else:
      traceback.print_exc()
      status = 1
  if processes.are_several():
    processes.leave(status)
  return status


def _run() -> None:
  """Runs the jobs that the flags ask for, in order."""
  _check_flags()
  mode = _MODE.value
  steps = _PROFILE_STEPS.value
  profile_steps = None if steps is None else profiling.parse_steps(steps)
  several = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  if _DISTRIBUTED.value or any(value is not None for value in several):
    processes.join(*several, timeout=_INIT_TIMEOUT.value)
  if mode == "report" and _WORKDIR.value:  # Needs no configuration.
    _report(pathlib.Path(_WORKDIR.value).expanduser())
    return
  if _CONFIG.value is None:
    raise UserError("--config is missing, for example --config=configs/quickstart.py")
  text = check_value(_WORKDIR.value or _default_workdir(), FilePath, "--workdir")
  folder = pathlib.Path(text).expanduser()
  if mode == "report":
    _report(folder)
    return
  config = _CONFIG.value
  if _DEVICES.value:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", _DEVICES.value)
  experiment = make_run(config, folder)
  check.check(experiment)
  if mode == "plan":
    check.trace(experiment)
    writes = bool(_WORKDIR.value)
    with workdir.only_writer(folder) if writes else contextlib.nullcontext():
      plan.plan(experiment, _MEMORY_GB.value, writes=writes)
    return
  if mode in ("all", "evaluate"):
    evaluate.check(experiment)
  if mode not in ("all", "train"):
    workdir.check_workdir(experiment)
  elif not workdir.is_begun(folder):
    check.rehearse(experiment)
  with workdir.only_writer(folder):
    _work(experiment, profile_steps)


def _work(experiment: Run, profile_steps: tuple[int, int] | None) -> None:
  """Runs the jobs that write to the work folder, which no other run does meanwhile."""
  mode, folder = _MODE.value, experiment.folder
  if mode in ("all", "train"):
    workdir.open_workdir(experiment)
  processes.wait_for_all("work folder")
  logging.info("work folder %s, %d device(s)", folder, jax.device_count())
  startup_seconds = time.monotonic() - STARTED
  if mode in ("all", "train"):
    train.train(experiment, profile_steps)
  preemption.stop_at_once_from_here()
  if _IMAGE.value or _VIDEO.value:
    paths = generate.generate(experiment, _wish())
    if processes.is_first():
      print(*map(printable, paths), sep="\n")
    return
  if mode == "export":
    path = export.export(experiment)
    if processes.is_first():
      print(f"exported: {printable(path)}")
    return
  if mode == "evaluate":
    generate.check_samples(experiment)
  if mode in ("all", "sample"):
    generate.sample_clips(experiment)
  if mode in ("all", "evaluate") and processes.is_first():
    evaluate.evaluate(experiment, startup_seconds)
  if mode == "all":
    _report(folder)


def _wish() -> generate.Wish:
  """Returns the wish for videos that the flags express."""
  task = "transfer" if _MODE.value == "transfer" else _TASK.value or "animate"
  options = {
    "transfer": {"strengths": tuple(_STRENGTH.value), "mix": _MIX.value},
    "interpolate": {"factor": _FACTOR.value},
    "upsample": {"factor": _FACTOR.value, "every": _EVERY.value},
  }
  return generate.Wish(
    task,
    pathlib.Path(_IMAGE.value or _VIDEO.value or "").expanduser(),
    is_picture=bool(_IMAGE.value),
    motions=tuple(pathlib.Path(path).expanduser() for path in _MOTION.value or ()),
    num_frames=_FRAMES.value,
    said={"caption": _CAPTION.value, "label": _LABEL.value},
    options=options.get(task, {}),
  )


def _check_flags() -> None:
  """Raises a `UserError` for flags that mean nothing together."""
  mode, task = _MODE.value, _TASK.value
  for name, annotation in VALUES.items():
    if (value := flags.FLAGS[name].value) is not None:
      check_value(value, annotation, f"--{name}")
  for name, modes in MODES_OF.items():
    if flags.FLAGS[name].present and mode not in modes:
      raise UserError(f"--{name} needs --mode={' or --mode='.join(modes)}")
  if _IMAGE.value and _VIDEO.value:
    raise UserError("give --image or --video, not both")
  given = _IMAGE.value or _VIDEO.value
  for name in ("caption", "label"):
    if flags.FLAGS[name].present and not (given and mode == "sample"):
      raise UserError(f"--{name} needs --mode=sample and --image or --video")
  if _FRAMES.present and not task:
    raise UserError(f"--frames needs --task, one of {', '.join(TASKS)}")
  if task and not given:
    raise UserError(f"--task={task} needs --mode=sample and --video or --image")
  if _DISTRIBUTED.value and _COORDINATOR.value is not None:
    raise UserError("give --distributed, which finds the others, or --coordinator")
  several = ("distributed", "coordinator", "num_processes", "process_id")
  if _INIT_TIMEOUT.present and not any(flags.FLAGS[name].present for name in several):
    raise UserError("--init_timeout needs --distributed or --coordinator")
  if mode == "transfer" and not (_MOTION.value and (_IMAGE.value or _VIDEO.value)):
    raise UserError(
      "--mode=transfer needs --motion, a video, and --image, the picture that is to"
      " move like it (or --video, whose first frame is the picture)"
    )


def _default_workdir() -> str:
  """Returns `runs/<config name>`, with what follows the colon."""
  path, _, argument = config_flags.get_config_filename(flags.FLAGS["config"]).partition(
    ":"
  )
  name = pathlib.Path(path).stem + (f"_{argument}" if argument else "")
  return os.path.join("runs", re.sub(r"[^\w.-]+", "_", name))


def _report(folder: pathlib.Path) -> None:
  """Writes the report, whole, and so also of a folder that a run is writing to."""
  if processes.is_first():
    print(f"report: {printable(page.write_report(folder))}")


def run() -> None:
  """Entry point."""
  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().addFilter(command_line.is_ours_or_a_warning)
  logging.get_absl_handler().setFormatter(command_line.Lines("%(message)s"))
  app.run(main, flags_parser=command_line.parse_flags)


if __name__ == "__main__":
  run()
