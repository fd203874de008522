"""Quantising and dequantising."""

from __future__ import annotations

from typing import Any

import torch

from trtcore.pack import ConversionError
from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor, to_torch

__all__ = ["quantize"]


_KINDS = {(8, 0): ("INT8", 127.0), (8, 4): ("FP8", 448.0)}


def quantize(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input_tensor: Any,
    amax: Any,
    num_bits: int,
    exponent_bits: int,
) -> Any:
    """`input_tensor` quantised to 8 bits and back.

    Args:
        amax: the largest absolute value, a constant of one element, or one per index of a dim (its shape is then
        that of the tensor with ones in all other dims).
        num_bits, exponent_bits: (8, 0) for int8, (8, 4) for float8_e4m3.

    Raises:
        ConversionError: other bits, or an `amax` that is not constant.
    """
    if (num_bits, exponent_bits) not in _KINDS:
        raise ConversionError(
            f"quantize to {num_bits} bits with {exponent_bits} of exponent: int8 is (8, 0), fp8 (8, 4)"
        )
    kind, largest = _KINDS[num_bits, exponent_bits]
    x = get_trt_tensor(ctx, input_tensor, name)
    limits = None if ctx.is_tensor(amax) else to_torch(amax)
    if limits is None:
        raise ConversionError(
            "quantize: amax is not a constant", advice="calibrate the model before it is exported"
        )
    scales = (limits.float() / largest).clamp(min=torch.finfo(torch.float32).tiny)
    axes = [axis for axis, size in enumerate(scales.shape) if size != 1]
    scale = ctx.constant(scales.reshape(-1) if axes else scales.reshape(()), ctx.dtype(x))
    axis = axes[0] if axes else None
    dtypes = ctx.trt.DataType
    quantized = ctx.net.add_quantize(x, scale, getattr(dtypes, kind))
    back = ctx.net.add_dequantize(ctx.output(quantized), scale, x.dtype)
    if axis is not None:
        quantized.axis = back.axis = axis
    return ctx.output(back)
