"""Values against their annotations, and blocks against what takes their values."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Annotated, Any, Literal

from absl.testing import absltest, parameterized
import jax.numpy as jnp
import ml_collections
from ml_collections import config_dict
import numpy as np

from lamd_jax import schema
from lamd_jax.models.dmg import DMG
from lamd_jax.models.mcd_vae import MCDVAE
from lamd_jax.schema import Field, Length, OneOf, Path, Range, block, build, check
from lamd_jax.types import UserError

Rate = Annotated[float, Range(0, 1)]
Steps = Annotated[int, Range(1)]
Sizes = Annotated[Sequence[Annotated[int, Range(1, 9)]], Length(1, 3)]
DIGITS = 10**5000  # More than Python turns into text.


@dataclasses.dataclass(frozen=True)
class Settings:
  """Fields of every kind; `fixed` is none that one could give."""

  rate: Rate
  steps: Steps = 5
  form: Literal["hinge", "log"] = "hinge"
  sizes: tuple[int, ...] = ()
  fixed: int = dataclasses.field(default=7, init=False)


class CheckTest(parameterized.TestCase):
  @parameterized.parameters(
    (Rate, 0.0, 0.0),
    (Rate, 1, 1.0),  # A whole number is a number.
    (Rate, np.float32(0.5), 0.5),
    (Steps, 1, 1),
    (Steps, np.int64(3), 3),
    (Steps, 10**9, 10**9),
    (float, -3.4e38, -3.4e38),
    (int | None, None, None),
    (int | None, 3, 3),
    (bool, True, True),
    (str, "", ""),
    (str, "\udcff", "\udcff"),  # A name of a file that is not UTF-8.
    (Literal["a", "b"], "b", "b"),
    (Annotated[str, OneOf({"x": 1, "y": 2})], "y", "y"),
    (Annotated[str, Path()], "~/clips/a.mp4", "~/clips/a.mp4"),
    (Annotated[int, Range(1, 3)] | Literal["all"], "all", "all"),
    (Sizes, [1, 2], (1, 2)),
    (tuple[tuple[int, int], ...], [[1, 2], (3, 4)], ((1, 2), (3, 4))),
    (tuple[str, ...], (), ()),
  )
  def test_what_is_allowed_comes_back_in_the_type_of_the_annotation(
    self, annotation, value, expected
  ):
    got = check(value, annotation, "a.b")
    self.assertEqual((got, type(got)), (expected, type(expected)))

  @parameterized.parameters(
    (Rate, 1.5, "1.5: expected a number from 0 to 1"),
    (Rate, -0.1, "-0.1: expected a number from 0 to 1"),
    (Rate, float("nan"), "nan: expected a number from 0 to 1"),
    (Rate, True, "True: expected a number from 0 to 1"),
    (Rate, "x", "'x': expected a number from 0 to 1"),
    (Rate, None, "None: expected a number from 0 to 1"),
    (Rate, b"x", "b'x': expected a number from 0 to 1"),
    (Steps, 0, "0: expected a whole number from 1 on"),
    (Steps, True, "True: expected a whole number from 1 on"),
    (Steps, 2.0, "2.0: expected a whole number from 1 on"),
    (Annotated[float, Range(0)], float("inf"), "inf: expected a number from 0 on"),
    (float, -float("inf"), "-inf: expected a number"),
    (float, 1e39, r"1e\+39: expected a number"),  # Infinite in float32.
    (float, 10**400, "1000.*[.]{3}: expected a number"),
    (schema.Seed, 2**64, "18446744073709551616: .* 0 to 4,294,967,295"),
    (schema.Seed, -1, "-1: expected a whole number from 0 to"),
    (schema.Frames, 10**11, "100000000000: .* from 1 to 16,384"),
    (bool, 1, "1: expected True or False"),
    (bool, None, "None: expected True or False"),
    (str, 3, "3: expected text of up to 4096 bytes"),
    (str, "a\0b", r"'a.x00b': expected text"),
    (str, "a" * 4097, "'aaaaa.*: expected text"),
    (str, "é" * 2049, ".*: expected text"),
    (Literal["hinge", "log"], "wgan", "'wgan'; known: hinge, log"),
    (Literal["hinge", "log"], None, "None: expected one of hinge, log"),
    (Literal["hinge", "log"], "hing", "'hing'; .*; did you mean 'hinge'[?]"),
    (Annotated[str, OneOf({"cosine": 1})], "cosin", ".*; did you mean 'cosine'[?]"),
    (Annotated[str, Path()], 3, "3: expected a path"),
    (Annotated[str, Path()], "~nobody-x/a", ".*there is no user 'nobody-x'; give"),
    (Annotated[str, Path()], f"a/{'b' * 256}", ".*a name .* 256 bytes, .* 255"),
    (Annotated[str, Path()] | None, "~nobody-x", ".*there is no user 'nobody-x'"),
    (int | None, "x", "'x': expected a whole number or None"),
    (Sizes, (), ": expected a tuple of 1 to 3 values, each a whole number from 1 to 9"),
    (Sizes, (1, 2, 3, 4), ".*: expected a tuple of 1 to 3 values"),
    (Sizes, (-1, 1), r".-1, 1.: expected a tuple"),
    (Sizes, (1, float("nan")), ".*: expected a tuple"),
    (Sizes, 3, "3: expected a tuple"),
    (Sizes, "12", "'12': expected a tuple"),
    (Sizes, None, "None: expected a tuple"),
    (Sizes, {"a": 1}, "a block: expected a tuple"),
    (tuple[int, int], (1,), ".*: expected a tuple of 2 values, each a whole number"),
  )
  def test_what_is_not_is_told_with_what_was_expected(self, annotation, value, message):
    with self.assertRaisesRegex(UserError, f"^a.b=.*{message}") as caught:
      check(value, annotation, "a.b")
    text = str(caught.exception)
    self.assertTrue(text.isprintable() and len(text) < 300, text)

  def test_objects_that_cannot_be_shown_or_compared_are_refused_alike(self):
    class Broken:
      def __repr__(self):
        raise ValueError("two\nlines")

      def __eq__(self, other):
        raise ValueError

    for value in (
      Broken(),
      DIGITS,
      np.zeros(3),
      object(),
      int,
      ml_collections.ConfigDict(),
    ):
      for annotation in (Rate, schema.Count, bool, str, Literal["a"], Sizes):
        with self.assertRaisesRegex(UserError, "^a.b=.*: expected"):
          check(value, annotation, "a.b")


class BlockTest(parameterized.TestCase):
  def test_keys_become_fields_and_lists_tuples(self):
    values = {"kernels": [[1, 3, 3], [3, 1, 1]], "content_channels": 3}
    values = ml_collections.ConfigDict(values)
    bound = dict(num_frames=4, dtype=jnp.float32)
    model = build(MCDVAE, values, "mcd_vae.model", **bound)
    self.assertEqual(model.kernels, ((1, 3, 3), (3, 1, 1)))
    self.assertEqual((model.content_channels, model.dtype), (3, jnp.float32))
    hash(model)  # As a static argument of a compiled function.

  def test_an_unknown_key_names_the_nearest(self):
    message = "dmg.model.chanel_mults means nothing .* dmg.model.channel_mults"
    with self.assertRaisesRegex(UserError, message):
      build(DMG, {"chanel_mults": (1,)}, "dmg.model", dtype=None, condition=None)

  def test_a_key_like_no_other_lists_the_known_ones(self):
    with self.assertRaisesRegex(UserError, "known: model_channels, .*dropout_rate"):
      build(DMG, {"zzz": 1}, "dmg.model", dtype=None, condition=None)

  def test_what_the_system_sets_is_no_key(self):
    for key in ("dtype", "parent", "name"):
      with self.assertRaisesRegex(UserError, f"dmg.model.{key} means nothing"):
        build(DMG, {key: None}, "dmg.model", dtype=None, condition=None)
    with self.assertRaisesRegex(UserError, "a.fixed means nothing"):
      build(Settings, {"rate": 1, "fixed": 3}, "a")

  def test_a_required_field_that_is_missing_is_named(self):
    message = "a.rate is missing; Settings needs a value .*: a number from 0 to 1"
    with self.assertRaisesRegex(UserError, message):
      build(Settings, {"steps": 3}, "a")
    self.assertEqual(build(Settings, {}, "a", rate=0.5), Settings(0.5))

  @parameterized.parameters(None, 3, "text", ((1, 2),), ([],))
  def test_what_is_no_block_is_told_the_keys(self, values):
    message = "^a is .*; expected a block with rate, steps, form, sizes$"
    with self.assertRaisesRegex(UserError, message):
      build(Settings, values, "a")

  def test_blocks_in_blocks_are_named_by_their_path(self):
    outer = block(taker="all", inner=Field(block(Settings)), more=Field(int, 0))
    found = schema.check_block({"inner": {"rate": 1}}, outer, "")
    self.assertEqual(found, {"inner": {"rate": 1.0}})
    for values, message in (
      ({"inner": {"rate": 2}}, "^inner.rate=2: expected"),
      ({"inner": {"rat": 2}}, "^inner.rat means .* did you mean inner.rate[?]"),
      ({"iner": {}}, "^config.iner means nothing to all; did you mean config.inner"),
      ({}, "^config.inner is missing; .*: a block with rate"),
      ({"inner": None}, "^inner is None; expected a block"),
      ({"inner": {"rate": 1}, "more": "x"}, "^config.more='x': expected a whole"),
      ({"inner": {"rate": 1}, 3: "x"}, "^config.3 means nothing to all"),
    ):
      with self.assertRaisesRegex(UserError, message):
        schema.check_block(values, outer, "")

  def test_a_placeholder_without_a_value_is_named(self):
    values = ml_collections.ConfigDict()
    values.rate = config_dict.required_placeholder(float)
    with self.assertRaisesRegex(UserError, "a.rate has no value yet; --a.rate=VALUE"):
      build(Settings, values, "a")

  @parameterized.parameters(Any, Callable, list, dict[str, int], np.ndarray)
  def test_an_annotation_that_says_nothing_is_an_error_of_ours(self, annotation):
    def take(first: int, second: annotation):
      del first, second

    with self.assertRaisesRegex(TypeError, "take.second: .* which values"):
      block(take)
    self.assertEqual(list(block(take, without=("second",)).fields), ["first"])


if __name__ == "__main__":
  absltest.main()
