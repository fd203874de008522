"""What generated kernels call, under Triton's interpreter: the names of `trtcore_plugins.codegen.device` in torch.

The interpreter knows no libdevice, rounds to bfloat16 by cutting off, and skips NaN in maxima. Indexing, masks,
loops and accumulators, which is what a generated kernel consists of, are its own. Importing this loads Triton.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction, TensorHandle

__all__ = ["InterpretedFunction"]

_TL = {
    torch.float64: tl.float64, torch.float32: tl.float32, torch.float16: tl.float16, torch.int64: tl.int64,
    torch.int32: tl.int32, torch.int16: tl.int16, torch.int8: tl.int8, torch.uint8: tl.uint8, torch.bool: tl.int1,
}  # fmt: skip


def _torch(x: Any) -> torch.Tensor:
    """A block as a torch tensor; numbers too."""
    data = x.handle.data if isinstance(x, tl.tensor) else np.asarray(x)
    return torch.from_numpy(np.ascontiguousarray(data).reshape(data.shape))


def _block(x: torch.Tensor, dtype: Any = None) -> Any:
    data = x.numpy()
    kind = dtype or _TL[x.dtype]
    return tl.tensor(TensorHandle(data, kind), tl.block_type(kind, list(data.shape)))


def _from_torch(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    def called(*args: Any) -> Any:
        return _block(function(*(_torch(arg) for arg in args)))

    return called


def round_float16(x: Any) -> Any:
    return _block(_torch(x).half().float())


def round_bfloat16(x: Any) -> Any:
    return _block(_torch(x).bfloat16().float())


def loop(*bounds: Any) -> range:
    """Python's range over sizes, which the interpreter has as blocks of one element."""
    return range(*(int(_torch(bound)) for bound in bounds))


def load(pointer: Any, mask: Any) -> Any:
    return tl.load(pointer, mask=mask, other=0)


def load_half(pointer: Any, mask: Any) -> Any:
    block = tl.load(pointer, mask=mask, other=0)
    if block.dtype == tl.bfloat16:
        bits = block.handle.data.astype(np.uint32) << 16
        return _block(torch.from_numpy(bits.view(np.float32)))
    return block.to(tl.float32)


def store(pointer: Any, value: Any, mask: Any) -> None:
    tl.store(pointer, value, mask=mask)


def store_float16(pointer: Any, value: Any, mask: Any) -> None:
    tl.store(pointer, _block(_torch(value).half()), mask=mask)


def store_bfloat16(pointer: Any, value: Any, mask: Any) -> None:
    bits = _torch(value).bfloat16().view(torch.int16).numpy().view(np.uint16)
    kind = tl.bfloat16
    tl.store(pointer, tl.tensor(TensorHandle(bits, kind), tl.block_type(kind, list(bits.shape))), mask=mask)


def divide(x: Any, magic: Any, shift: Any) -> Any:
    n, m = _torch(x).long(), _torch(magic).long() & 0xFFFFFFFF
    return _block((((n * m) >> 32) + n >> _torch(shift).long()).int())


def _c_quotient(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.div(x, torch.where(y == 0, torch.ones_like(y), y), rounding_mode="trunc")


def _floor_quotient(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.div(x, torch.where(y == 0, torch.ones_like(y), y), rounding_mode="floor")


not_ = _from_torch(torch.logical_not)
div = fast_div = _from_torch(torch.div)
maximum = _from_torch(torch.maximum)
minimum = _from_torch(torch.minimum)
fmax = _from_torch(torch.fmax)
fmin = _from_torch(torch.fmin)
remainder = _from_torch(torch.remainder)
floor_div = _from_torch(torch.floor_divide)
rem = _from_torch(lambda x, y: x - _c_quotient(x, y) * y)
remainder_int = _from_torch(lambda x, y: x - _floor_quotient(x, y) * y)
trunc_div_int = _from_torch(_c_quotient)
floor_div_int = _from_torch(_floor_quotient)

row_sum = _from_torch(lambda x: x.sum(1, keepdim=True, dtype=x.dtype))
row_prod = _from_torch(lambda x: x.prod(1, keepdim=True, dtype=x.dtype))
row_max = row_max_nan = _from_torch(lambda x: x.amax(1, keepdim=True))
row_min = row_min_nan = _from_torch(lambda x: x.amin(1, keepdim=True))


def _finite(peak: torch.Tensor) -> torch.Tensor:
    return torch.where(peak == -torch.inf, 0.0, peak)


def online_exp(peak: Any, total: Any, x: Any, group: int) -> tuple[Any, Any]:
    before, numbers = _torch(peak), _torch(x)
    numbers = numbers.reshape(numbers.shape[0], -1, group)
    larger = torch.maximum(before, numbers.amax(2))
    shift = _finite(larger)
    added = (numbers - shift[:, :, None]).exp().sum(2)
    return _block(larger), _block(_torch(total) * (before - shift).exp() + added)


def total_exp(total: Any, peak: Any, largest: Any) -> Any:
    return row_sum(_block(_torch(total) * (_torch(peak) - _finite(_torch(largest))).exp()))


online_fast_exp, total_fast_exp = online_exp, total_exp

sqrt = _from_torch(torch.sqrt)
exp = fast_exp = _from_torch(torch.exp)
exp2 = _from_torch(torch.exp2)
expm1 = _from_torch(torch.expm1)
log = _from_torch(torch.log)
log2 = _from_torch(torch.log2)
log10 = _from_torch(torch.log10)
log1p = _from_torch(torch.log1p)
sin = _from_torch(torch.sin)
cos = _from_torch(torch.cos)
tan = _from_torch(torch.tan)
asin = _from_torch(torch.asin)
acos = _from_torch(torch.acos)
atan = _from_torch(torch.atan)
sinh = _from_torch(torch.sinh)
cosh = _from_torch(torch.cosh)
tanh = _from_torch(torch.tanh)
asinh = _from_torch(torch.asinh)
acosh = _from_torch(torch.acosh)
atanh = _from_torch(torch.atanh)
erf = _from_torch(torch.erf)
erfc = _from_torch(torch.erfc)
erfinv = _from_torch(torch.erfinv)
rsqrt = _from_torch(torch.rsqrt)
pow = _from_torch(torch.pow)
fmod = _from_torch(torch.fmod)
floor = _from_torch(torch.floor)
ceil = _from_torch(torch.ceil)
trunc = _from_torch(torch.trunc)
round = _from_torch(torch.round)
atan2 = _from_torch(torch.atan2)
hypot = _from_torch(torch.hypot)
copysign = _from_torch(torch.copysign)
