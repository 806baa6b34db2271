"""FLOPs of a function, counted from its jaxpr, and the peak rates of devices.

As is usual for model FLOPs, only matrix products and convolutions count, with two
operations for each multiply-add. For convolutions, taps that fall in the padding or
between dilated entries do not count. Everything else is elementwise and limited by
memory. Nothing is compiled, so the count is the same on every platform; where code
differs between platforms, the accelerators' branch is counted.
"""

from collections.abc import Callable, Iterator
import math
from typing import Any, NamedTuple

from absl import logging
import jax
from jax.extend import core
import numpy as np


class Peak(NamedTuple):
  """Peak rates of a device, from its vendor's data sheet.

  Attributes:
    flops: FLOPs per second of dense bfloat16 products, without sparsity.
    bandwidth: Memory bandwidth in bytes per second.
  """

  flops: float
  bandwidth: float


# Keys are prefixes of `jax.Device.device_kind`, the more specific ones first.
PEAKS = {
  # cloud.google.com/tpu/docs: v4, v5e, v5p, v6e, tpu7x ("key chip specifications").
  "TPU v4": Peak(275e12, 1228e9),
  "TPU v5 lite": Peak(197e12, 819e9),
  "TPU v5": Peak(459e12, 2765e9),
  "TPU v6": Peak(918e12, 1640e9),
  # nvidia.com: data sheets of A100, H100, H200 and HGX B200, halved where they state
  # the rate with sparsity.
  "NVIDIA A100-SXM4-40GB": Peak(312e12, 1555e9),
  "NVIDIA A100-PCIE-40GB": Peak(312e12, 1555e9),
  "NVIDIA A100 80GB PCIe": Peak(312e12, 1935e9),
  "NVIDIA A100": Peak(312e12, 2039e9),
  "NVIDIA H100 PCIe": Peak(756e12, 2000e9),
  "NVIDIA H100": Peak(989e12, 3350e9),
  "NVIDIA H200": Peak(989e12, 4800e9),
  "NVIDIA B200": Peak(2250e12, 8000e9),
}


def peak(device_kind: str) -> Peak | None:
  """Returns the peak rates of a kind of device; None if unknown, such as for a CPU."""
  return next((x for kind, x in PEAKS.items() if device_kind.startswith(kind)), None)


def count_flops(fn: Callable[..., Any], *args: Any) -> float:
  """Counts the floating-point operations of one call of a function.

  A loop of unknown length counts as one iteration, with a warning; among branches, the
  most expensive one counts. Rematerialized parts count as often as they are computed:
  to measure utilization (MFU), count the function without rematerialization.

  Args:
    fn: Function to trace; it is not run. It may be a `jax.jit` function.
    *args: Arguments of the function, as arrays or `jax.ShapeDtypeStruct`s.
  """
  # Compiler options are allowed on the outermost `jit` only, so it is not wrapped.
  traced: Any = fn if hasattr(fn, "trace") else jax.jit(fn)
  return _count(traced.trace(*args).jaxpr.jaxpr)


def _count(jaxpr: core.Jaxpr) -> float:
  """Sums over the equations whose results are needed."""
  total = 0.0
  # Variables that select between platforms, each with its platforms.
  platforms = {
    eqn.outvars[0]: eqn.params["platforms"]
    for eqn in jaxpr.eqns
    if eqn.primitive.name == "platform_index"
  }
  needed = {x for x in jaxpr.outvars if isinstance(x, core.Var)}
  for eqn in reversed(jaxpr.eqns):
    if needed.isdisjoint(eqn.outvars) and not eqn.effects:
      continue  # Such as a forward pass in a gradient; compilers drop it too.
    needed |= {x for x in eqn.invars if isinstance(x, core.Var)}
    params = eqn.params
    match eqn.primitive.name:
      case "dot_general":
        total += _product(eqn)
      case "conv_general_dilated":
        total += _convolution(eqn)
      case "scan":
        total += params["length"] * _count(params["jaxpr"].jaxpr)
      case "while":
        once = sum(_count(params[f"{x}_jaxpr"].jaxpr) for x in ("cond", "body"))
        if once:
          logging.warning("a loop of unknown length is counted once (%.3g FLOPs)", once)
        total += once
      case "cond":
        index = eqn.invars[0]
        chosen = platforms.get(index) if isinstance(index, core.Var) else None
        branches = params["branches"]
        if chosen is not None:
          branches = [branches[chosen.index(None)]]
        total += max(_count(branch.jaxpr) for branch in branches)
      case _:
        total += sum(_count(inner) for inner in _inside(params.values()))
  return total


def _inside(values: Any) -> Iterator[core.Jaxpr]:
  """Yields the jaxprs that an equation calls: jit, remat, custom derivatives."""
  for value in values:
    jaxpr = getattr(value, "jaxpr", value)  # Inside a closed one.
    if isinstance(jaxpr, core.Jaxpr):
      yield jaxpr
    elif isinstance(value, tuple | list):
      yield from _inside(value)


def _product(eqn: Any) -> float:
  """Counts a matrix product: two per entry of the result and entry summed over."""
  (contracted, _), _ = eqn.params["dimension_numbers"]
  lhs = eqn.invars[0].aval.shape
  return (
    2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[i] for i in contracted)
  )


def _convolution(eqn: Any) -> float:
  """Counts a convolution: two per pair of channels and pair of meeting positions."""
  params = eqn.params
  numbers = params["dimension_numbers"]
  lhs, rhs = (x.aval.shape for x in eqn.invars)
  out = eqn.outvars[0].aval.shape
  pairs = 1
  for axis, (i, k, o) in enumerate(
    zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
  ):
    pairs *= _meetings(
      lhs[i],
      rhs[k],
      out[o],
      params["window_strides"][axis],
      params["padding"][axis][0],
      params["lhs_dilation"][axis],
      params["rhs_dilation"][axis],
    )
  batch, out_channels = (out[i] for i in numbers.out_spec[:2])
  # The kernel has the channels of one group. Batch groups share the examples.
  in_channels = rhs[numbers.rhs_spec[1]]
  return 2.0 * batch * out_channels * in_channels * pairs


def _meetings(size, kernel, out, stride, before, lhs_dilation, rhs_dilation) -> int:
  """Counts along one axis how often a kernel entry meets an input entry."""
  place = np.arange(out)[:, None] * stride + np.arange(kernel) * rhs_dilation - before
  real = (place >= 0) & (place <= (size - 1) * lhs_dilation)
  return int((real & (place % lhs_dilation == 0)).sum())
