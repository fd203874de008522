"""Reductions: sums, means, extremes, logic, variance, norms, and the index of an extreme.

Integers are reduced as int64: TensorRT 8.5 reduced int32 in floating point, exact only to 2**24. Sums and
products of fp16 and bf16 are computed in fp32 and rounded once, as torch does. TensorRT's extremes skip NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from trtcore.pack import (
    ConversionContext,
    Dim,
    ITensor,
    Operand,
)
from trtcore_converters._checks import all_of, not_bool, numeric
from trtcore_converters._declare import converts
from trtcore_converters._values import LOW_PRECISION, output_dtype, used_outputs
from trtcore_converters.comparison import isnan

aten = torch.ops.aten


def axes_of(dim: Any, rank: int, *, empty_is_all: bool = True) -> list[int]:
    """Axes counted from the start; None, and for most ops an empty list, means all."""
    if dim is None or (empty_is_all and isinstance(dim, (list, tuple)) and not dim):
        return list(range(rank))
    dims = dim if isinstance(dim, (list, tuple)) else [dim]
    return sorted({d % max(rank, 1) for d in dims}) if rank else []


def reduced(
    ctx: ConversionContext, x: ITensor, operation: str, axes: Sequence[int], keepdim: bool
) -> ITensor:
    """One reduce layer; none where there is nothing to reduce (a 0-d tensor, no axes)."""
    return ctx.reduce(x, operation, axes, keepdim) if axes else x


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to accumulate in."""
    if dtype in LOW_PRECISION:
        return torch.float32
    return dtype if dtype.is_floating_point else torch.int64


def _count(ctx: ConversionContext, x: Operand, axes: Sequence[int]) -> Dim:
    """How many elements of `x` go into one result: an int, or an int64 ITensor of shape (1,)."""
    return ctx.dim_product([ctx.dim(x, axis) for axis in axes])


# ---- sums and means ----


def _accumulating(operation: str) -> Callable[..., Any]:
    def convert(
        ctx: ConversionContext,
        x: Operand,
        dim: Any = None,
        keepdim: bool = False,
        *,
        dtype: torch.dtype | None = None,
    ) -> ITensor:
        own = ctx.dtype(x)
        result = dtype or output_dtype(ctx, own if own.is_floating_point else torch.int64)
        x = ctx.tensor(x, result)
        x = ctx.cast(x, _wide(result))
        return ctx.cast(reduced(ctx, x, operation, axes_of(dim, ctx.rank(x)), keepdim), result)

    return convert


_sum, _prod = _accumulating("SUM"), _accumulating("PROD")
for _ops, _name, _convert in (
    ([aten.sum.default, aten.sum.dim_IntList], "sum", _sum),
    ([aten.prod.default, aten.prod.dim_int], "prod", _prod),
):
    converts(_ops, name=_name, capability_validator=numeric)(_convert)


@converts([aten.mean.default, aten.mean.dim], capability_validator=numeric)
def mean(
    ctx: ConversionContext,
    x: Operand,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> ITensor:
    """The mean; integers only with a floating-point dtype."""
    x = ctx.tensor(x, dtype)
    return reduced(ctx, x, "AVG", axes_of(dim, ctx.rank(x)), keepdim)


@converts([aten.count_nonzero.default, aten.count_nonzero.dim_IntList], capability_validator=numeric)
def count_nonzero(ctx: ConversionContext, x: Operand, dim: Any = None) -> ITensor:
    """How many elements are not 0, as int64."""
    x = ctx.cast(_is_true(ctx, ctx.tensor(x)), torch.int64)
    return reduced(ctx, x, "SUM", axes_of(dim, ctx.rank(x)), False)


# ---- logic ----


def _is_true(ctx: ConversionContext, x: ITensor) -> ITensor:
    """Whether elements are not 0; NaN is not."""
    return x if ctx.dtype(x) == torch.bool else ctx.unary(ctx.elementwise(x, 0, "EQUAL"), "NOT")


def _logic(operation: str) -> Callable[..., Any]:
    """any is a sum above 0, all a product of ones: right over no elements as well."""

    def convert(ctx: ConversionContext, x: Operand, dim: Any = None, keepdim: bool = False) -> ITensor:
        truth = _is_true(ctx, ctx.tensor(x))
        axes = axes_of(dim, ctx.rank(truth), empty_is_all=False)
        return ctx.cast(reduced(ctx, ctx.cast(truth, torch.int32), operation, axes, keepdim), torch.bool)

    return convert


for _packet, _name, _operation in ((aten.any, "any", "SUM"), (aten.all, "all", "PROD")):
    converts(
        [_packet.default, _packet.dim, _packet.dims],
        name=_name,
        capability_validator=numeric,
    )(_logic(_operation))


# ---- extremes ----


def _extreme(ctx: ConversionContext, x: Operand, operation: str, dim: Any, keepdim: bool) -> ITensor:
    """The largest (MAX) or smallest (MIN) elements, in the input's dtype."""
    x = ctx.tensor(x)
    dtype, axes = ctx.dtype(x), axes_of(dim, ctx.rank(x))
    wide = dtype if dtype.is_floating_point else torch.int64
    found = ctx.cast(reduced(ctx, ctx.cast(x, wide), operation, axes, keepdim), dtype)
    if not (ctx.settings.strict_numerics and dtype.is_floating_point and axes):
        return found
    return nan_where(ctx, reduced(ctx, nans(ctx, x), "MAX", axes, keepdim), found)


def nans(ctx: ConversionContext, x: ITensor) -> ITensor:
    """1.0 where `x` is NaN, else 0.0: what survives TensorRT's extremes, which skip NaN."""
    return ctx.cast(isnan(ctx, x), torch.float32)


def nan_where(ctx: ConversionContext, marks: ITensor, x: ITensor) -> ITensor:
    """`x`, and NaN where `marks` is not 0.0."""
    return ctx.select(ctx.elementwise(marks, 0.5, "GREATER"), ctx.constant(math.nan, ctx.dtype(x)), x)


def _values_only(operation: str) -> Callable[..., Any]:
    def convert(ctx: ConversionContext, x: Operand, dim: Any = None, keepdim: bool = False) -> ITensor:
        return _extreme(ctx, x, operation, dim, keepdim)

    return convert


for _ops, _name, _operation in (
    ([aten.amax.default, aten.max.default], "amax", "MAX"),
    ([aten.amin.default, aten.min.default], "amin", "MIN"),
):
    converts(_ops, name=_name, capability_validator=numeric)(_values_only(_operation))


@converts(aten.aminmax.default, capability_validator=numeric)
def aminmax(
    ctx: ConversionContext, x: Operand, *, dim: int | None = None, keepdim: bool = False
) -> tuple[ITensor, ...]:
    """The smallest and the largest elements."""
    return tuple(_extreme(ctx, x, operation, dim, keepdim) for operation in ("MIN", "MAX"))


def _with_index(operation: str) -> Callable[..., Any]:
    def convert(ctx: ConversionContext, x: Operand, dim: int, keepdim: bool = False) -> Any:
        if used_outputs(ctx.node) == {0}:
            return _extreme(ctx, x, operation, dim, keepdim), None
        return _first(ctx, ctx.tensor(x), operation, dim, keepdim)

    return convert


for _packet, _name, _operation in ((aten.max, "max_dim", "MAX"), (aten.min, "min_dim", "MIN")):
    converts(_packet.dim, name=_name, capability_validator=numeric)(_with_index(_operation))


def _index(operation: str) -> Callable[..., Any]:
    def convert(ctx: ConversionContext, x: Operand, dim: int | None = None, keepdim: bool = False) -> ITensor:
        x = ctx.tensor(x)
        if dim is not None:
            return _first(ctx, x, operation, dim, keepdim)[1]
        rank = ctx.rank(x)
        index = _first(ctx, ctx.reshape(x, [-1]) if rank else x, operation, 0, False)[1]
        return ctx.reshape(index, [1] * rank) if keepdim else index

    return convert


for _op, _name, _operation in (
    (aten.argmax.default, "argmax", "MAX"),
    (aten.argmin.default, "argmin", "MIN"),
):
    converts(_op, name=_name, capability_validator=numeric)(_index(_operation))


def _first(
    ctx: ConversionContext, x: ITensor, operation: str, dim: int, keepdim: bool
) -> tuple[ITensor, ITensor]:
    """The extreme along `dim` and the index (int64) where it is first."""
    rank, dtype = ctx.rank(x), ctx.dtype(x)
    if rank == 0:
        return x, ctx.constant(0, torch.int64)
    values, indices = top(ctx, ctx.cast(x, torch.int32) if dtype == torch.bool else x, operation, 1, dim)
    if (
        dtype.is_floating_point
    ):  # TopK gives -1 where all elements are the worst infinity; torch the first of them
        indices = ctx.elementwise(indices, 0, "MAX")
    if not keepdim:
        sizes = [size for axis, size in enumerate(ctx.dims_of(x)) if axis != dim % rank]
        values, indices = ctx.reshape(values, sizes), ctx.reshape(indices, sizes)
    return ctx.cast(values, dtype), indices


def top(ctx: ConversionContext, x: ITensor, operation: str, k: Any, dim: int) -> tuple[ITensor, ITensor]:
    """The `k` largest (MAX) or smallest (MIN) elements along `dim`, in order, and their indices as int64.

    Args:
        k: an int, or an int64 ITensor of shape (1,).
    """
    rank = ctx.rank(x)
    axis = dim % rank
    if rank == 1:  # TensorRT wants two dims
        sizes = [1, *ctx.dims_of(x)]
        values, indices = top(ctx, ctx.reshape(x, sizes), operation, k, 1)
        return ctx.reshape(values, [k]), ctx.reshape(indices, [k])
    fixed = not ctx.is_tensor(k)
    layer = ctx.net.add_topk(x, getattr(ctx.trt.TopKOperation, operation), k if fixed else 1, 1 << axis)
    if not fixed:
        layer.set_input(1, ctx.scalar(k))
    return ctx.output(layer), ctx.cast(ctx.output(layer, 1), torch.int64)


# ---- variance ----


def _moments(
    ctx: ConversionContext, x: Operand, dim: Any, correction: Any, keepdim: bool
) -> tuple[ITensor, ITensor]:
    """Variance and mean in fp32, from the centred elements."""
    x = ctx.tensor(x, torch.float32)
    axes = axes_of(dim, ctx.rank(x))
    centre = reduced(ctx, x, "AVG", axes, True)
    centred = ctx.elementwise(x, centre, "SUB")
    total = reduced(ctx, ctx.elementwise(centred, centred, "PROD"), "SUM", axes, keepdim)
    count, correction = _count(ctx, x, axes), 1.0 if correction is None else float(correction)
    if ctx.is_tensor(count):
        left = ctx.elementwise(ctx.scalar(count, torch.float32), correction, "SUB")
        divisor = ctx.elementwise(left, 0.0, "MAX")
    else:
        divisor = ctx.constant(max(count - correction, 0.0), torch.float32)
    variance = ctx.elementwise(total, divisor, "DIV")
    return variance, centre if keepdim else reduced(ctx, x, "AVG", axes, False)


def _deviation(root: bool, with_mean: bool) -> Callable[..., Any]:
    def convert(
        ctx: ConversionContext, x: Operand, dim: Any = None, *, correction: Any = None, keepdim: bool = False
    ) -> tuple[ITensor, ITensor] | ITensor:
        dtype = ctx.dtype(x)
        spread, centre = _moments(ctx, x, dim, correction, keepdim)
        spread = ctx.cast(ctx.unary(spread, "SQRT") if root else spread, dtype)
        return (spread, ctx.cast(centre, dtype)) if with_mean else spread

    return convert


for _op, _name, _root, _with_mean in (
    (aten.var.correction, "var", False, False),
    (aten.std.correction, "std", True, False),
    (aten.var_mean.correction, "var_mean", False, True),
    (aten.std_mean.correction, "std_mean", True, True),
):
    converts(_op, name=_name, capability_validator=numeric)(_deviation(_root, _with_mean))


# ---- norms ----


def vector_norm(
    ctx: ConversionContext, x: Operand, order: float, dim: Any, keepdim: bool, dtype: torch.dtype
) -> ITensor:
    """The vector norm of `order` over `dim`, computed in fp32, as `dtype`."""
    x = ctx.tensor(x, torch.float32)
    axes = axes_of(dim, ctx.rank(x))
    size = ctx.unary(x, "ABS")
    if math.isinf(order):
        out = reduced(ctx, size, "MAX" if order > 0 else "MIN", axes, keepdim)
    elif order == 0:
        out = reduced(ctx, ctx.cast(_is_true(ctx, x), torch.float32), "SUM", axes, keepdim)
    elif order == 1:
        out = reduced(ctx, size, "SUM", axes, keepdim)
    elif order == 2:
        out = ctx.unary(reduced(ctx, ctx.elementwise(x, x, "PROD"), "SUM", axes, keepdim), "SQRT")
    else:
        total = reduced(ctx, ctx.elementwise(size, order, "POW"), "SUM", axes, keepdim)
        out = ctx.elementwise(total, 1.0 / order, "POW")
    return ctx.cast(out, dtype)


_numbers = all_of(numeric, not_bool())


@converts(aten.linalg_vector_norm.default, capability_validator=_numbers)
def linalg_vector_norm(
    ctx: ConversionContext,
    x: Operand,
    ord: Any = 2,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> ITensor:
    """torch.linalg.vector_norm."""
    return vector_norm(ctx, x, float(ord), dim, keepdim, dtype or ctx.dtype(x))


@converts(
    [
        aten.norm.Scalar,
        aten.norm.ScalarOpt_dim,
        aten.norm.ScalarOpt_dim_dtype,
        aten.norm.ScalarOpt_dtype,
    ],
    capability_validator=_numbers,
)
def norm(
    ctx: ConversionContext,
    x: Operand,
    p: Any = 2,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> ITensor:
    """The older torch.norm; no p means 2."""
    return vector_norm(ctx, x, 2.0 if p is None else float(p), dim, keepdim, dtype or ctx.dtype(x))


@converts(aten.logsumexp.default, capability_validator=numeric)
def logsumexp(ctx: ConversionContext, x: Operand, dim: Any, keepdim: bool = False) -> ITensor:
    """``log(sum(exp(x)))`` about the largest element (about 0 where that is infinite)."""
    dtype = output_dtype(ctx, torch.float32)
    x = ctx.tensor(x, torch.float32)
    axes = axes_of(dim, ctx.rank(x))
    peak = reduced(ctx, x, "MAX", axes, True)
    peak = ctx.select(ctx.unary(peak, "ISINF"), 0.0, peak)
    total = reduced(ctx, ctx.unary(ctx.elementwise(x, peak, "SUB"), "EXP"), "SUM", axes, True)
    out = ctx.elementwise(ctx.unary(total, "LOG"), peak, "SUM")
    if not keepdim and axes:
        out = ctx.reshape(out, [size for axis, size in enumerate(ctx.dims_of(x)) if axis not in axes])
    return ctx.cast(out, dtype)
