"""Data sets, a file each: where they come from, how they are split and read."""
