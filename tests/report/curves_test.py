"""Curves of a report: drawn true to their values, and described."""

import math
import re
from xml.etree import ElementTree

from absl.testing import absltest, parameterized
import numpy as np

from lamd_jax.report import curves


class CurveTest(parameterized.TestCase):
  def lines(self, svg):
    """The points of each drawn curve, in the order drawn."""
    result = []
    for path in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"):
      style = path.get("style", "")
      if "var(--accent)" in style or "var(--raw)" in style:
        numbers = re.findall(r"-?\d+\.?\d*", path.get("d", ""))
        result.append(np.array(numbers, float).reshape(-1, 2))
    return result

  def test_a_straight_curve_is_drawn_straight_and_downwards(self):
    steps = [0, 10, 30, 40]
    (line,) = self.lines(curves.curve_svg(steps, [40.0, 30.0, 10.0, 0.0], "x"))
    slopes = np.diff(line[:, 1]) / np.diff(line[:, 0])
    self.assertTrue((slopes > 0).all())  # y points down in SVG.
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-3)

  def test_an_exponential_curve_is_straight_on_its_logarithmic_axis(self):
    steps = [*range(0, 50, 5)]
    values = [math.exp(-step / 7) for step in steps]
    (line,) = self.lines(curves.curve_svg(steps, values, "x"))
    slope = (line[-1, 1] - line[0, 1]) / (line[-1, 0] - line[0, 0])
    expected = line[0, 1] + slope * (line[:, 0] - line[0, 0])
    np.testing.assert_allclose(line[:, 1], expected, atol=0.01)

  def test_a_long_curve_has_a_running_mean_beside_it(self):
    values = [(-1.0) ** i for i in range(1000)]
    raw, smoothed = self.lines(curves.curve_svg([*range(1000)], values, "x"))
    self.assertLess(np.ptp(smoothed[20:-20, 1]), 0.05 * np.ptp(raw[:, 1]))

  def test_the_running_mean_of_a_straight_line_is_that_line(self):
    raw, smoothed = self.lines(
      curves.curve_svg([*range(500)], [*map(float, range(500))], "x")
    )
    inside = np.linspace(*np.quantile(raw[:, 0], [0.0, 1.0]), 50)[5:-5]
    drawn = [np.interp(inside, *line.T) for line in (raw, smoothed)]
    np.testing.assert_allclose(*drawn, atol=0.2)  # Pixels, drawn to a ninth of one.

  @parameterized.parameters(([1, 2], [0.0, 0.0]), ([1, 2, 3], [5, 5, 5]))
  def test_short_and_constant_curves_are_drawn(self, steps, values):
    svg = curves.curve_svg(steps, [float(x) for x in values], 'a "label" <')
    root = ElementTree.fromstring(svg)
    self.assertEqual(root.get("aria-label"), 'a "label" <')
    self.assertNotIn("#0102", svg)  # No placeholder is left.


if __name__ == "__main__":
  absltest.main()
