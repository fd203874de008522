"""Layer, group and RMS normalisation, with statistics in float32 as torch keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from trtcore.pack import (
    ConversionContext,
    ITensor,
    NodeContext,
    Operand,
    Reject,
    node_arguments,
)
from trtcore_converters._checks import floating, is_static
from trtcore_converters._declare import converts
from trtcore_converters._values import LOW_PRECISION, output_dtype, used_outputs

aten = torch.ops.aten


def _affine(
    ctx: ConversionContext, parameter: Any, default: float, dims: Sequence[int], rank: int, dtype: torch.dtype
) -> ITensor:
    """A scale or bias of the trailing `dims`, at `rank`; a constant of `default` where the op has none."""
    if parameter is None:
        return ctx.constant(
            torch.full([1] * rank, default, dtype=dtype)
            .expand([1] * (rank - len(dims)) + list(dims))
            .contiguous()
        )
    if isinstance(parameter, torch.Tensor):
        return ctx.constant(parameter.reshape([1] * (rank - parameter.dim()) + list(parameter.shape)), dtype)
    return ctx.unsqueeze_to(ctx.cast(parameter, dtype), rank)


def _normalise(
    ctx: ConversionContext,
    x: Operand,
    shape: Sequence[int],
    weight: Operand | None,
    bias: Operand | None,
    eps: float,
) -> ITensor:
    """Layer normalisation of an ITensor over its trailing dims, in its dtype."""
    dtype, rank = ctx.dtype(x), ctx.rank(x)
    mixed = any(p is not None and ctx.dtype(p) != dtype for p in (weight, bias))
    inside = torch.float32 if mixed else dtype
    axes = ctx.axes_mask(range(rank - len(shape), rank), rank)
    layer = _normalization_layer(
        ctx,
        ctx.cast(x, inside),
        _affine(ctx, weight, 1.0, shape, rank, inside),
        _affine(ctx, bias, 0.0, shape, rank, inside),
        axes,
    )
    if layer is not None:
        layer.epsilon = eps
    return ctx.cast(ctx.output(layer), dtype)


def _normalization_layer(
    ctx: ConversionContext, x: Operand, scale: Any, bias: Operand | None, axes: int
) -> Any:
    add = getattr(ctx.net, "add_normalization_v2", None) or ctx.net.add_normalization
    return add(x, scale, bias, axes)


def _static_shape(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    accepted = floating()(node, ctx)
    if accepted and not is_static(node_arguments(node).get("normalized_shape")):
        return Reject("the normalised shape varies from call to call")
    return accepted


@converts(aten.layer_norm.default, capability_validator=_static_shape)
def layer_norm(
    ctx: ConversionContext,
    x: Operand,
    normalized_shape: Sequence[int],
    weight: Operand | None = None,
    bias: Operand | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> ITensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the trailing `normalized_shape`."""
    return _layer_norm(ctx, ctx.tensor(x), list(normalized_shape), weight, bias, eps)


def _layer_norm(
    ctx: ConversionContext,
    x: ITensor,
    shape: list[int],
    weight: Operand | None,
    bias: Operand | None,
    eps: float,
) -> ITensor:
    if ctx.rank(x) > len(shape):
        return _normalise(ctx, x, shape, weight, bias, eps)
    dims = ctx.dims_of(x)  # all dims are normalised: TensorRT wants one besides
    return ctx.reshape(_normalise(ctx, ctx.reshape(x, [1, *dims]), shape, weight, bias, eps), dims)


@converts(aten.native_layer_norm.default, capability_validator=_static_shape)
def native_layer_norm(
    ctx: ConversionContext,
    x: Operand,
    normalized_shape: Sequence[int],
    weight: Operand | None,
    bias: Operand | None,
    eps: float,
) -> Any:
    """Layer normalisation with its statistics: (output, mean, 1 / sqrt(var + eps)); those only where used."""
    x = ctx.tensor(x)
    result = _layer_norm(ctx, x, list(normalized_shape), weight, bias, eps)
    used = used_outputs(ctx.node)
    if used is not None and not used & {1, 2}:
        return result, None, None
    axes = list(range(ctx.rank(x) - len(normalized_shape), ctx.rank(x)))
    mean, inverse = _statistics(ctx, ctx.cast(x, torch.float32), axes, eps)
    return result, *(ctx.cast(v, _statistics_dtype(ctx, i + 1)) for i, v in enumerate((mean, inverse)))


def _statistics(
    ctx: ConversionContext, x: ITensor, axes: Sequence[int], eps: float
) -> tuple[ITensor, ITensor]:
    mean = ctx.reduce(x, "AVG", axes, keepdim=True)
    centred = ctx.elementwise(x, mean, "SUB")
    variance = ctx.reduce(ctx.elementwise(centred, centred, "PROD"), "AVG", axes, keepdim=True)
    return mean, ctx.unary(ctx.unary(ctx.elementwise(variance, eps, "SUM"), "SQRT"), "RECIP")


def _statistics_dtype(ctx: ConversionContext, index: int) -> torch.dtype:
    value = ctx.node.meta.get("val")
    return value[index].dtype if isinstance(value, (list, tuple)) else torch.float32


# ---- group normalisation -----------------------------------------------------------------------------------


@converts(aten.group_norm.default, capability_validator=floating())
def group_norm(
    ctx: ConversionContext,
    x: Operand,
    num_groups: int,
    weight: Operand | None = None,
    bias: Operand | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> ITensor:
    """Normalisation of groups of channels; x of shape (N, C, ...)."""
    return _group_norm(ctx, ctx.tensor(x), num_groups, weight, bias, eps)


@converts(aten.native_group_norm.default, capability_validator=floating())
def native_group_norm(
    ctx: ConversionContext,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    n: Any,
    c: Any,
    hxw: Any,
    group: int,
    eps: float,
) -> Any:
    """Group normalisation with its statistics (N, groups); those only where used."""
    x = ctx.tensor(x)
    result = _group_norm(ctx, x, group, weight, bias, eps)
    used = used_outputs(ctx.node)
    if used is not None and not used & {1, 2}:
        return result, None, None
    dims = [ctx.dim(x, 0), group]
    statistics = _statistics(ctx, _in_groups(ctx, x, group), [2], eps)
    return result, *(
        ctx.cast(ctx.reshape(v, dims), _statistics_dtype(ctx, i + 1)) for i, v in enumerate(statistics)
    )


def _in_groups(ctx: ConversionContext, x: Operand, groups: int) -> ITensor:
    """`x` of shape (N, C, ...) as float32 rows (N, groups, the rest)."""
    dims = ctx.dims_of(x)
    rest = ctx.dim_op(ctx.dim_product(dims[1:]), groups, "FLOOR_DIV")
    return ctx.reshape(ctx.cast(x, torch.float32), [dims[0], groups, -1 if ctx.is_tensor(rest) else rest])


def _group_norm(
    ctx: ConversionContext, x: Operand, groups: int, weight: Operand | None, bias: Operand | None, eps: float
) -> ITensor:
    """The groups normalised as rows of (N, groups, -1) by float32 statistics, then scaled per channel."""
    dims, dtype = ctx.dims_of(x), ctx.dtype(x)
    rank = len(dims)
    rows = _in_groups(ctx, x, groups)
    mean, inverse = _statistics(ctx, rows, [2], eps)
    result = ctx.elementwise(ctx.elementwise(rows, mean, "SUB"), inverse, "PROD")
    result = ctx.reshape(result, dims)
    for parameter, operation in ((weight, "PROD"), (bias, "SUM")):
        if parameter is not None:
            shape = [1, dims[1]] + [1] * (rank - 2)
            values = (
                ctx.constant(parameter.reshape(1, -1, *[1] * (rank - 2)), torch.float32)
                if isinstance(parameter, torch.Tensor)
                else ctx.reshape(ctx.cast(parameter, torch.float32), shape)
            )
            result = ctx.elementwise(result, values, operation)
    return ctx.cast(result, dtype)


# ---- RMS normalisation -------------------------------------------------------------------------------------


@converts(aten.rms_norm.default, capability_validator=_static_shape)
def rms_norm(
    ctx: ConversionContext,
    x: Operand,
    normalized_shape: Sequence[int],
    weight: Operand | None = None,
    eps: float | None = None,
) -> ITensor:
    """``x / sqrt(mean(x * x) + eps) * weight`` over the trailing `normalized_shape`, computed in float32.

    Without eps it is the machine epsilon of the dtype torch computes in.
    """
    x = ctx.tensor(x)
    dtype, rank = ctx.dtype(x), ctx.rank(x)
    if eps is None:
        eps = torch.finfo(torch.float32 if dtype in LOW_PRECISION else dtype).eps
    wide = ctx.cast(x, torch.float32)
    axes = list(range(rank - len(normalized_shape), rank))
    mean = ctx.reduce(ctx.elementwise(wide, wide, "PROD"), "AVG", axes, keepdim=True)
    inverse = ctx.unary(ctx.unary(ctx.elementwise(mean, eps, "SUM"), "SQRT"), "RECIP")
    result = ctx.elementwise(wide, inverse, "PROD")
    if weight is not None:
        result = ctx.elementwise(result, weight, "PROD", to=torch.float32)
    return ctx.cast(result, output_dtype(ctx, dtype))
