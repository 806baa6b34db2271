"""Conditions of each video: their arrays and shapes, and what is missing."""

import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import ml_collections
import numpy as np

from lamd_jax.data import vocabulary
from lamd_jax.experiment import captions, conditions
from lamd_jax.types import UserError

ENCODER = captions.TextEncoder("test", 100, 6, 5, lambda texts: None, lambda x: None)


class Source:
  """Annotations alone."""

  fps = 10.0
  num_classes = None

  def __init__(self, notes):
    self.notes, self.skipped = notes, []

  def __len__(self):
    return len(self.notes)

  def annotation(self, index):
    return self.notes[index]

  # Pixels are nobody's business here.
  num_frames = read = mock.Mock(side_effect=AssertionError)


def embed(encoder, texts, *, cache):
  """An embedding that tells its text: its length, at each of its words."""
  del encoder, cache
  mask = np.array([[i < len(t.split()) for i in range(5)] for t in texts])
  lengths = np.array([len(t) for t in texts], np.float16)
  values = lengths[:, None, None] * mask[..., None] * np.ones(6, np.float16)
  return captions.Embeddings(values.astype(np.float16), mask)


def config(kind="none", **condition):
  return ml_collections.ConfigDict(
    dict(condition=dict(kind=kind, dropout=0.1, **condition))
  )


def made(*args, **kwargs):
  """The conditions of such a configuration."""
  return conditions.make_conditions(config(*args, **kwargs))


CAPTION = dict(encoder="", num_tokens=5, text_channels=6)
# Three of the vocabulary are no words.
WORDS = dict(vocabulary="letters", num_words=3 + 4)
LETTERS = vocabulary.Vocabulary((*vocabulary.SPECIAL, "a", "b", "c", "d"), 6)


class ConditionsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enterContext(mock.patch.object(captions, "text_encoder", self.text_encoder))
    self.enterContext(mock.patch.object(captions, "embed", embed))
    known = mock.patch.dict(vocabulary.VOCABULARIES, letters=LETTERS)
    self.enterContext(known)

  def text_encoder(self, folder, *, num_tokens):
    self.assertEqual((folder, num_tokens), (None, 5))
    return ENCODER

  @parameterized.parameters(
    ("none", {}), ("class", dict(num_classes=9)), ("caption", CAPTION), ("words", WORDS)
  )
  def test_the_shapes_are_those_of_what_is_made(self, kind, values):
    wanted = config(kind, **values)
    source = Source([{"label": i, "caption": "a b"} for i in range(4)])
    describe = conditions.describer(conditions.make_conditions(wanted), source)
    found = {} if describe is None else dict(describe(2))
    expected = {
      name: jax.ShapeDtypeStruct((2, *x.shape), x.dtype) for name, x in found.items()
    }
    self.assertEqual(
      conditions.abstract(conditions.make_conditions(wanted), 2), expected
    )

  def test_a_configuration_without_the_block_has_no_conditions(self):
    for given in (ml_collections.ConfigDict(), config("none")):
      self.assertEmpty(conditions.make_conditions(given))
      self.assertEmpty(conditions.abstract(conditions.make_conditions(given), 2))
      self.assertIsNone(
        conditions.describer(conditions.make_conditions(given), Source([{}]))
      )
      conditions.check(conditions.make_conditions(given), Source([{}]))
    self.assertEqual(conditions.make_conditions(ml_collections.ConfigDict()), ())

  def test_each_kind_says_what_its_flag_and_its_arrays_are(self):
    for kind, values in (
      ("class", dict(num_classes=9)), ("caption", CAPTION), ("words", WORDS)
    ):  # fmt: skip
      (condition,) = conditions.make_conditions(config(kind, **values))
      self.assertEqual(condition.key, conditions.KEYS[kind])
      said = 3 if condition.key == "label" else "b a"
      arrays = condition.read([said, said], None)
      found = {k: (x.shape[1:], x.dtype) for k, x in arrays.items()}
      expected = {k: (x.shape, x.dtype) for k, x in condition.shapes.items()}
      self.assertEqual(found, expected)
    self.assertEqual({*conditions.KEYS}, {*conditions.KINDS})

  def test_each_video_has_its_own_label(self):
    source = Source([{"label": 3 * i} for i in range(3)])
    describe = conditions.describer(made("class", num_classes=7), source)
    self.assertEqual([int(describe(i)["label"]) for i in range(3)], [0, 3, 6])

  def test_only_the_videos_asked_for_are_described(self):
    source = Source([{}, {"caption": "one two"}, {}, {"caption": "three"}])
    describe = conditions.describer(made("caption", **CAPTION), source, [3, 1])
    self.assertEqual(describe(1)["text"][0, 0], 7)
    self.assertEqual(describe(3)["text"][0, 0], 5)
    self.assertEqual(describe(3)["text_mask"].tolist(), [True] + [False] * 4)

  def test_each_video_has_its_own_words(self):
    source = Source([{"caption": text} for text in ("b a", "d d d", "")])
    describe = conditions.describer(made("words", **WORDS), source, [2, 0])
    self.assertEqual(describe(0)["words"].tolist(), [1, 4, 3, 2, 0, 0])
    self.assertEqual(describe(2)["words"].tolist(), [1, 2, 0, 0, 0, 0])

  def test_words_of_a_file_are_those_of_its_lines(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    path = folder / "words.txt"
    path.write_text("c\nb\na\n")
    values = dict(vocabulary=str(path), num_words=6, num_tokens=4)
    source = Source([{"caption": "a c"}])
    describe = conditions.describer(made("words", **values), source)
    self.assertEqual(describe(0)["words"].tolist(), [1, 5, 3, 2])
    shape = conditions.abstract(made("words", **values), 2)["words"]
    self.assertEqual((shape.shape, shape.dtype), ((2, 4), np.int32))
    with self.assertRaisesRegex(UserError, "words.txt' is a file and needs .*num_tok"):
      conditions.describer(made("words", **(WORDS | {"vocabulary": str(path)})), source)

  def test_words_that_nobody_knows_are_found_before_training(self):
    source = Source([{"caption": "a b"}, {"caption": "a hat"}])
    wanted = config("words", **WORDS)
    conditions.check(conditions.make_conditions(wanted), Source([{"caption": "a b"}]))
    with self.assertRaisesRegex(UserError, "caption 'a hat': 'hat' is not in the voc"):
      conditions.check(
        conditions.make_conditions(wanted), Source([{"caption": "a b"}]), source
      )
    with self.assertRaisesRegex(UserError, "1 of 1 videos have no caption"):
      conditions.check(conditions.make_conditions(wanted), Source([{}]))
    for values, message in (
      (dict(num_words=9), "num_words=9; the vocabulary 'letters' has 7"),
      (
        dict(vocabulary="leters"),
        "'leters' is no file .*; known by name: cater_gen_v1",
      ),
    ):
      with self.assertRaisesRegex(UserError, message):
        conditions.check(made("words", **(WORDS | values)), Source([{"caption": "a"}]))

  def test_what_is_asked_for_is_said_of_every_video(self):
    said = conditions.asked(made("class", num_classes=3), 2, label=2)
    self.assertEqual(said["label"].tolist(), [2, 2])
    said = conditions.asked(made("words", **WORDS), 2, caption="d")
    self.assertEqual(said["words"].tolist(), [[1, 6, 2, 0, 0, 0]] * 2)
    said = conditions.asked(made("caption", **CAPTION), 2, caption="a b")
    self.assertEqual(said["text"][:, 0, 0].tolist(), [3, 3])
    self.assertEqual(said["text_mask"].sum(axis=1).tolist(), [2, 2])
    for kind in ("none", "class", "words"):
      self.assertEqual(conditions.asked(made(kind, num_classes=3, **WORDS), 2), {})

  def test_a_class_is_asked_for_by_number_or_by_its_own_name(self):
    notes = [
      {"label": 2, "class_name": "10.0"},
      {"label": 0, "class_name": "-1"},
      {"label": 1, "caption": "all clear"},
    ]
    number = lambda label: conditions.label_number(label, lambda: Source(notes))
    self.assertEqual([number(x) for x in ("10.0", "-1", "all clear")], [2, 0, 1])
    with self.assertRaisesRegex(UserError, "'clear' is no class .*'-1', '10.0', 'all"):
      number("clear")
    # Numbers need no videos, which may be gone.
    self.assertEqual(conditions.label_number("1", absltest.mock.Mock()), 1)
    self.assertEqual(conditions.label_number(-1, absltest.mock.Mock()), -1)

  @parameterized.parameters(
    ("class", dict(label=3), "--label=3: expected 0 to 2"),
    ("class", dict(label=-1), "--label=-1: expected 0 to 2"),
    ("class", dict(caption="x"), "--caption: .* is 'class', not 'caption' or 'words'"),
    ("words", dict(label=0), "--label: .* is 'words', not 'class'"),
    ("none", dict(label=0), "--label: .* is 'none', not 'class'"),
    ("words", dict(caption="a hat"), "'hat' is not in the vocabulary"),
  )
  def test_what_a_model_does_not_know_cannot_be_asked_for(self, kind, said, message):
    with self.assertRaisesRegex(UserError, message):
      conditions.asked(made(kind, num_classes=3, **WORDS), 2, **said)

  def test_what_is_missing_is_named(self):
    source = Source([{"label": 0}, {"label": 9}, {}])
    with self.assertRaisesRegex(UserError, "1 of 3 videos have no label.* number 2"):
      conditions.describer(made("class", num_classes=10), source)
    with self.assertRaisesRegex(
      UserError, "video 1 has the label 9; .*=9 knows 0 to 8"
    ):
      conditions.describer(made("class", num_classes=9), source, [0, 1])
    with self.assertRaisesRegex(UserError, "3 of 3 videos have no caption"):
      conditions.describer(made("caption", **CAPTION), source)
    with self.assertRaisesRegex(UserError, "1 of 3 videos have no label"):
      conditions.check(made("class", num_classes=10), source)
    wrong = config("caption", **CAPTION | {"text_channels": 7})
    with self.assertRaisesRegex(UserError, "text_channels=7"):
      conditions.check(conditions.make_conditions(wrong), Source([{"caption": "a"}]))
    with self.assertRaisesRegex(UserError, "text_channels=7; the text encoder gives 6"):
      conditions.asked(conditions.make_conditions(wrong), 2, caption="a")


if __name__ == "__main__":
  absltest.main()
