"""topk, sort and argsort, all through TensorRT's TopK: ties come lowest index first, which is a stable order.

TopK gives at most 3840 elements; more of them, or a whole dynamic axis that may be longer, stays in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext, ITensor, NodeContext, Operand, Reject
from trtcore_converters._checks import all_of, arguments, numeric, shape_of
from trtcore_converters._declare import converts
from trtcore_converters._values import most
from trtcore_converters.creation import filled
from trtcore_converters.reduction import top

aten = torch.ops.aten

MOST = 3840
"""The largest k of a TopK layer."""


def _few_enough(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = arguments(node)
    shape = shape_of(given["self"])
    k = given["k"] if "k" in given else _length(shape, given["dim"])
    k = None if k is None else most(k)
    if k is not None and k > MOST:
        return Reject(f"TensorRT's TopK gives at most {MOST} elements, and this asks for {k}")
    return True


def _length(shape: Sequence[Any] | None, dim: int) -> Any:
    if shape is None:
        return None
    return shape[dim] if len(shape) else 1


@converts(aten.topk.default, capability_validator=all_of(numeric, _few_enough))
def topk(
    ctx: ConversionContext, x: Operand, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[ITensor, ITensor]:
    """The k largest or smallest elements along a dim, always sorted, and their indices."""
    return _top(ctx, ctx.tensor(x), k, dim, largest)


@converts(aten.sort.default, capability_validator=all_of(numeric, _few_enough))
def sort(
    ctx: ConversionContext, x: Operand, dim: int = -1, descending: bool = False
) -> tuple[ITensor, ITensor]:
    """All elements along a dim in order, and their indices."""
    x = ctx.tensor(x)
    return _top(ctx, x, ctx.dim(x, dim) if ctx.rank(x) else 1, dim, descending)


@converts(aten.sort.stable, capability_validator=all_of(numeric, _few_enough))
def sort_stable(
    ctx: ConversionContext, x: Operand, *, stable: bool | None, dim: int = -1, descending: bool = False
) -> tuple[ITensor, ITensor]:
    """`sort`, whose order is stable anyway."""
    return sort(ctx, x, dim, descending)


@converts(aten.argsort.default, capability_validator=all_of(numeric, _few_enough))
def argsort(ctx: ConversionContext, x: Operand, dim: int = -1, descending: bool = False) -> ITensor:
    """The indices of `sort`."""
    return sort(ctx, x, dim, descending)[1]


@converts(aten.argsort.stable, capability_validator=all_of(numeric, _few_enough))
def argsort_stable(
    ctx: ConversionContext, x: Operand, *, stable: bool, dim: int = -1, descending: bool = False
) -> ITensor:
    """The indices of `sort`."""
    return sort(ctx, x, dim, descending)[1]


def _top(ctx: ConversionContext, x: ITensor, k: Any, dim: int, largest: bool) -> tuple[ITensor, ITensor]:
    dtype = ctx.dtype(x)
    if ctx.rank(x) == 0:
        return x, ctx.constant(0, torch.int64)
    if not ctx.is_tensor(k) and k == 0:  # TopK gives at least one element
        dims = [0 if axis == dim % ctx.rank(x) else size for axis, size in enumerate(ctx.dims_of(x))]
        return filled(ctx, dims, 0, dtype), filled(ctx, dims, 0, torch.int64)
    ordered = ctx.cast(x, torch.int32) if dtype == torch.bool else x
    values, indices = top(ctx, ordered, "MAX" if largest else "MIN", k, dim)
    return ctx.cast(values, dtype), indices
