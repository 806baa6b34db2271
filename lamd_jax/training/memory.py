"""Peak memory of this process and its devices."""

import resource
import sys

import jax


def host_peak_gb() -> float:
  """Returns the peak resident memory of this process, in GB (10^9 bytes)."""
  # Kilobytes on Linux, bytes on macOS.
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def peak() -> dict[str, float]:
  """Returns `device_memory_gb`, or `host_memory_gb` where devices report none.

  The former is the peak of whichever of this process's devices has used the most,
  including the temporary buffers of compiled programs.
  """
  used = [
    stats["peak_bytes_in_use"]
    for device in jax.local_devices()
    if (stats := device.memory_stats()) and "peak_bytes_in_use" in stats
  ]
  if used:
    return {"device_memory_gb": max(used) / 1e9}
  return {"host_memory_gb": host_peak_gb()}
