"""Messages that a terminal shows as they are, whatever is in the names of files."""

import os

from absl.testing import absltest, parameterized

from lamd_jax import types


class PrintableTest(parameterized.TestCase):
  @parameterized.parameters(
    ("clip 1.mp4", "clip 1.mp4"),
    ("caf\u00e9 \u732b.mp4", "caf\u00e9 \u732b.mp4"),
    (os.fsdecode(b"caf\xe9.mp4"), r"caf\xe9.mp4"),
    ("two\nlines\t", r"two\nlines\t"),
    ("\x1b[31mred", r"\x1b[31mred"),
    ("\u202eright to left", r"\u202eright to left"),
    ("\ud800", r"\ud800"),
  )
  def test_what_does_not_print_is_escaped(self, text, expected):
    self.assertEqual(types.printable(text), expected)
    self.assertEqual(str(types.UserError(text)).isprintable(), True)

  def test_a_message_is_one_line_of_some_length_whatever_it_quotes(self):
    text = str(types.UserError("a library said:\n  " + "x" * 10_000 + "; do this"))
    self.assertStartsWith(text, "a library said: xxx")
    self.assertEndsWith(text, "xxx; do this")
    self.assertLess(len(text), 1500)


if __name__ == "__main__":
  absltest.main()
