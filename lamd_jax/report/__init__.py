"""The report of a work folder: one self-contained page."""
