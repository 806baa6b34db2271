"""Job: goes on with a video of one's own, fills it in, or makes it larger.

    predict      the frames after its first `sample.given_frames`, as many as a window
    extend       the frames after its last one, up to a number
    interpolate  frames between each two
    upsample     a higher resolution; and with `every`, the frames between each two too,
                 as in the cascade of Ho et al. 2022 (arXiv:2204.03458), section 4.2

What is given stays as it is, apart from being brought to the model's size.
"""

from collections.abc import Mapping
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from lamd_jax import beside
from lamd_jax import workdir as workdir_lib
from lamd_jax.data import video_io
from lamd_jax.systems import pixels, windows
from lamd_jax.systems import stage as stage_lib
from lamd_jax.training import sharding
from lamd_jax.types import Config, UserError

TASKS = ("predict", "extend", "interpolate", "upsample")
FOLDER = "edited"


def edit(
  config: Config,
  workdir: pathlib.Path,
  task: str,
  video: pathlib.Path,
  *,
  num_frames: int | None = None,
  factor: int = 2,
  every: int = 1,
  caption: str | None = None,
  label: int | None = None,
) -> list[pathlib.Path]:
  """Makes `evaluate.samples_per_clip` videos of one, each from other noise.

  Args:
    config: Of the trained work folder.
    workdir: That folder.
    task: One of `TASKS`.
    video: A file; every `data.frame_stride`-th frame of it is taken, but for
      interpolation and upsampling all are.
    num_frames: Of "extend": how long the result is; two windows by default.
    factor: Of "interpolate": the frame rate is multiplied by it. Of "upsample": the
      resolution, up to that of the model.
    every: Of "upsample": the given frames are every so many of the result.
    caption: A condition, for a model that knows captions; none by default.
    label: A condition, for a model that knows classes; none by default.

  Returns:
    The mp4 files. A gif lies beside each, and a png with the frames of all.

  Raises:
    UserError: The model cannot do this, or the video is too short.
  """
  mesh = sharding.make_mesh(config.mesh.to_dict())
  name = config.stages[-1]
  stage = workdir_lib.load_stage(config, workdir, name, mesh)
  if not isinstance(stage, stage_lib.WindowStage):
    raise UserError(
      f"--task={task}: {config.system} makes whole clips only; --image and --video"
      " without --task animate a first frame"
    )
  params, meta = workdir_lib.load_params(config, workdir, name, stage, mesh)
  count, window = config.evaluate.samples_per_clip, config.data.num_frames
  conditions = _conditions(config, count, caption, label)
  whole, length, overlap, speed = _task(
    config, stage, task, video, num_frames or 2 * window, factor, every
  )
  # The same video for each sample; masks are of all.
  whole = whole._replace(
    video=np.repeat(whole.video, count, axis=0),
    low=None if whole.low is None else np.repeat(whole.low, count, axis=0),
  )
  arguments = jax.device_put((stage, params), sharding.replicated(mesh))
  run = jax.jit(
    lambda arguments, conditions, key, *given: arguments[0].sample_window(
      arguments[1], conditions, key, *given
    )
  )

  def sample(key, part: windows.Window):
    # Without a known frame, as where all is upsampled, there is nothing to keep.
    is_known = part.is_known if part.is_known.any() else None
    return run(arguments, conditions, key, part.video, is_known, part.low, part.has_low)

  key = jax.random.key(config.seed)
  filled = windows.fill(sample, key, whole, window=length, overlap=overlap)
  total = len(windows.starts(len(whole.is_known), length, overlap))
  for _ in tqdm.tqdm(filled, f"{task}: windows", total, disable=None):
    pass
  frames = np.asarray(pixels.to_uint8(jnp.asarray(whole.video)))
  name = f"{video.stem}_{task}"
  return workdir_lib.write_videos(workdir / FOLDER, name, frames, meta["fps"] * speed)


def _task(
  config: Config, stage, task: str, video: pathlib.Path, num_frames, factor, every
) -> tuple[windows.Window, int, int, float]:
  """What is known, the length of a window, the overlap, and how the rate changes."""
  data, window = config.data, config.data.num_frames
  overlap = stage.overlap
  match task:
    case "predict":
      given = stage.given_frames
      if not given:
        raise UserError(
          "--task=predict needs to know from how many frames: for example"
          " --config.sample.given_frames=1"
        )
      clip = _read(video, data.resolution, data.frame_stride, given)
      return windows.extended(clip[:, :given], window), window, overlap, 1.0
    case "extend":
      clip = _read(video, data.resolution, data.frame_stride, 1)
      whole = windows.extended(clip, num_frames)
      return whole, min(window, num_frames), overlap, 1.0
    case "interpolate":
      length = windows.interpolating_window(window, factor)
      if length < 2:
        raise UserError(
          f"--factor={factor}: a model of {window} frames can put at most"
          f" {window - 2} between two, --factor={window - 1}"
        )
      whole = windows.spread(_read(video, data.resolution, 1, 2), factor)
      return whole, min(length, len(whole.is_known)), 1, float(factor)
    case "upsample":
      if factor < 2 or data.resolution % factor:
        raise UserError(
          f"--factor={factor}: expected from 2 on, a divisor of the model's resolution"
          f" {data.resolution}"
        )
      clip = _read(video, data.resolution // factor, 1, 1)
      whole = windows.enlarged(clip, data.resolution, every)
      length = windows.interpolating_window(window, every)
      return whole, min(length, len(whole.is_known)), 1, float(every)
  raise UserError(f"--task={task}: known: {', '.join(TASKS)}")


def _read(path: pathlib.Path, resolution: int, stride: int, least: int) -> np.ndarray:
  """The frames of a file `1 f h w 3`, in [-1, 1]."""
  length = (video_io.probe(path).num_frames - 1) // stride + 1
  if length < least:
    raise UserError(
      f"{path} has {length} frames at a stride of {stride}; the task needs {least}"
    )
  clip = video_io.read_window(path, 0, length, stride, resolution)
  return np.asarray(pixels.from_uint8(jnp.asarray(clip)))[None]


def _conditions(
  config: Config, count: int, caption: str | None, label: int | None
) -> Mapping[str, np.ndarray]:
  """What `sample_window` is told of the videos; {} for nothing."""
  kind = beside.kind(config)
  for name, value, needed in (
    ("caption", caption, "caption"), ("label", label, "class")
  ):  # fmt: skip
    if value is not None and kind != needed:
      raise UserError(f"--{name}: this model's condition is {kind!r}, not {needed!r}")
  if caption is not None:
    return beside.embedded(config, [caption] * count)
  if label is not None:
    if not 0 <= label < config.condition.num_classes:
      raise UserError(
        f"--label={label}: expected 0 to {config.condition.num_classes - 1}"
      )
    return {"label": np.full(count, label, np.int32)}
  return {}
