"""Arguments of configurations, and what is built from their values, or an error."""

import dataclasses
from typing import Annotated, Literal

from absl.testing import absltest, parameterized
import jax.numpy as jnp
import ml_collections

from lamd_jax.config import Range, build, check, check_choice, parse_arg
from lamd_jax.models.dmg import DMG
from lamd_jax.models.mcd_vae import MCDVAE
from lamd_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Settings:
  """Fields of every kind; `fixed` is none that one could give."""

  rate: Annotated[float, Range(0, 1)]
  steps: Annotated[int, Range(1)] = 5
  form: Literal["hinge", "log"] = "hinge"
  sizes: tuple[int, ...] = ()
  fixed: int = dataclasses.field(default=7, init=False)


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


class BuildTest(parameterized.TestCase):
  def test_keys_become_fields_and_lists_tuples(self):
    values = {"kernels": [[1, 3, 3], [3, 1, 1]], "content_channels": 3}
    values = ml_collections.ConfigDict(values)
    model = build(MCDVAE, values, "mcd_vae.model", num_frames=4, dtype=jnp.float32)
    self.assertEqual(model.kernels, ((1, 3, 3), (3, 1, 1)))
    self.assertEqual((model.content_channels, model.dtype), (3, jnp.float32))
    hash(model)  # As a static argument of a compiled function.

  def test_an_unknown_key_names_the_nearest(self):
    message = "dmg.model.chanel_mults means nothing .* dmg.model.channel_mults"
    with self.assertRaisesRegex(UserError, message):
      build(DMG, {"chanel_mults": (1,)}, "dmg.model")

  def test_a_key_like_no_other_lists_the_known_ones(self):
    with self.assertRaisesRegex(UserError, "known: model_channels, .*dropout_rate"):
      build(DMG, {"zzz": 1}, "dmg.model")

  def test_what_the_system_sets_is_no_key(self):
    for key in ("dtype", "parent", "name"):
      with self.assertRaisesRegex(UserError, f"dmg.model.{key} means nothing"):
        build(DMG, {key: None}, "dmg.model", dtype=None)
    with self.assertRaisesRegex(UserError, "a.fixed means nothing"):
      build(Settings, {"rate": 1, "fixed": 3}, "a")

  def test_a_required_field_that_is_missing_is_named(self):
    with self.assertRaisesRegex(UserError, "a.rate is missing; Settings needs"):
      build(Settings, {"steps": 3}, "a")
    self.assertEqual(build(Settings, {}, "a", rate=0.5), Settings(0.5))

  @parameterized.parameters(
    ("rate", 0.0), ("rate", 1.0), ("steps", 1), ("steps", 10**9), ("form", "log")
  )
  def test_ends_of_ranges_and_every_choice_are_taken(self, name, value):
    settings = build(Settings, {"rate": 0.5, name: value}, "a")
    self.assertEqual(getattr(settings, name), value)

  @parameterized.parameters(
    ("rate", 1.5, "a.rate=1.5: expected 0 to 1"),
    ("rate", -0.1, "a.rate=-0.1: expected 0 to 1"),
    ("rate", float("nan"), "a.rate=nan: expected 0 to 1"),
    ("rate", "x", "a.rate='x': expected 0 to 1"),
    ("rate", None, "a.rate=None: expected 0 to 1"),
    ("steps", 0, "a.steps=0: expected 1 or more"),
    ("steps", True, "a.steps=True: expected 1 or more"),
    ("form", "wgan", "a.form='wgan'; known: hinge, log"),
    ("form", None, "a.form=None; known: hinge, log"),
  )
  def test_a_value_out_of_bounds_is_named_with_what_was_expected(
    self, name, value, message
  ):
    with self.assertRaisesRegex(UserError, f"^{message}$"):
      build(Settings, {"rate": 0.5, name: value}, "a")

  def test_values_outside_dataclasses_are_checked_alike(self):
    check(0.1, Annotated[float, Range(0, 1)], "condition.dropout")
    message = "^condition.dropout=2: expected 0 to 1$"
    with self.assertRaisesRegex(UserError, message):
      check(2, Annotated[float, Range(0, 1)], "condition.dropout")
    check_choice("a", {"a": 1, "b": 2}, "x.name")
    with self.assertRaisesRegex(UserError, "^x.name='c'; known: a, b$"):
      check_choice("c", {"a": 1, "b": 2}, "x.name")


if __name__ == "__main__":
  absltest.main()
