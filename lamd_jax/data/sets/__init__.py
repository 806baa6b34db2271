"""Data sets, one file each: origin, license, splits and how they are read."""
