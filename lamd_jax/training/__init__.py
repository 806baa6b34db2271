"""Building blocks of a training loop, independent of any system."""
