"""Outlines of the moving shapes, as signed distances for anti-aliased edges."""

from collections.abc import Callable
import dataclasses

from jaxtyping import Float
import numpy as np

Plane = Float[np.ndarray, "f h w"]


def _circle(u: Plane, v: Plane) -> Plane:
  return np.sqrt(u * u + v * v) - 0.5


def _ring(u: Plane, v: Plane) -> Plane:
  return np.abs(np.sqrt(u * u + v * v) - 0.38) - 0.14


def _square(u: Plane, v: Plane) -> Plane:
  return np.maximum(np.abs(u), np.abs(v)) - 0.45


def _bar(u: Plane, v: Plane) -> Plane:
  return np.maximum(np.abs(u) - 0.6, np.abs(v) - 0.2)


def _cross(u: Plane, v: Plane) -> Plane:
  u, v = np.abs(u), np.abs(v)
  return np.maximum(np.maximum(u, v) - 0.53, np.minimum(u, v) - 0.18)


def _triangle(u: Plane, v: Plane) -> Plane:
  slope = 0.8660254 * np.abs(u) - 0.5 * v
  return np.maximum(v, slope) - 0.31


def _star(u: Plane, v: Plane) -> Plane:
  """Folds a five-pointed star into one tenth of it, where its edge is a line."""
  outer, inner = 0.62, 0.27
  u, v = np.abs(u), -v
  for side in (1.0, -1.0):  # The mirrors at 36 degrees to either side.
    normal_u, normal_v = side * 0.80901699, -0.58778525
    over = 2.0 * np.maximum(normal_u * u + normal_v * v, 0.0)
    u, v = u - over * normal_u, v - over * normal_v
  u = np.abs(u)
  # From the tip (0, outer) to the notch between two points.
  edge_u, edge_v = inner * 0.58778525, inner * 0.80901699 - outer
  length = np.hypot(edge_u, edge_v)
  return ((outer - v) * edge_u + u * edge_v) * (-1.0 / length)


@dataclasses.dataclass(frozen=True)
class Form:
  """A kind of shape, of diameter about 1.

  Attributes:
    distance_fn: Signed distance from the edge, negative inside.
    extent: Radius of the enclosing circle.
    is_round: Whether rotation is invisible.
  """

  distance_fn: Callable[[Plane, Plane], Plane]
  extent: float
  is_round: bool = False


FORMS = {
  "circle": Form(_circle, 0.5, is_round=True),
  "ring": Form(_ring, 0.52, is_round=True),
  "square": Form(_square, 0.64),
  "bar": Form(_bar, 0.63),
  "cross": Form(_cross, 0.56),
  "triangle": Form(_triangle, 0.62),
  "star": Form(_star, 0.62),
}
