"""Job: goes on with a video of one's own, fills it in, or makes it larger.

    predict      the frames after its first `sample.given_frames`, as many as a window
    extend       the frames after its last one, up to a number; a picture is a video
                 of one frame
    interpolate  frames between each two
    upsample     a higher resolution; and with `every`, the frames between each two too,
                 as in the cascade of Ho et al. 2022 (arXiv:2204.03458), section 4.2

What is given stays as it is, apart from being brought to the model's size.
"""

from collections.abc import Callable
import functools
import math
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float
import numpy as np
import tqdm

from lamd_jax.data import media
from lamd_jax.experiment import conditions
from lamd_jax.experiment import workdir as workdir_lib
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
  is_picture: bool = False,
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
    is_picture: Whether the file is a picture, a video of one frame.
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
  best = workdir_lib.best_of(config, name)
  params, meta = workdir_lib.load_params(config, workdir, name, stage, mesh, best=best)
  count, window = config.evaluate.samples_per_clip, config.data.num_frames
  said = conditions.asked(config, count, caption=caption, label=label)
  # Frames of the file, at a resolution and a stride, at least so many.
  read = functools.partial(_read, video, is_picture)
  plan = _plan(config, stage, task, read, num_frames or 2 * window, factor, every)
  # The same video for each sample; masks are of all.
  repeat = lambda x: np.repeat(x, count, axis=0)
  low = plan.whole.low
  whole = plan.whole._replace(
    video=repeat(plan.whole.video), low=None if low is None else repeat(low)
  )
  said = sharding.put_batch(said, mesh)
  run = jax.jit(
    lambda stage, params, conditions, key, *given: stage.sample_window(
      params, conditions, key, *given
    ),
    out_shardings=sharding.replicated(mesh),
  )

  def sample(key, part: windows.Window):
    # Without a known frame, as where all is upsampled, there is nothing to keep.
    is_known = part.is_known if part.is_known.any() else None
    lows = {} if part.low is None else {"low": part.low}
    given = sharding.put_batch({"video": part.video} | lows, mesh)
    return run(
      stage,
      params,
      said,
      key,
      given["video"],
      is_known,
      given.get("low"),
      part.has_low,
    )

  key = jax.random.key(config.seed)
  filled = windows.fill(sample, key, whole, window=plan.window, overlap=plan.overlap)
  total = len(windows.starts(len(whole.is_known), plan.window, plan.overlap))
  for _ in tqdm.tqdm(filled, f"{task}: windows", total, disable=None):
    pass
  frames = whole.video
  if plan.before is not None:
    frames = np.concatenate([repeat(plan.before), frames], axis=1)
  frames = np.asarray(pixels.to_uint8(jnp.asarray(frames[:, : plan.num_frames])))
  name = f"{video.stem}_{task}"
  fps = meta["fps"] * plan.speed
  return workdir_lib.write_videos(workdir / FOLDER, name, frames, fps)


class _Plan(NamedTuple):
  """How a task is done by windows.

  Attributes:
    whole: What is known of what windows fill.
    window: Frames of one.
    overlap: Frames that neighbouring ones share.
    speed: What the frame rate is multiplied by.
    before: Frames of the result in front of what windows fill, in [-1, 1].
    num_frames: Of the result, if windows fill more.
  """

  whole: windows.Window
  window: int
  overlap: int
  speed: float = 1.0
  before: Float[np.ndarray, "1 f h w 3"] | None = None
  num_frames: int | None = None


def _plan(
  config: Config,
  stage: stage_lib.WindowStage,
  task: str,
  read: Callable[[int, int, int], Float[np.ndarray, "1 f h w 3"]],
  num_frames: int,
  factor: int,
  every: int,
) -> _Plan:
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
      clip = read(data.resolution, data.frame_stride, given)
      return _Plan(windows.extended(clip[:, :given], window), window, overlap)
    case "extend":
      clip = read(data.resolution, data.frame_stride, 1)
      windows.extended(clip, num_frames)  # Raises what is impossible.
      # The first window begins where it shares so many frames with what is given, and
      # the last one may go on beyond the end: each knows no more than its overlap.
      first = max(clip.shape[1] - overlap, 0)
      further = math.ceil(max(num_frames - first - window, 0) / (window - overlap))
      total = window + further * (window - overlap)
      whole = windows.extended(clip[:, first:], total)
      before = clip[:, :first]
      return _Plan(whole, window, overlap, before=before, num_frames=num_frames)
    case "interpolate":
      length = windows.interpolating_window(window, factor)
      if length < 2:
        raise UserError(
          f"--factor={factor}: a model of {window} frames can put at most"
          f" {window - 2} between two, --factor={window - 1}"
        )
      whole = windows.spread(read(data.resolution, 1, 2), factor)
      return _Plan(whole, min(length, len(whole.is_known)), 1, float(factor))
    case "upsample":
      if factor < 2 or data.resolution % factor:
        raise UserError(
          f"--factor={factor}: expected from 2 on, a divisor of the model's resolution"
          f" {data.resolution}"
        )
      clip = read(data.resolution // factor, 1, 1)
      whole = windows.enlarged(clip, data.resolution, every)
      length = min(windows.interpolating_window(window, every), len(whole.is_known))
      return _Plan(whole, length, min(1, length - 1), float(every))
  raise UserError(f"--task={task}: known: {', '.join(TASKS)}")


def _read(
  path: pathlib.Path, is_picture: bool, resolution: int, stride: int, least: int
) -> Float[np.ndarray, "1 f h w 3"]:
  """The frames of a file, in [-1, 1]."""
  length = 1 if is_picture else (media.probe(path).num_frames - 1) // stride + 1
  if length < least:
    raise UserError(
      f"{path} has {length} frames at a stride of {stride}; the task needs {least}"
    )
  if is_picture:
    clip = media.resize_crop(media.read_image(path)[None], resolution)
  else:
    clip = media.read_window(path, 0, length, stride, resolution)
  return np.asarray(pixels.from_uint8(jnp.asarray(clip)))[None]
