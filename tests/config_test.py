"""Arguments of configurations, after the colon of --config."""

from absl.testing import absltest, parameterized

from lamd_jax.config import parse_arg
from lamd_jax.types import UserError


class ParseArgTest(parameterized.TestCase):
  @parameterized.parameters(
    (None, dict(smoke=False, minutes=12, rate=0.5, name="a")),
    ("", dict(smoke=False, minutes=12, rate=0.5, name="a")),
    ("smoke", dict(smoke=True, minutes=12, rate=0.5, name="a")),
    ("smoke=false", dict(smoke=False, minutes=12, rate=0.5, name="a")),
    (
      "minutes=60,smoke=True,rate=2,name=b=c",
      dict(smoke=True, minutes=60, rate=2.0, name="b=c"),
    ),
  )
  def test_values_have_the_type_of_their_default(self, arg, expected):
    values = parse_arg(arg, smoke=False, minutes=12, rate=0.5, name="a")
    self.assertEqual(values, expected)
    self.assertEqual([type(v) for v in values.values()], [bool, int, float, str])

  def test_an_unknown_name_lists_the_known_ones(self):
    with self.assertRaisesRegex(UserError, "'smok' .* known: minutes, smoke"):
      parse_arg("smok", smoke=False, minutes=12)

  @parameterized.parameters(
    ("minutes=x", "minutes='x': expected int, for example minutes=12"),
    ("minutes", "minutes='': expected int"),
    ("smoke=3", "smoke='3': expected bool"),
  )
  def test_a_value_of_another_type_is_named(self, arg, message):
    with self.assertRaisesRegex(UserError, message):
      parse_arg(arg, smoke=False, minutes=12)


if __name__ == "__main__":
  absltest.main()
