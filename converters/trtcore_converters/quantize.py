"""Quantised models: PT2E's quantise and dequantise ops as TensorRT's layers of those names."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import (
    ConversionContext,
    ITensor,
    NodeContext,
    Operand,
    Reject,
    Requires,
    attribute,
    node_arguments,
)
from trtcore_converters._checks import val
from trtcore_converters._declare import converts
from trtcore_converters._values import output_dtype
from trtcore_converters.torch_private import register_quantized_ops

register_quantized_ops()

ops: Any = torch.ops.quantized_decomposed

QUANTIZE = frozenset(
    {ops.quantize_per_tensor.default, ops.quantize_per_tensor.tensor, ops.quantize_per_channel.default}
)
DEQUANTIZE = frozenset(
    {ops.dequantize_per_tensor.default, ops.dequantize_per_tensor.tensor, ops.dequantize_per_channel.default}
)

_FP8 = torch.float8_e4m3fn
_ADVICE = (
    "TensorRT quantises symmetrically: quantise with trtcore_converters.quantizer.TensorRTQuantizer, or with a "
    "symmetric qscheme and a signed dtype"
)


def constant_of(value: Any) -> Any:
    """The tensor that a get_attr node reads; any other value is itself, and None stands for an unknown one."""
    if not isinstance(value, fx.Node):
        return value
    if value.op != "get_attr" or value.graph.owning_module is None:
        return None
    return attribute(value.graph.owning_module, str(value.target))


def _symmetric(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """int8 (or fp8) with constant positive scales and zero points of 0."""
    given = node_arguments(node)
    dtype = given["dtype"]
    if dtype not in (torch.int8, _FP8):
        return Reject(
            f"quantised to {str(dtype).removeprefix('torch.')}, and TensorRT has int8 and fp8; {_ADVICE}"
        )
    per_channel = "scales" in given
    points = given["zero_points"] if per_channel else given["zero_point"]
    zero = constant_of(points)
    if zero is None and points is not None:
        return Reject(f"the zero point is computed when the model runs; {_ADVICE}")
    if zero is not None and bool((torch.as_tensor(zero) != 0).any()):
        return Reject(f"a zero point that is not 0; {_ADVICE}")
    scale = constant_of(given["scales"] if per_channel else given["scale"])
    if scale is None:
        return Reject("the scale is computed when the model runs, and TensorRT wants it fixed in the engine")
    scale = torch.as_tensor(scale, dtype=torch.float64)
    if not bool((scale > 0).all() and scale.float().isfinite().all()):
        return Reject("a scale that is not a positive number")
    if not per_channel and scale.numel() != 1:
        return Reject("several scales for a tensor that is quantised as a whole")
    return _quantises_floats(node)


def _quantises_floats(node: fx.Node) -> bool | Reject:
    given = node_arguments(node)
    traced = val(given["input"])
    if node.target not in QUANTIZE or not isinstance(traced, torch.Tensor):
        return True
    if not traced.is_floating_point():
        return Reject("quantises a tensor that is not floating point")
    if given["dtype"] is torch.int8 and not -128 <= given["quant_min"] <= given["quant_max"] <= 127:
        return Reject(f"a range of {given['quant_min']} to {given['quant_max']} does not fit into int8")
    return True


@converts(
    sorted(QUANTIZE, key=str),
    capability_validator=_symmetric,
    requires=Requires(layers=frozenset({"add_quantize"})),
)
def quantize(
    ctx: ConversionContext,
    x: Operand,
    scale: Any,
    zero_point: Any,
    *rest: Any,
) -> ITensor:
    """``clamp(round(x / scale), quant_min, quant_max)`` in int8 or fp8; half to even, as torch rounds."""
    *axis, low, high, dtype = rest
    x = ctx.cast(ctx.tensor(x), torch.float32)
    scale = _scale(scale)
    if dtype is _FP8:  # torch rounds to integers before it rounds to fp8; TensorRT would not
        return _quantize_fp8(ctx, x, scale, axis, low, high)
    if (low, high) != (-128, 127):
        ends = [_along(ctx, scale * end, axis, ctx.rank(x)) for end in (low, high)]
        x = ctx.elementwise(ctx.elementwise(x, ends[0], "MAX"), ends[1], "MIN")
    layer = ctx.net.add_quantize(x, ctx.constant(scale), ctx.backend.trt_dtype(torch.int8))
    return _with_axis(ctx, layer, axis, x)


def _quantize_fp8(
    ctx: ConversionContext, x: Operand, scale: torch.Tensor, axis: list[int], low: float, high: float
) -> ITensor:
    x = ctx.elementwise(x, _along(ctx, scale, axis, ctx.rank(x)), "DIV")
    x = ctx.unary(x, "ROUND")
    x = ctx.elementwise(ctx.elementwise(x, float(low), "MAX"), float(high), "MIN")
    one = ctx.constant(1.0, torch.float32)
    return ctx.output(ctx.net.add_quantize(x, one, ctx.backend.trt_dtype(_FP8)))


@converts(
    sorted(DEQUANTIZE, key=str),
    capability_validator=_symmetric,
    requires=Requires(layers=frozenset({"add_dequantize"})),
)
def dequantize(
    ctx: ConversionContext,
    x: Operand,
    scale: Any,
    zero_point: Any,
    *rest: Any,
    out_dtype: torch.dtype | None = None,
) -> ITensor:
    """``x * scale`` in float32, then in the dtype that the op gives."""
    axis = list(rest[:-3])
    x = ctx.tensor(x)
    layer = ctx.net.add_dequantize(x, ctx.constant(_scale(scale)), ctx.backend.trt_dtype(torch.float32))
    return ctx.cast(_with_axis(ctx, layer, axis, x), output_dtype(ctx, torch.float32))


def _scale(value: Any) -> torch.Tensor:
    """The scale as a float32 constant: without dims for a tensor as a whole, of one dim for channels."""
    scale = torch.as_tensor(value, dtype=torch.float32)
    return scale.reshape(()) if scale.numel() == 1 and scale.dim() != 1 else scale


def _along(ctx: ConversionContext, values: torch.Tensor, axis: list[int], rank: int) -> ITensor:
    """Numbers for the channels of `axis`, in a shape that broadcasts."""
    shape = [1] * rank
    if axis:
        shape[axis[0] % rank] = -1
    return ctx.constant(values.reshape(shape))


def _with_axis(ctx: ConversionContext, layer: Any, axis: list[int], x: Operand) -> ITensor:
    if axis and layer is not None:
        layer.axis = axis[0] % ctx.rank(x)
    return ctx.output(layer)
