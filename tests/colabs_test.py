"""The notebooks: run as they are, and clean as committed."""

import os
import pathlib
import re
import runpy
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import nbclient
import nbformat
import numpy as np
from PIL import Image
import pytest

from lamd_jax.data import media

ROOT = pathlib.Path(__file__).resolve().parents[1]
COLABS = ROOT / "colabs"
NOTEBOOKS = sorted(path.name for path in COLABS.glob("*.ipynb"))


def read(name):
  return nbformat.read(COLABS / name, as_version=4)


def find_parameters(notebook):
  """Position of the cell that is made to be edited."""
  (position,) = (
    i
    for i, cell in enumerate(notebook.cells)
    if "parameters" in cell.metadata.get("tags", ())
  )
  return position


def readme_example():
  """The first example in Python that loads a model."""
  for path in (ROOT / "README.md", ROOT / "lamd_jax" / "README.md"):
    for block in re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.S | re.M):
      if "lamd_jax.load(" in block:
        return block
  raise AssertionError("no README loads a model in Python")


class CommittedTest(parameterized.TestCase):
  def test_there_are_notebooks(self):
    self.assertNotEmpty(NOTEBOOKS)

  @parameterized.parameters((name,) for name in NOTEBOOKS)
  def test_a_notebook_is_valid_and_has_no_outputs(self, name):
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in notebook.cells:
      if cell.cell_type == "code":
        self.assertEmpty(cell.outputs)
        self.assertIsNone(cell.execution_count)

  @parameterized.parameters((name,) for name in NOTEBOOKS)
  def test_a_notebook_names_no_path_of_one_machine(self, name):
    text = (COLABS / name).read_text(encoding="utf-8")
    self.assertNotRegex(text, r"/(home|root|tmp|work|Users|content|mnt)/|[A-Z]:\\\\")


class QuickstartTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    names = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")
    environment = dict.fromkeys(names, str(self.folder / "jupyter"))
    self.enterContext(mock.patch.dict(os.environ, environment))

  def run_quickstart(self, *more_cells, **parameters):
    """Runs the notebook with other parameters, then more cells; returns its cells."""
    notebook = read("quickstart.ipynb")
    position = find_parameters(notebook)
    for name in parameters:
      self.assertRegex(notebook.cells[position].source, rf"(?m)^{name} = ")
    lines = [f"{name} = {value!r}" for name, value in parameters.items()]
    new_cell = nbformat.v4.new_code_cell
    notebook.cells.insert(position + 1, new_cell("\n".join(lines)))
    notebook.cells += [new_cell(source) for source in more_cells]
    nbclient.NotebookClient(
      notebook,
      timeout=600,
      kernel_name="python3",
      resources={"metadata": {"path": str(self.folder)}},
    ).execute()
    return {cell.id: cell for cell in notebook.cells}

  def test_its_own_parameters_name_a_configuration_of_this_repository(self):
    notebook = read("quickstart.ipynb")
    values = {}
    exec(notebook.cells[find_parameters(notebook)].source, values)
    path = COLABS / values["REPOSITORY"] / values["CONFIG"]
    config = runpy.run_path(str(path))["get_config"](values["ARGUMENT"])
    self.assertEqual(config.system, "lamd")
    self.assertEqual(values["PICTURE"], "")

  def assert_shows_videos(self, cell, count):
    html = "".join(
      output.data["text/html"]
      for output in cell.outputs
      if output.output_type == "display_data"
    )
    self.assertEqual(html.count('src="data:video/mp4;base64,'), count)

  @pytest.mark.process
  def test_it_runs_and_the_readme_animates_a_picture_with_what_it_trained(self):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(self.folder / "photo.png")
    cells = self.run_quickstart(
      # Without the names of the notebook: the example must be complete.
      f"exec({readme_example()!r}, {{}})",
      REPOSITORY=str(ROOT),
      CONFIG="tests/tiny/tiny_config.py",  # Of 3 clips, with 2 samples of each.
      ARGUMENT="",
      WORKDIR="runs/quickstart",
    )
    workdir = self.folder / "runs" / "quickstart"
    for name in ("report.html", "metrics.json"):
      self.assertTrue((workdir / name).is_file(), name)
    videos = {f"{path.parent.name}/{path.stem}" for path in workdir.glob("*/*.mp4")}
    self.assertContainsSubset(
      {
        *("samples/real_2", "samples/reconstructed_2", "samples/sample_2_1"),
        *("animated/picture_0", "animated/picture_1"),
      },
      videos,
    )
    outputs = [*cells["train"].outputs, *cells["sample"].outputs]
    said = "".join(output.get("text", "") for output in outputs)
    self.assertIn("step 4/4", said)
    self.assertNotIn("WARNING", said)
    self.assert_shows_videos(cells["sample"], 3 * 4)
    self.assert_shows_videos(cells["animate"], 2)
    # What the example says of the file that it writes: the model's frames and rate.
    written = media.probe(self.folder / "photo.mp4")
    clip = media.probe(workdir / "samples" / "real_2.mp4")
    self.assertEqual((written.num_frames, written.fps), (clip.num_frames, clip.fps))


if __name__ == "__main__":
  absltest.main()
