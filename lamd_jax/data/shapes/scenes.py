"""Moving shapes: procedural clips with a motion class and a caption, without files.

Two to four coloured shapes move over a smooth textured background, each in its own way;
later shapes are drawn in front of earlier ones. Speed, direction, phase and stopping
times are random and invisible in a single frame, so a still image does not determine
the future.

Lengths are fractions of the side and times are in frames: a larger clip shows the same
scene in finer detail, a longer one continues the shorter one. A scene is a pure
function of (seed, split, index), and each frame is a pure function of its scene.
"""

import dataclasses
import itertools
import math
import operator

from jaxtyping import Float, UInt8
import numpy as np

from lamd_jax.data.shapes.outlines import FORMS

MOTIONS = ("glides", "orbits", "spins", "grows and shrinks", "stops and goes")
"""Kinds of motion; the motion class of a clip is an index into this table."""

SPLITS = ("train", "eval")
FPS = 8.0
"""Frames per second at which the motion is pleasant to watch."""

_MAX_SHAPES = 4
_COLORS = {
  "red": (222, 48, 44),
  "orange": (245, 140, 30),
  "yellow": (250, 218, 60),
  "green": (70, 190, 80),
  "blue": (50, 105, 230),
  "purple": (155, 70, 205),
  "pink": (245, 140, 195),
  "cyan": (70, 210, 225),
  "white": (242, 242, 242),
}
_SPINNING = tuple(name for name, form in FORMS.items() if not form.is_round)
_BACKGROUNDS = {
  "green": (52, 96, 66),
  "blue": (48, 66, 112),
  "purple": (84, 58, 104),
  "brown": (112, 82, 58),
  "grey": (116, 118, 122),
  "red": (112, 50, 52),
}


@dataclasses.dataclass(frozen=True)
class Shape:
  """A shape and its motion; lengths in sides, times in frames, angles in radians.

  Attributes:
    form: A key of FORMS.
    color_name: Name of the colour in the caption.
    color: Red, green, blue in [0, 255].
    size: Diameter; the mean diameter of a shape that grows and shrinks.
    motion: Index into MOTIONS.
    home: Position in frame 0; for an orbit, its centre.
    heading: Direction of a glide, or the angle on the orbit in frame 0.
    speed: Distance per frame while moving, signed for an orbit.
    radius: Radius of the orbit.
    angle: Orientation in frame 0.
    turn: Rotation per frame of a spin, signed.
    growth: Amplitude of the growth, relative to the size.
    period: Frames of one cycle of growing and shrinking, or of stopping and going.
    phase: Frames of the first period that have passed before frame 0.
    moving: Frames of a stop-and-go period in which the shape moves.
  """

  form: str
  color_name: str
  color: tuple[float, float, float]
  size: float
  motion: int
  home: tuple[float, float]
  heading: float = 0.0
  speed: float = 0.0
  radius: float = 0.0
  angle: float = 0.0
  turn: float = 0.0
  growth: float = 0.0
  period: float = 1.0
  phase: float = 0.0
  moving: float = 0.0

  @property
  def extent(self) -> float:
    """Radius of the enclosing circle of the shape at its largest."""
    return _extent(self.form, self.size, self.growth)

  @property
  def begin(self) -> tuple[float, float]:
    """Centre of the shape in frame 0."""
    x, y = self.home
    if not self.radius:
      return x, y
    along = math.cos(self.heading), math.sin(self.heading)
    return x + self.radius * along[0], y + self.radius * along[1]

  def centers(self, frames: Float[np.ndarray, " f"]) -> Float[np.ndarray, "f 2"]:
    """Returns the centre in each frame: x to the right, y down."""
    home = np.asarray(self.home)
    match MOTIONS[self.motion]:
      case "orbits":
        angles = self.heading + frames * (self.speed / self.radius)
        return home + self.radius * np.stack([np.cos(angles), np.sin(angles)], -1)
      case "glides":
        way = self.speed * frames
      case "stops and goes":
        way = self.speed * (self._gone(frames) - self._gone(np.zeros(1)))
      case _:
        return np.repeat(home[None], len(frames), axis=0)
    direction = np.array([np.cos(self.heading), np.sin(self.heading)])
    return _bounce(home + way[:, None] * direction, self.extent)

  def _gone(self, frames: Float[np.ndarray, " f"]) -> Float[np.ndarray, " f"]:
    """Returns the number of frames that a stop-and-go shape has spent moving."""
    periods, rest = np.divmod(frames + self.phase, self.period)
    return periods * self.moving + np.minimum(rest, self.moving)

  def angles(self, frames: Float[np.ndarray, " f"]) -> Float[np.ndarray, " f"]:
    """Returns the orientation in each frame."""
    return self.angle + self.turn * frames

  def sizes(self, frames: Float[np.ndarray, " f"]) -> Float[np.ndarray, " f"]:
    """Returns the diameter in each frame."""
    turns = (frames + self.phase) / self.period
    return self.size * (1.0 + self.growth * np.sin(2.0 * np.pi * turns))

  def coverage(
    self, frames: Float[np.ndarray, " f"], resolution: int
  ) -> tuple[Float[np.ndarray, "f h w"], slice, slice]:
    """Computes the fraction of each pixel that the shape covers, in [0, 1].

    Returns:
      The coverage in the part of the frames that the shape reaches, and the rows and
      the columns of that part. All other pixels are uncovered.
    """
    centers, sizes, angles = (
      self.centers(frames),
      self.sizes(frames),
      self.angles(frames),
    )
    # Two pixels of margin: at the tip of a star the edge is off by
    # 0.5 / sin(21.6 degrees).
    reach = sizes[:, None] * FORMS[self.form].extent + 2.0 / resolution
    left, top = np.maximum((centers - reach).min(0) * resolution, 0.0).astype(int)
    right, bottom = np.ceil((centers + reach).max(0) * resolution).astype(int)
    rows, columns = slice(top, bottom), slice(left, right)

    column = (slice(None), None, None)
    centers = centers.astype(np.float32)
    sizes = sizes.astype(np.float32)[column]
    cos = np.cos(angles).astype(np.float32)[column]
    sin = np.sin(angles).astype(np.float32)[column]
    grid = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution
    x = (grid[None, None, columns] - centers[:, 0][column]) / sizes  # f 1 w
    y = (grid[None, rows, None] - centers[:, 1][column]) / sizes  # f h 1
    distance = FORMS[self.form].distance_fn(cos * x + sin * y, cos * y - sin * x)
    # An edge at distance d from the centre of a pixel covers about 1/2 - d of it.
    distance *= sizes * -float(resolution)
    distance += 0.5
    return np.clip(distance, 0.0, 1.0, out=distance), rows, columns


def _extent(form: str, size: float, growth: float) -> float:
  return size * (1.0 + growth) * FORMS[form].extent


def _bounce(
  positions: Float[np.ndarray, "f 2"], margin: float
) -> Float[np.ndarray, "f 2"]:
  """Reflects an unbounded path at walls at `margin` and 1 - `margin`."""
  room = 1.0 - 2.0 * margin
  folded = np.mod(positions - margin, 2.0 * room)
  return margin + np.minimum(folded, 2.0 * room - folded)


@dataclasses.dataclass(frozen=True)
class Scene:
  """The description of a clip before it is drawn.

  Attributes:
    shapes: The shapes, from the back to the front.
    background_name: Name of the background's colour in the caption.
    background: Red, green, blue in [0, 255].
    waves: One row for each wave of the texture: cycles across, cycles down, phase in
      radians, and the amplitudes in red, green and blue.
  """

  shapes: tuple[Shape, ...]
  background_name: str
  background: tuple[float, float, float]
  waves: Float[np.ndarray, "k 6"]

  @property
  def motion_class(self) -> int:
    """Motion of the front shape, which is the largest; an index into MOTIONS."""
    return self.shapes[-1].motion

  @property
  def caption(self) -> str:
    """Description of all shapes, from the front to the back."""
    parts = [_describe(shape) for shape in reversed(self.shapes)]
    rest = ", ".join(parts[1:-1])
    rest = f"{rest} and {parts[-1]}" if rest else parts[-1]
    article = _article(self.background_name)
    return f"{parts[0]} while {rest} on {article} {self.background_name} background"

  def render(
    self, num_frames: int, resolution: int, start: int = 0, stride: int = 1
  ) -> UInt8[np.ndarray, "f h w 3"]:
    """Draws the frames start, start + stride, ..."""
    video = np.empty((num_frames, resolution, resolution, 3), np.uint8)
    texture = self._texture(resolution)
    # Draws a few frames at a time, so that the planes stay in the processor's cache.
    step = max(1, 2**15 // resolution**2)
    for first in range(0, num_frames, step):
      count = min(step, num_frames - first)
      frames = start + stride * np.arange(first, first + count, dtype=np.float64)
      canvas = np.repeat(texture[:, None], count, axis=1)  # c f h w
      for shape in self.shapes:
        coverage, rows, columns = shape.coverage(frames, resolution)
        color = np.asarray(shape.color, np.float32)[:, None, None, None]
        part = canvas[:, :, rows, columns]
        part += coverage * (color - part)
      # The texture keeps a distance from 0 and 255, so nothing overflows.
      canvas += 0.5
      for i, plane in enumerate(canvas):
        video[first : first + count, :, :, i] = plane
    return video

  def _texture(self, resolution: int) -> Float[np.ndarray, "3 h w"]:
    grid = 2.0 * np.pi * (np.arange(resolution, dtype=np.float32) + 0.5) / resolution
    texture = np.empty((3, resolution, resolution), np.float32)
    texture[:] = np.asarray(self.background)[:, None, None]
    for across, down, phase, *amplitudes in self.waves.astype(np.float32):
      wave = np.cos(across * grid[None, :] + down * grid[:, None] + phase)
      texture += np.asarray(amplitudes)[:, None, None] * wave
    return texture


def _article(word: str) -> str:
  return "an" if word[0] in "aeiou" else "a"


def _describe(shape: Shape) -> str:
  size = "small " if shape.size < 0.26 else "large " if shape.size > 0.34 else ""
  name = f"{size}{shape.color_name} {shape.form}"
  return f"{_article(name)} {name} {MOTIONS[shape.motion]}"


def caption_samples() -> list[str]:
  """Returns captions that contain every word, the longest caption among them.

  Their scenes need not occur: all shapes of a scene are described in the same words.
  """
  captions: list[str] = []
  looks = itertools.product(FORMS, _COLORS, (0.2, 0.3, 0.4), range(len(MOTIONS)))
  backgrounds = itertools.cycle(_BACKGROUNDS)
  black = (0.0, 0.0, 0.0)  # Captions depend on the names of colours alone.
  for form, color, size, motion in looks:
    shape = Shape(form, color, black, size, motion, (0.5, 0.5))
    group = (shape,) * _MAX_SHAPES
    scene = Scene(group, next(backgrounds), black, np.zeros((0, 6)))
    captions.append(scene.caption)
  return captions


def make_scene(seed: int, split: str, index: int) -> Scene:
  """Draws scene number `index` of a split, "train" or "eval"; splits share none."""
  sequence = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index))
  rng = np.random.Generator(np.random.PCG64(sequence))

  names = list(_BACKGROUNDS)
  background_name = names[rng.integers(len(names))]
  background = np.asarray(_BACKGROUNDS[background_name]) + rng.uniform(-8, 8, 3)
  waves = np.concatenate(
    [
      rng.uniform(-1.8, 1.8, (4, 2)),
      rng.uniform(0.0, 2.0 * np.pi, (4, 1)),
      # Mostly light and dark, with a little colour; they never add up to over 38.
      rng.uniform(3.0, 7.0, (4, 1)) + rng.uniform(-2.5, 2.5, (4, 3)),
    ],
    axis=1,
  )

  colors = [name for name in _COLORS if name != background_name]
  num_shapes = int(rng.integers(2, _MAX_SHAPES + 1))
  color_names = rng.permutation(colors)[:num_shapes]
  sizes = np.sort(rng.uniform(0.2, 0.4, num_shapes))  # The front one is the largest.
  front: list[Shape] = []
  for color_name, size in zip(color_names, sizes[::-1], strict=True):
    front.append(_place(rng, str(color_name), float(size), front))
  return Scene(tuple(front[::-1]), background_name, tuple(background.tolist()), waves)


def _place(
  rng: np.random.Generator, color_name: str, size: float, front: list[Shape]
) -> Shape:
  """Draws a shape that the ones in front of it do not hide in frame 0."""
  best, best_gap = None, -np.inf
  for _ in range(12):
    shape = _draw(rng, color_name, size)
    gaps = [math.dist(shape.begin, other.begin) - other.extent for other in front]
    gap = min(gaps, default=np.inf)
    if gap > best_gap:
      best, best_gap = shape, gap
    if gap > 0.0:  # Its centre is visible.
      break
  assert best is not None
  return best


def _draw(rng: np.random.Generator, color_name: str, size: float) -> Shape:
  """Draws a shape without looking at the others."""
  motion = int(rng.integers(len(MOTIONS)))
  verb = MOTIONS[motion]
  forms = _SPINNING if verb == "spins" else tuple(FORMS)
  form = forms[rng.integers(len(forms))]
  sign = (-1.0, 1.0)[rng.integers(2)]
  jitter = rng.uniform(-8, 8, 3).tolist()
  jittered = map(operator.add, _COLORS[color_name], jitter)
  red, green, blue = (min(max(value, 0.0), 250.0) for value in jittered)
  values: dict[str, float] = dict(angle=rng.uniform(0.0, 2.0 * np.pi))
  match verb:
    case "glides":
      values |= dict(
        heading=rng.uniform(0.0, 2.0 * np.pi), speed=rng.uniform(0.02, 0.045)
      )
    case "orbits":
      radius = min(rng.uniform(0.14, 0.24), 0.49 - size * FORMS[form].extent)
      values |= dict(
        heading=rng.uniform(0.0, 2.0 * np.pi),
        speed=sign * radius * rng.uniform(0.16, 0.24),  # A third of a turn or more.
        radius=radius,
      )
    case "spins":
      values |= dict(turn=sign * rng.uniform(0.14, 0.32))
    case "grows and shrinks":
      period = rng.uniform(9.0, 15.0)
      growth = rng.uniform(0.3, 0.45)
      values |= dict(period=period, phase=rng.uniform(0.0, period), growth=growth)
    case "stops and goes":
      moving, resting = rng.uniform(3.0, 5.0), rng.uniform(3.0, 5.0)
      period = moving + resting
      values |= dict(
        heading=rng.uniform(0.0, 2.0 * np.pi),
        speed=rng.uniform(0.045, 0.08),
        moving=moving,
        period=period,
        phase=rng.uniform(0.0, period),
      )
  margin = _extent(form, size, values.get("growth", 0.0)) + values.get("radius", 0.0)
  home = rng.uniform(margin, 1.0 - margin, 2).tolist()
  return Shape(
    form=form,
    color_name=color_name,
    color=(red, green, blue),
    size=size,
    motion=motion,
    home=tuple(home),
    **values,
  )
