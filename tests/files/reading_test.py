"""Damaged files are one line that names them, whatever the damage."""

import json
import pathlib
import tempfile

from absl.testing import absltest, parameterized

from lamd_jax.files import reading
from lamd_jax.types import UserError


class JSONTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.path = folder / "a.json"

  @parameterized.parameters(
    ('{"a": ', "Expecting value"),
    ("", "Expecting value"),
    ("\xff\xfe", "can't decode byte"),
    ("[1]", "it holds no JSON object"),
    ("[" * 100_000, "it nests too deep"),
    ('{"a":' * 200 + "1" + "}" * 200, "it nests too deep"),
    ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
  )
  def test_a_damaged_file_is_named_with_the_reason(self, text, reason):
    self.path.write_bytes(text.encode("latin-1"))
    with self.assertRaisesRegex(UserError, f"a.json is damaged .*{reason}.*; restore"):
      reading.read_json(self.path)

  def test_a_folder_and_nothing_are_no_files(self):
    with self.assertRaisesRegex(UserError, "a.json is damaged .No such file"):
      reading.read_json(self.path)
    self.path.mkdir()
    with self.assertRaisesRegex(UserError, "a.json is damaged .Is a directory.; write"):
      reading.read_json(self.path, "write it")

  def test_a_huge_file_is_not_read(self):
    with self.path.open("w") as file:
      file.truncate(reading.MAX_JSON_BYTES + 1)
    with self.assertRaisesRegex(UserError, "a.json is damaged .it is larger than"):
      reading.read_json(self.path)

  def test_what_is_whole_comes_back(self):
    values = {"a": [{"b": [[[]]]}, 1e300], "c": None}
    self.path.write_text(json.dumps(values))
    self.assertEqual(reading.read_json(self.path), values)


if __name__ == "__main__":
  absltest.main()
