"""The log of examples: the files of several processes combine into one order."""

import json
import pathlib
import tempfile

from absl.testing import absltest
import numpy as np

from lamd_jax.training import examples
from lamd_jax.types import UserError


class ExamplesTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def write(self, process, *lines):
    path = self.folder / f"examples_{process}.jsonl"
    with path.open("a") as file:
      for step, first_row, index in lines:
        rows = list(range(first_row, first_row + len(index)))
        line = {"step": step, "rows": rows, "index": index}
        file.write(json.dumps(line) + "\n")

  def test_what_is_written_is_read_and_goes_on(self):
    for steps in ((1, 2), (2, 3)):  # The second update is repeated.
      with examples.Log(self.folder / "stage", [1, 0], is_on=True) as log:
        for step in steps:
          log.write(step, np.array([step, 7], np.int32))
    self.assertEqual(
      examples.read(self.folder / "stage"), {1: [7, 1], 2: [7, 2], 3: [7, 3]}
    )

  def test_off_it_writes_nothing(self):
    with examples.Log(self.folder / "stage", [0], is_on=False) as log:
      log.write(1, np.array([1]))
    self.assertEmpty(list(self.folder.iterdir()))

  def test_files_of_processes_are_one_order_by_rows_and_updates(self):
    self.write(10, (2, 2, [5, 6]), (1, 2, [1, 2]))
    self.write(9, (2, 0, [3, 4]), (1, 0, [9, 8]))
    found = examples.read(self.folder)
    self.assertEqual(list(found.items()), [(1, [9, 8, 1, 2]), (2, [3, 4, 5, 6])])

  def test_one_process_goes_on_from_two(self):
    self.write(0, (1, 0, [4]), (2, 0, [6]))
    self.write(1, (1, 1, [5]), (2, 1, [7]))
    self.write(0, (2, 0, [6, 7]), (3, 0, [8, 9]))
    self.assertEqual(examples.read(self.folder), {1: [4, 5], 2: [6, 7], 3: [8, 9]})

  def test_a_line_that_was_cut_off_is_left_out(self):
    self.write(0, (1, 0, [4, 5]))
    with (self.folder / "examples_0.jsonl").open("a") as file:
      file.write('{"step": 2, "row')
    self.assertEqual(examples.read(self.folder), {1: [4, 5]})

  def test_rows_that_disagree_or_lack_are_told(self):
    self.write(0, (1, 0, [4, 5]))
    self.write(1, (1, 1, [6]))
    with self.assertRaisesRegex(UserError, "row 1 of update 1 is example 6, but 5 in"):
      examples.read(self.folder)
    (self.folder / "examples_0.jsonl").unlink()
    with self.assertRaisesRegex(UserError, "examples of update 1 are missing"):
      examples.read(self.folder)


if __name__ == "__main__":
  absltest.main()
