"""A file of merges as large as CLIP's, of which a few are of English."""

import gzip
import itertools

# In order of their rank.
ENGLISH = (
  "t h",
  "th e</w>",
  "c a",
  "ca t</w>",
  "ca t",
  "cat s</w>",
  "i n",
  "in g</w>",
  "n ing</w>",
  "r u",
  "ru n",
  "run ning</w>",
  "' s</w>",
  "! !",
  "!! !</w>",
  "Ã ©</w>",  # The two bytes of an e with an acute.
)


def write(path):
  """Writes the file; like CLIP's it has a title, and more lines than are used."""
  # The characters that stand for bytes above 127 and for control characters.
  letters = [*map(chr, (*range(161, 173), *range(174, 324)))]
  rare = (
    f"{a} {b}{end}"
    for end in ("", "</w>")
    for a, b in itertools.product(letters, letters)
  )
  lines = ["#version: 0.2", *ENGLISH, *(line for line in rare if line not in ENGLISH)]
  with gzip.open(path, "wt", encoding="utf-8") as file:
    file.write("\n".join(lines) + "\n")
