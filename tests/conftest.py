"""Eight CPU devices for every test, and quick compilation, before JAX starts."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
  os.environ["XLA_FLAGS"] = " ".join(
    (
      os.environ.get("XLA_FLAGS", ""),
      "--xla_force_host_platform_device_count=8",
      # Tests run each program once or twice: compiling is what takes the time.
      "--xla_backend_optimization_level=0",
      "--xla_llvm_disable_expensive_passes=true",
    )
  )
