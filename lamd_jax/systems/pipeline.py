"""Pipelines, all that jobs know of a system: a request in, segments of frames out.

A pipeline holds trained stages and turns a `Request` into segments, in order, each as
soon as it is done. Segment i draws its noise from `fold_in(key, i)`, and finished
segments are kept in `keep`, so a generation that was killed goes on where it stopped
and ends with the same frames.

`WindowPipeline` is the pipeline of every system whose generator samples any frames of
a window given any others: it animates, generates, predicts, extends, interpolates and
upsamples. A system with more to offer adds tasks to it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import functools
import math
import types
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import UInt8
import numpy as np

from lamd_jax.systems import pixels, windows
from lamd_jax.systems.clip import Clip
from lamd_jax.systems.stage import OnStep, Part, Stage, WindowStage
from lamd_jax.systems.windows import Keep
from lamd_jax.types import Batch, Params, PRNGKey, UserError

Frames = UInt8[np.ndarray, "f h w 3"]


class Trained(NamedTuple):
  """A stage with its trained parameters.

  Attributes:
    stage: The stage, around the frozen parts it needs.
    params: Averaged parameters; they lie on the devices.
    statistics: Numbers measured after its training.
    meta: Meta of its checkpoint, such as the frame rate, `fps`.
  """

  stage: Stage
  params: Params
  statistics: Mapping[str, Any]
  meta: Mapping[str, Any]

  @property
  def part(self) -> Part:
    """The stage as another one holds it, frozen."""
    return Part(self.params, self.statistics)


@runtime_checkable
class Stages(Protocol):
  """Trained stages by name; looking one up may be what restores it.

  No mapping: to check the values of one, type checkers look them up.
  """

  def __getitem__(self, stage: str, /) -> Trained:
    """Returns a stage."""
    ...


class Devices(NamedTuple):
  """The devices, whatever their number, as a pipeline uses them.

  Attributes:
    put: Moves a batch from the host to the devices, examples spread over them.
    jit: Compiles a function; its results are whole on every device.
    parts: A batch is spread over so many devices; its size is a multiple of it.
  """

  put: Callable[[Mapping[str, Any]], Batch]
  jit: Callable[[Callable[..., Any]], Callable[..., Any]]
  parts: int = 1


class Request(NamedTuple):
  """A request for videos.

  Attributes:
    task: A key of the pipeline's `tasks`.
    count: Number of videos, each from other noise.
    conditions: Arrays for `count` videos, as batches have them; {} for none.
    video: Frames to begin with, as `Pipeline.reading` asked for them; None for none.
    motions: Clips whose motion is wanted, each of the length of the model's clips.
    num_frames: Length of the result, where the task leaves a choice.
    options: Further values of the task by name, such as `factor`.
  """

  task: str
  count: int = 1
  conditions: Mapping[str, np.ndarray] = types.MappingProxyType({})
  video: Frames | None = None
  motions: tuple[Frames, ...] = ()
  num_frames: int | None = None
  options: Mapping[str, Any] = types.MappingProxyType({})


class Reading(NamedTuple):
  """Format of the frames that a task begins with.

  Attributes:
    resolution: Height and width to which frames are brought.
    stride: Frames of the file from one frame to the next.
    least: Number of frames that the task needs.
    most: Number of frames that the task looks at; None for all.
  """

  resolution: int
  stride: int = 1
  least: int = 1
  most: int | None = None


class Segment(NamedTuple):
  """Some frames of the result.

  Attributes:
    first: Place of the segment's first frame in the result.
    frames: Frames of every video, from `first` on.
  """

  first: int
  frames: UInt8[np.ndarray, "b f h w 3"]


class Plan(NamedTuple):
  """Size of the result of a request, known before anything is computed.

  Attributes:
    num_frames: Frames of each resulting video.
    fps: Its frames per second.
    num_segments: Segments that `run` will give.
  """

  num_frames: int
  fps: float
  num_segments: int = 1


@runtime_checkable
class Pipeline(Protocol):
  """Trained stages as one function from requests to videos."""

  @property
  def tasks(self) -> Mapping[str, str]:
    """Tasks by name, each with its result and what it needs."""
    ...

  def reading(self, task: str, options: Mapping[str, Any]) -> Reading | None:
    """Returns how frames are to be read for a task; None where it takes none."""
    ...

  def plan(self, request: Request) -> Plan:
    """Returns the length of the result, and raises what is impossible."""
    ...

  def run(
    self,
    request: Request,
    key: PRNGKey,
    keep: Keep | None = None,
    on_step: OnStep | None = None,
  ) -> Iterator[Segment]:
    """Yields the segments of the result, in order."""
    ...


def collect(plan: Plan, segments: Iterator[Segment]) -> UInt8[np.ndarray, "b f h w 3"]:
  """Puts segments together; frames past the planned end are left out."""
  whole = None
  for first, frames in segments:
    if whole is None:
      whole = np.zeros((len(frames), plan.num_frames, *frames.shape[2:]), np.uint8)
    end = min(first + frames.shape[1], plan.num_frames)
    whole[:, first:end] = frames[:, : end - first]
  assert whole is not None
  return whole


class Sampler:
  """A trained stage as a function from clips to clips, of any number."""

  def __init__(
    self,
    trained: Trained,
    devices: Devices,
    batch_size: int,
    on_step: OnStep | None = None,
  ):
    """Compiles nothing yet.

    Args:
      trained: The stage and its parameters, which are inputs of the program.
      devices: The devices to sample on.
      batch_size: Clips sampled together; brought up to a multiple of the devices.
      on_step: Called on the host after each denoising step.
    """
    self._arguments, self._devices = (trained.stage, trained.params), devices
    self._batch_size = -(-batch_size // devices.parts) * devices.parts
    # Samplers of the same function share what was compiled.
    draw = _draw if on_step is None else functools.partial(_draw, on_step=on_step)
    self._sample = devices.jit(draw)

  def __call__(
    self,
    batch: Mapping[str, np.ndarray],
    key: PRNGKey,
    shown: Callable[[Iterable[int]], Iterable[int]] = iter,
  ) -> UInt8[np.ndarray, "n f h w 3"]:
    """Samples a batch of any size.

    Args:
      batch: `video` [n f h w 3], and conditions.
      key: Clips from number i on, sampled together, draw from `fold_in(key, i)`.
      shown: Goes through the first clips of all batches, as a progress bar does.
    """
    size, outputs = self._batch_size, []
    for start in shown(range(0, len(batch["video"]), size)):
      part = {name: x[start : start + size] for name, x in batch.items()}
      lacking = size - len(part["video"])  # Whole batches only: one compilation.
      filled = {
        name: np.concatenate([x, x[:1].repeat(lacking, axis=0)])
        for name, x in part.items()
      }
      output = self._sample(
        self._arguments, self._devices.put(filled), jax.random.fold_in(key, start)
      )
      outputs.append(np.asarray(output)[: size - lacking])
    return np.concatenate(outputs)


@dataclasses.dataclass(frozen=True)
class WindowPipeline:
  """Makes whole clips, and goes on with videos window by window.

  Attributes:
    system: Name of the system, for messages.
    clip: Size of the model's clips.
    generator: The trained stage that makes videos.
    devices: The devices to sample on.
    batch_size: Whole clips sampled together at most.
    upsamples: Whether the generator can be told a low resolution.
  """

  system: str
  clip: Clip
  generator: Trained
  devices: Devices
  batch_size: int
  upsamples: bool = False

  @property
  def tasks(self) -> Mapping[str, str]:
    """See `Pipeline`."""
    found = {}
    stage = self.generator.stage
    if stage.given_frames == 1:
      found["animate"] = "a clip that begins with a picture (--image, or --video)"
    if stage.given_frames == 0:
      found["generate"] = "a clip from nothing but noise and conditions"
    if isinstance(stage, WindowStage):
      found |= {
        "predict": "the frames after the first sample.given_frames, one window",
        "extend": "the frames after the last one, up to --frames",
        "interpolate": "--factor - 1 frames between each two",
      }
      if self.upsamples:
        found["upsample"] = (
          "a resolution --factor times higher; with --every, frames between, too"
        )
    return found

  def reading(self, task: str, options: Mapping[str, Any]) -> Reading | None:
    """See `Pipeline`."""
    self._check(task)
    size, stride = self.clip.resolution, self.clip.frame_stride
    match task:
      case "animate":
        return Reading(size, stride, most=1)
      case "predict":
        given = self.generator.stage.given_frames
        if not given:
          raise UserError(
            "--task=predict needs to know from how many frames: for example"
            " --config.sample.given_frames=1"
          )
        return Reading(size, stride, given, given)
      case "extend":
        return Reading(size, stride)
      case "interpolate":
        return Reading(size, least=2)
      case "upsample":
        factor = options.get("factor", 2)
        if factor < 2 or size % factor:
          raise UserError(
            f"--factor={factor}: expected from 2 on, a divisor of the model's"
            f" resolution {size}"
          )
        return Reading(size // factor)
    return None

  def plan(self, request: Request) -> Plan:
    """See `Pipeline`."""
    self._check(request.task)
    if request.task in ("animate", "generate"):
      return Plan(self.clip.num_frames, self._fps)
    return self._windows(request).plan

  def run(
    self,
    request: Request,
    key: PRNGKey,
    keep: Keep | None = None,
    on_step: OnStep | None = None,
  ) -> Iterator[Segment]:
    """See `Pipeline`."""
    self._check(request.task)
    keep = {} if keep is None else keep
    if request.task in ("animate", "generate"):
      if 0 not in keep:
        keep[0] = self._whole_clips(request, key, on_step)
      yield Segment(0, keep[0])
    else:
      yield from self._by_windows(self._windows(request), request, key, keep, on_step)

  @property
  def _fps(self) -> float:
    return float(self.generator.meta["fps"])

  def _check(self, task: str) -> None:
    """Raises a `UserError` unless the model can do this."""
    if task in self.tasks:
      return
    stage = self.generator.stage
    if task == "animate":
      raise UserError(
        f"the model begins with {stage.given_frames} given frames, a picture is one;"
        " a system that takes any number takes --config.sample.given_frames=1"
      )
    if task == "generate":
      raise UserError(
        f"the model begins with {stage.given_frames} given frames; give it a picture"
        " or a video, --image or --video"
      )
    if task == "transfer":
      raise UserError(
        f"--mode=transfer: {self.system} does not take motion apart from content; lamd"
        " does"
      )
    if not isinstance(stage, WindowStage):
      raise UserError(
        f"--task={task}: {self.system} makes whole clips only; --image and --video"
        " without --task animate a first frame"
      )
    raise UserError(f"--task={task}: {self.system} can {', '.join(self.tasks)}")

  def _whole_clips(self, request, key, on_step) -> UInt8[np.ndarray, "b f h w 3"]:
    f, _, size = self.clip
    first = np.zeros((1, size, size, 3), np.uint8)
    if request.video is not None:
      first = request.video[:1]
    video = np.repeat(first, f, axis=0)
    batch = {"video": np.stack([video] * request.count)} | dict(request.conditions)
    sampler = Sampler(
      self.generator, self.devices, min(self.batch_size, request.count), on_step
    )
    return sampler(batch, key)

  def _windows(self, request: Request) -> "_Windows":
    """Returns how a task is done by windows."""
    window, size = self.clip.num_frames, self.clip.resolution
    assert request.video is not None
    assert isinstance(self.generator.stage, WindowStage)
    clip = np.asarray(pixels.from_uint8(jnp.asarray(request.video)))[None]
    overlap, options = self.generator.stage.overlap, request.options
    factor, every = options.get("factor", 2), options.get("every", 1)
    match request.task:
      case "predict":
        whole = windows.extended(clip, window)
        return _Windows(whole, window, overlap, Plan(window, self._fps))
      case "extend":
        num_frames = request.num_frames or 2 * window
        windows.extended(clip, num_frames)  # Raises what is impossible.
        # The first window begins where it shares so many frames with what is given,
        # and the last one may go on beyond the end: each knows no more than its
        # overlap.
        first = max(clip.shape[1] - overlap, 0)
        further = math.ceil(max(num_frames - first - window, 0) / (window - overlap))
        total = window + further * (window - overlap)
        whole = windows.extended(clip[:, first:], total)
        before = request.video[:first]
        plan = Plan(num_frames, self._fps, further + 1 + bool(first))
        return _Windows(whole, window, overlap, plan, before)
      case "interpolate":
        length = windows.interpolating_window(window, factor)
        if length < 2:
          raise UserError(
            f"--factor={factor}: a model of {window} frames can put at most"
            f" {window - 2} between two, --factor={window - 1}"
          )
        whole = windows.spread(clip, factor)
        length, overlap, speed = min(length, len(whole.is_known)), 1, float(factor)
      case _:
        whole = windows.enlarged(clip, size, every)
        length = min(windows.interpolating_window(window, every), len(whole.is_known))
        overlap, speed = min(1, length - 1), float(every)
    num_frames = len(whole.is_known)
    number = len(windows.starts(num_frames, length, overlap))
    plan = Plan(num_frames, self._fps * speed, number)
    return _Windows(whole, length, overlap, plan)

  def _by_windows(self, how, request, key, keep, on_step) -> Iterator[Segment]:
    count = request.count
    # All samples begin with one video; the masks are shared.
    repeat = lambda x: np.repeat(x, count, axis=0)
    low = how.whole.low
    whole = how.whole._replace(
      video=repeat(how.whole.video), low=None if low is None else repeat(low)
    )
    conditions = self.devices.put(request.conditions)
    draw = _draw_window
    if on_step is not None:
      draw = functools.partial(_draw_window, on_step=on_step)
    run = self.devices.jit(draw)

    def sample(key, part: windows.Window):
      # Without a known frame, as where all is upsampled, there is nothing to keep.
      is_known = part.is_known if part.is_known.any() else None
      lows = {} if part.low is None else {"low": part.low}
      given = self.devices.put({"video": part.video} | lows)
      known = given["video"], is_known, given.get("low"), part.has_low
      stage, params = self.generator.stage, self.generator.params
      return run(stage, params, conditions, key, *known)

    offset = 0
    if len(how.before):
      offset = len(how.before)
      yield Segment(0, repeat(how.before[None]))
    filled = windows.fill(
      sample, key, whole, window=how.window, overlap=how.overlap, keep=keep
    )
    for first, video in filled:
      frames = jnp.asarray(video[:, first : first + how.window])
      yield Segment(offset + first, np.asarray(pixels.to_uint8(frames)))


def _draw(arguments, batch, key, on_step: OnStep | None = None):
  stage, params = arguments
  return pixels.to_uint8(stage.sample(params, batch, key, on_step))


def _draw_window(stage, params, conditions, key, *given, on_step: OnStep | None = None):
  return stage.sample_window(params, conditions, key, *given, on_step=on_step)


class _Windows(NamedTuple):
  """A task as windows to fill.

  Attributes:
    whole: Known part of the frames that windows fill.
    window: Frames of a window.
    overlap: Frames that neighbouring windows share.
    plan: The result.
    before: Frames of the result in front of the first window.
  """

  whole: windows.Window
  window: int
  overlap: int
  plan: Plan
  before: UInt8[np.ndarray, "f h w 3"] | tuple[()] = ()
