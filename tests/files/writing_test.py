"""Files are written whole or not at all, and a full disk is one clear error."""

import errno
import json
import os
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import jax

from lamd_jax.files import reading, writing
from lamd_jax.types import UserError

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class JSONTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.path = self.folder / "deep" / "a.json"

  def test_values_come_back_in_a_file_that_others_can_read(self):
    values = {"b": [1, 2.5, None], "a": {"text": "caf\N{LATIN SMALL LETTER E}"}}
    writing.write_json(self.path, values)
    self.assertEqual(reading.read_json(self.path), values)
    text = self.path.read_text("utf-8")
    self.assertEqual(json.loads(text), values)
    self.assertTrue(text.endswith("}\n"))
    self.assertEqual([x.name for x in self.path.parent.iterdir()], ["a.json"])

  def test_a_write_that_fails_leaves_the_old_file(self):
    writing.write_json(self.path, {"a": 1})
    with (
      mock.patch.object(os, "replace", side_effect=FULL),
      self.assertRaisesRegex(UserError, "the disk is full: could not write to .*deep"),
    ):
      writing.write_json(self.path, {"a": 2})
    self.assertEqual(reading.read_json(self.path), {"a": 1})

  def test_a_folder_that_is_a_file_is_named(self):
    self.path.parent.write_text("mine")
    with self.assertRaisesRegex(UserError, "cannot write .*a.json .*choose another"):
      writing.write_text(self.path, "text")
    self.assertEqual(self.path.parent.read_text(), "mine")

  def test_only_process_0_writes(self):
    with mock.patch.object(jax, "process_index", return_value=1):
      writing.write_json(self.path, {"a": 1})
    self.assertEqual(list(self.folder.iterdir()), [])


class FullDiskTest(parameterized.TestCase):
  @parameterized.parameters(
    (FULL, True),
    (OSError(errno.EDQUOT, "over"), True),
    (ValueError("RESOURCE_EXHAUSTED: Disk quota exceeded"), True),
    (ExceptionGroup("two", [ValueError("a"), FULL]), True),
    (OSError(errno.EACCES, os.strerror(errno.EACCES)), False),
    (ValueError("a value"), False),
  )
  def test_a_full_disk_is_told_from_other_errors(self, error, expected):
    self.assertEqual(writing.is_full_disk(error), expected)

  def test_a_cause_counts(self):
    try:
      raise RuntimeError("could not save") from FULL
    except RuntimeError as e:
      self.assertTrue(writing.is_full_disk(e))

  def test_it_becomes_one_line_and_other_errors_pass(self):
    with (
      self.assertRaisesRegex(UserError, "^the disk is full: could not write to /a;"),
      writing.explain_full_disk("/a"),
    ):
      raise FULL
    for error in (KeyError("a"), UserError("no space left on device")):
      with self.assertRaises(type(error)) as caught, writing.explain_full_disk("/a"):
        raise error
      self.assertIs(caught.exception, error)


if __name__ == "__main__":
  absltest.main()
