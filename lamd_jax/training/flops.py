"""Arithmetic of a function, counted from its jaxpr; and what devices can do.

Counted are the multiplications and additions of matrix products and convolutions, two
for each pair, as is usual for model FLOPs; of convolutions only those that meet an
entry of the input, none in the padding or between dilated entries. Everything else is
elementwise and limited by memory. Nothing is compiled, so the count is the same for
every platform; where code differs between platforms, the accelerators' is counted.
"""

from collections.abc import Callable, Iterator
import math
from typing import Any, NamedTuple

from absl import logging
import jax
from jax.extend import core
import numpy as np


class Peak(NamedTuple):
  """What a device can do at best, by its vendor's data sheet.

  Attributes:
    flops: Of dense bfloat16 products in a second, without sparsity.
    bandwidth: Bytes of its memory in a second.
  """

  flops: float
  bandwidth: float


# Beginnings of `jax.Device.device_kind`, the more special before the more general.
PEAKS = {
  # cloud.google.com/tpu/docs: v4, v5e, v5p, v6e, tpu7x ("key chip specifications").
  "TPU v4": Peak(275e12, 1228e9),
  "TPU v5 lite": Peak(197e12, 819e9),
  "TPU v5": Peak(459e12, 2765e9),
  "TPU v6": Peak(918e12, 1640e9),
  # nvidia.com: data sheets of A100, H100, H200 and of HGX B200, halved where they
  # give the rate with sparsity.
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
  """Returns what a kind of device can do; None if that is not known, as of a CPU."""
  return next((x for kind, x in PEAKS.items() if device_kind.startswith(kind)), None)


def count_flops(fn: Callable[..., Any], *args: Any) -> float:
  """Returns the floating-point operations of one call of a function.

  A loop whose length is not known before it runs is counted once, with a warning; of
  branches the most expensive one counts. Rematerialised parts count as often as they
  are computed: for the utilisation of a device by a model, count without.

  Args:
    fn: Traced, not run; it may be compiled by `jax.jit`.
    *args: Of it; arrays or `jax.ShapeDtypeStruct`s.
  """
  # Options of a compiled function are for the outermost one alone, so it stays that.
  traced: Any = fn if hasattr(fn, "trace") else jax.jit(fn)
  return _count(traced.trace(*args).jaxpr.jaxpr)


def _count(jaxpr: core.Jaxpr) -> float:
  """Sums over equations, but for those whose results nobody needs."""
  total = 0.0
  # What chooses between platforms, and between which.
  platforms = {
    eqn.outvars[0]: eqn.params["platforms"]
    for eqn in jaxpr.eqns
    if eqn.primitive.name == "platform_index"
  }
  needed = {x for x in jaxpr.outvars if isinstance(x, core.Var)}
  for eqn in reversed(jaxpr.eqns):
    if needed.isdisjoint(eqn.outvars) and not eqn.effects:
      continue  # Such as the forward pass inside a gradient; compilers drop it too.
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
  """The programs that an equation calls: jit, remat, custom derivatives."""
  for value in values:
    if isinstance(value, core.ClosedJaxpr):
      yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
      yield value
    elif isinstance(value, tuple | list):
      yield from _inside(value)


def _product(eqn: Any) -> float:
  """Two for each entry of the result and each entry that is summed over."""
  (contracted, _), _ = eqn.params["dimension_numbers"]
  lhs = eqn.invars[0].aval.shape
  return (
    2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[i] for i in contracted)
  )


def _convolution(eqn: Any) -> float:
  """Two for each channel in and out, and each pair of places that meet."""
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
  # Of the kernel: what one group sees. Groups of the batch share the examples.
  in_channels = rhs[numbers.rhs_spec[1]]
  return 2.0 * batch * out_channels * in_channels * pairs


def _meetings(size, kernel, out, stride, before, lhs_dilation, rhs_dilation) -> int:
  """Along one axis: how often an entry of the kernel meets one of the input."""
  place = np.arange(out)[:, None] * stride + np.arange(kernel) * rhs_dilation - before
  real = (place >= 0) & (place <= (size - 1) * lhs_dilation)
  return int((real & (place % lhs_dilation == 0)).sum())
