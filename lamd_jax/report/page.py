"""Job: one self-contained page from what training, sampling and scoring left.

The page opens from disk and fetches nothing: clips are H.264 inside the page, and
curves are drawn into it. It can be written however far a job has come, and says what is
not there yet. `reading.py` reads the work folder, `view.py` makes plain values from it,
and the templates make them into HTML, with everything that came from a file escaped.
"""

import os
import pathlib
import re

import jinja2

from lamd_jax.files import writing
from lamd_jax.report.reading import read_folder
from lamd_jax.report.view import View, make_view
from lamd_jax.types import UserError

# Characters that HTML may not have: escape codes, and bytes that are not UTF-8.
NO_HTML = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]")


def write_report(workdir: str | os.PathLike) -> pathlib.Path:
  """Writes `report.html` into a work folder, whole or not at all.

  Args:
    workdir: A work folder, however far its job has come.

  Returns:
    The path of the page.

  Raises:
    UserError: There is no such folder.
  """
  workdir = pathlib.Path(workdir)
  if not workdir.is_dir():
    raise UserError(
      f"no work folder {str(workdir)!r} to report on: expected a folder that"
      " training wrote; see --workdir"
    )
  path = workdir / "report.html"
  writing.write_text(path, render(make_view(read_folder(workdir))))
  return path


def render(view: View) -> str:
  """Returns the page as HTML; text in `view` is escaped, never markup."""
  text = templates().get_template("page.html").render(view=view)
  return NO_HTML.sub("\N{REPLACEMENT CHARACTER}", text)


def templates() -> jinja2.Environment:
  """Returns the templates; all escape text, and a misspelt value is an error."""
  return jinja2.Environment(
    loader=jinja2.PackageLoader("lamd_jax.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
  )
