"""Quantising in blocks whose scales are made at run time: four bits, two of them exponent, with scales of eight."""

from __future__ import annotations

from typing import Any

import torch

from trtcore.pack import ConversionError
from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor, to_torch

__all__ = ["dynamic_block_quantize"]

_LARGEST_FP4, _LARGEST_FP8 = 6.0, 448.0


def dynamic_block_quantize(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input_tensor: Any,
    block_size: int,
    amax: Any,
    num_bits: int,
    exponent_bits: int,
    scale_num_bits: int,
    scale_exponent_bits: int,
) -> Any:
    """`input_tensor` to float4 (e2m1) and back, with a float8 (e4m3) scale per `block_size` elements of the last dim.

    Args:
        amax: the largest absolute value, a constant of one element: the scale of the scales.

    Raises:
        ConversionError: other bits, or an `amax` that is not such a constant.
    """
    bits = (num_bits, exponent_bits, scale_num_bits, scale_exponent_bits)
    if bits != (4, 2, 8, 4):
        raise ConversionError(
            f"block quantisation with bits {bits}: (4, 2, 8, 4) is float4 with float8 scales"
        )
    limit = None if ctx.is_tensor(amax) else to_torch(amax)
    if limit is None or limit.numel() != 1:
        raise ConversionError(
            "block quantisation: amax is not a constant of one element",
            advice="calibrate the model before it is exported",
        )
    x = get_trt_tensor(ctx, input_tensor, name)
    dtypes = ctx.trt.DataType
    tiny = torch.finfo(torch.float32).tiny
    scale = (limit.float().reshape(()) / (_LARGEST_FP4 * _LARGEST_FP8)).clamp(min=tiny)
    of_scales = ctx.constant(scale, torch.float32)
    layer = ctx.net.add_dynamic_quantize(x, ctx.rank(x) - 1, block_size, dtypes.FP4, dtypes.FP8)
    if layer is not None:
        layer.set_input(1, of_scales)
    scales = ctx.output(ctx.net.add_dequantize(ctx.output(layer, 1), of_scales, dtypes.FLOAT))
    back = ctx.output(ctx.net.add_dequantize(ctx.output(layer, 0), scales, dtypes.FLOAT))
    return ctx.cast(back, ctx.dtype(x))
