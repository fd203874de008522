"""What generated kernels call, on a GPU. `trtcore_plugins.codegen.interpreted` has the same names for the CPU.

Functions are libdevice's, which are CUDA's own: those that torch's kernels call. Division and square root are
rounded correctly, as torch's are. Importing this module loads Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def round_float16(x):
    return x.to(tl.float16).to(tl.float32)


@triton.jit
def round_bfloat16(x):
    return x.to(tl.bfloat16).to(tl.float32)


@triton.jit
def load(pointer, mask):
    return tl.load(pointer, mask=mask, other=0)


@triton.jit
def load_half(pointer, mask):
    return tl.load(pointer, mask=mask, other=0).to(tl.float32)


@triton.jit
def store(pointer, value, mask):
    tl.store(pointer, value, mask=mask)


@triton.jit
def store_float16(pointer, value, mask):
    tl.store(pointer, value.to(tl.float16), mask=mask)


@triton.jit
def store_bfloat16(pointer, value, mask):
    tl.store(pointer, value.to(tl.bfloat16), mask=mask)


@triton.jit
def divide(x, magic, shift):
    n = x.to(tl.uint32)
    high = tl.umulhi(n, tl.full((1, 1), magic, tl.int32).to(tl.uint32))
    return ((high + n) >> tl.full((1, 1), shift, tl.int32).to(tl.uint32)).to(tl.int32)


@triton.jit
def fast_exp(x):
    return tl.exp(x)


@triton.jit
def fast_div(x, y):
    return x / y


@triton.jit
def not_(x):
    return x == 0


@triton.jit
def div(x, y):
    return tl.math.div_rn(x, y)


@triton.jit
def sqrt(x):
    return tl.math.sqrt_rn(x) if x.dtype == tl.float32 else libdevice.sqrt(x)


@triton.jit
def maximum(x, y):
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(x, y):
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def fmax(x, y):
    return tl.where(x != x, y, tl.where(y != y, x, tl.maximum(x, y)))


@triton.jit
def fmin(x, y):
    return tl.where(x != x, y, tl.where(y != y, x, tl.minimum(x, y)))


@triton.jit
def remainder(x, y):
    rest = libdevice.fmod(x, y)
    return tl.where((rest != 0) & ((y < 0) != (rest < 0)), rest + y, rest)


@triton.jit
def floor_div(x, y):
    rest = libdevice.fmod(x, y)
    quotient = (x - rest) / y if x.dtype == tl.float64 else tl.math.div_rn(x - rest, y)
    quotient = tl.where((rest != 0) & ((y < 0) != (rest < 0)), quotient - 1.0, quotient)
    whole = libdevice.floor(quotient)
    whole = tl.where(quotient - whole > 0.5, whole + 1.0, whole)
    exact = x / y if x.dtype == tl.float64 else tl.math.div_rn(x, y)
    whole = tl.where(quotient == 0, libdevice.copysign(quotient * 0.0, exact), whole)
    return tl.where(y == 0, exact, whole)


@triton.jit
def rem(x, y):
    return x % y


@triton.jit
def remainder_int(x, y):
    rest = x % y
    return tl.where((rest != 0) & ((y < 0) != (rest < 0)), rest + y, rest)


@triton.jit
def trunc_div_int(x, y):
    return x // y


@triton.jit
def floor_div_int(x, y):
    quotient = x // y
    rest = x % y
    return tl.where((rest != 0) & ((y < 0) != (rest < 0)), quotient - 1, quotient)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _smaller(a, b):
    return tl.minimum(a, b)


@triton.jit
def _larger_or_nan(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _smaller_or_nan(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _added(a, b):
    return a + b


@triton.jit
def _multiplied(a, b):
    return a * b


@triton.jit
def row_sum(x):
    return tl.reduce(x, 1, _added, keep_dims=True)


@triton.jit
def row_prod(x):
    return tl.reduce(x, 1, _multiplied, keep_dims=True)


@triton.jit
def row_max(x):
    return tl.reduce(x, 1, _larger, keep_dims=True)


@triton.jit
def row_min(x):
    return tl.reduce(x, 1, _smaller, keep_dims=True)


@triton.jit
def row_max_nan(x):
    return tl.reduce(x, 1, _larger_or_nan, keep_dims=True)


@triton.jit
def row_min_nan(x):
    return tl.reduce(x, 1, _smaller_or_nan, keep_dims=True)


@triton.jit
def exp(x):
    return libdevice.exp(x)


@triton.jit
def _finite(peak):
    """What is subtracted in the place of a maximum: minus infinity less itself would be NaN."""
    return tl.where(peak == float("-inf"), 0.0, peak)


@triton.jit
def online_exp(peak, total, x, GROUP: tl.constexpr):
    """The maximum and the sum of ``exp(x - maximum)`` of some lanes, with the numbers of a tile added.

    GROUP neighbours along the columns, which one thread holds, share a lane: one correction of the sum for all of them.
    """
    if GROUP > 1:
        x = tl.reshape(x, (x.shape[0], x.shape[1] // GROUP, GROUP))
        larger = maximum(peak, tl.reduce(x, 2, _larger_or_nan))
        shift = _finite(larger)
        added = tl.reduce(exp(x - tl.expand_dims(shift, 2)), 2, _added)
    else:
        larger = maximum(peak, x)
        shift = _finite(larger)
        added = exp(x - shift)
    return larger, total * exp(peak - shift) + added


@triton.jit
def online_fast_exp(peak, total, x, GROUP: tl.constexpr):
    if GROUP > 1:
        x = tl.reshape(x, (x.shape[0], x.shape[1] // GROUP, GROUP))
        larger = maximum(peak, tl.reduce(x, 2, _larger_or_nan))
        shift = _finite(larger)
        added = tl.reduce(tl.exp(x - tl.expand_dims(shift, 2)), 2, _added)
    else:
        larger = maximum(peak, x)
        shift = _finite(larger)
        added = tl.exp(x - shift)
    return larger, total * tl.exp(peak - shift) + added


@triton.jit
def total_exp(total, peak, largest):
    """The sum over lanes whose sums are relative to `peak` each, relative to `largest`."""
    return row_sum(total * exp(peak - _finite(largest)))


@triton.jit
def total_fast_exp(total, peak, largest):
    return row_sum(total * tl.exp(peak - _finite(largest)))


@triton.jit
def exp2(x):
    return libdevice.exp2(x)


@triton.jit
def expm1(x):
    return libdevice.expm1(x)


@triton.jit
def log(x):
    return libdevice.log(x)


@triton.jit
def log2(x):
    return libdevice.log2(x)


@triton.jit
def log10(x):
    return libdevice.log10(x)


@triton.jit
def log1p(x):
    return libdevice.log1p(x)


@triton.jit
def sin(x):
    return libdevice.sin(x)


@triton.jit
def cos(x):
    return libdevice.cos(x)


@triton.jit
def tan(x):
    return libdevice.tan(x)


@triton.jit
def asin(x):
    return libdevice.asin(x)


@triton.jit
def acos(x):
    return libdevice.acos(x)


@triton.jit
def atan(x):
    return libdevice.atan(x)


@triton.jit
def sinh(x):
    return libdevice.sinh(x)


@triton.jit
def cosh(x):
    return libdevice.cosh(x)


@triton.jit
def tanh(x):
    return libdevice.tanh(x)


@triton.jit
def asinh(x):
    return libdevice.asinh(x)


@triton.jit
def acosh(x):
    return libdevice.acosh(x)


@triton.jit
def atanh(x):
    return libdevice.atanh(x)


@triton.jit
def erf(x):
    return libdevice.erf(x)


@triton.jit
def erfc(x):
    return libdevice.erfc(x)


@triton.jit
def erfinv(x):
    return libdevice.erfinv(x)


@triton.jit
def rsqrt(x):
    return libdevice.rsqrt(x)


@triton.jit
def pow(x, y):
    return libdevice.pow(x, y)


@triton.jit
def fmod(x, y):
    return libdevice.fmod(x, y)


@triton.jit
def floor(x):
    return libdevice.floor(x)


@triton.jit
def ceil(x):
    return libdevice.ceil(x)


@triton.jit
def trunc(x):
    return libdevice.trunc(x)


@triton.jit
def round(x):
    return libdevice.rint(x)


@triton.jit
def atan2(x, y):
    return libdevice.atan2(x, y)


@triton.jit
def hypot(x, y):
    return libdevice.hypot(x, y)


@triton.jit
def copysign(x, y):
    return libdevice.copysign(x, y)
