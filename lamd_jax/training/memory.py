"""How much memory training has taken, at the most."""

import resource
import sys

import jax


def host_peak_gb() -> float:
  """Most memory this process has held so far, in GB (10^9 bytes)."""
  # Kilobytes on Linux, bytes on macOS.
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def peak() -> dict[str, float]:
  """Returns `device_memory_gb`, or `host_memory_gb` where devices do not tell theirs.

  The first is of that device of this process which has held the most; what the
  compiled programs need for themselves is in it.
  """
  used = [
    stats["peak_bytes_in_use"]
    for device in jax.local_devices()
    if (stats := device.memory_stats()) and "peak_bytes_in_use" in stats
  ]
  if used:
    return {"device_memory_gb": max(used) / 1e9}
  return {"host_memory_gb": host_peak_gb()}
