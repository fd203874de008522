"""QUANTIZE, DEQUANTIZE and DYNAMIC_QUANTIZE.

4-bit values travel unpacked: INT4 as int8, FP4 as float32 holding FP4 values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trtcore_reference.emit import Emitter, Evaluator
from trtcore_reference.values import Value

_INT4: torch.dtype = getattr(torch, "int4")  # noqa: B009
_FP4 = torch.float4_e2m1fn_x2
_FP8 = torch.float8_e4m3fn
_E8M0 = torch.float8_e8m0fnu
_RANGES = {torch.int8: (-128, 127), _INT4: (-8, 7)}


def quantize(e: Emitter) -> Value:
    """saturate(round(x / scale)), half to even; NaN becomes the lowest integer."""
    scale = _scale(e, 1)
    _refuse_zero_point(e)
    to = e.attributes["to_type"]
    to = e.out().dtype if to is torch.float32 else to
    if to in _RANGES:
        return e.call(quantize_integer, e.value(), scale, *_RANGES[to])
    if to is _FP8:
        return e.call(quantize_fp8, e.value(), scale)
    if to is _FP4:
        return e.call(quantize_fp4, e.value(), scale)
    raise e.unsupported("to_type")


def dequantize(e: Emitter) -> Value:
    """x * scale in the output type."""
    scale = _scale(e, 1)
    _refuse_zero_point(e)
    return e.call(dequantize_to, e.value(), scale, e.out().dtype)


def _refuse_zero_point(e: Emitter) -> None:
    if e.has(2):
        values = e.ints(2) if not e.info(2).dtype.is_floating_point else None
        if values is None or any(values):
            raise e.error("has a zero point that is not 0, which TensorRT refuses")


def _scale(e: Emitter, index: int) -> Value:
    """The scale, shaped to broadcast: per tensor, per channel along `axis`, or in blocks."""
    scale = e.value(index)
    info = e.info(index)
    shape = e.info(0).shape
    if len(info.shape) <= 1 and math.prod(info.shape) == 1:
        return e.call(torch.reshape, scale, ())
    if len(info.shape) == 1:
        axis = e.attributes["axis"]
        return e.call(torch.reshape, scale, tuple(-1 if i == axis else 1 for i in range(len(shape))))
    return e.call(spread_like, scale, e.value(0))


def spread_like(scale: Tensor, x: Tensor) -> Tensor:
    """Block scales repeated to the size of what they scale."""
    for axis, (blocks, length) in enumerate(zip(scale.shape, x.shape)):
        if blocks not in (1, length):
            scale = _plain(scale).repeat_interleave(length // blocks, axis)
    return scale


def _plain(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (_FP8, _E8M0) else x


def quantize_integer(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    y = torch.round(x.float() / _plain(scale).float()).clamp_(low, high)
    return y.nan_to_num_(nan=float(low)).to(torch.int8)


def quantize_fp8(x: Tensor, scale: Tensor) -> Tensor:
    """FP8 E4M3, saturating at 448; NaN stays NaN."""
    return (x.float() / _plain(scale).float()).clamp_(-448.0, 448.0).to(_FP8)


def quantize_fp4(x: Tensor, scale: Tensor) -> Tensor:
    """FP4 E2M1 values as float32: saturating at 6, ties to the even mantissa."""
    return round_fp4(x.float() / _plain(scale).float())


def round_fp4(x: Tensor) -> Tensor:
    """The nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 with x's sign; NaN stays NaN."""
    size = x.abs()
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return torch.copysign((torch.round(size / step) * step).clamp_max(6.0), x)


def dequantize_to(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (x.float() * _plain(scale).float()).to(dtype)


def dynamic_quantize(e: Emitter) -> Sequence[Value]:
    """Block quantisation with computed scales: (values, scales).

    FP4 with FP8 scales (NVFP4): scale = amax(block) / 6 / double_scale in FP8, values by scale *
    double_scale. FP8 with E8M0 scales (MXFP8): the power of two that takes amax(block) / 448 up.
    """
    a = e.attributes
    axis, block = a["axis"], a["block_size"]
    shape: Any = a.get("block_shape")
    if shape:
        wide = [i for i, n in enumerate(shape) if n != 1]
        if len(wide) != 1 or shape[wide[0]] < 1:
            raise e.unsupported("block_shape")
        axis, block = wide[0], shape[wide[0]]
    axis %= e.rank
    if a["to_type"] is _FP4 and a["scale_type"] is _FP8 and e.has(1):
        return e.calls(2, quantize_nvfp4, e.value(), e.value(1), axis, block)
    if a["to_type"] is _FP8 and a["scale_type"] is _E8M0:
        return e.calls(2, quantize_mxfp8, e.value(), axis, block)
    raise e.unsupported("to_type")


def _block_amax(x: Tensor, axis: int, block: int) -> Tensor:
    shape = (*x.shape[:axis], x.shape[axis] // block, block, *x.shape[axis + 1 :])
    return x.float().reshape(shape).abs().amax(axis + 1)


def quantize_nvfp4(x: Tensor, double_scale: Tensor, axis: int, block: int) -> tuple[Tensor, Tensor]:
    outer = double_scale.float().reshape(())
    scale = (_block_amax(x, axis, block) / 6.0 / outer).clamp_max_(448.0).to(_FP8)
    step = (scale.float() * outer).repeat_interleave(block, axis)
    values = torch.where(step == 0, 0.0, x.float() / step)
    return round_fp4(values), scale


def quantize_mxfp8(x: Tensor, axis: int, block: int) -> tuple[Tensor, Tensor]:
    amax = _block_amax(x, axis, block)
    exponent = torch.ceil(torch.log2(amax / 448.0)).clamp_(-127.0, 127.0).nan_to_num_(nan=-127.0)
    scale = torch.exp2(exponent)
    values = (x.float() / scale.repeat_interleave(block, axis)).clamp_(-448.0, 448.0).to(_FP8)
    return values, scale.to(_E8M0)


TABLE: Mapping[str, Evaluator] = {
    "QUANTIZE": quantize,
    "DEQUANTIZE": dequantize,
    "DYNAMIC_QUANTIZE": dynamic_quantize,
}
