"""Peak memory: of devices that report it, otherwise of the process."""

import pathlib
import re
from unittest import mock

from absl.testing import absltest
import jax

from lamd_jax.training import memory

STATUS = pathlib.Path("/proc/self/status")


class MemoryTest(absltest.TestCase):
  def peak(self, *stats):
    devices = [mock.Mock(memory_stats=mock.Mock(return_value=x)) for x in stats]
    with mock.patch.object(jax, "local_devices", lambda: devices):
      return memory.peak()

  def test_it_is_that_of_the_fullest_device(self):
    used = [{"peak_bytes_in_use": x, "bytes_in_use": 9e9} for x in (3e9, 5e9, 4e9)]
    self.assertEqual(self.peak(*used), {"device_memory_gb": 5.0})

  def test_where_devices_do_not_tell_it_is_the_process(self):
    for stats in (None, {}):
      (name,) = self.peak(stats, stats)
      self.assertEqual(name, "host_memory_gb")

  @absltest.skipUnless(STATUS.exists(), "no /proc")
  def test_the_process_s_peak_is_what_the_system_says(self):
    kib = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    assert kib is not None
    expected = int(kib[1]) * 1024 / 1e9
    self.assertAlmostEqual(memory.host_peak_gb(), expected, delta=0.05 * expected)


if __name__ == "__main__":
  absltest.main()
