"""Writing elements by index: the functional forms of ``index_copy_``, ``x[i] = y``, ``scatter_`` and slices.

Where an index occurs twice, which value wins is undefined in torch and in TensorRT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx

from trtcore.pack import (
    ConversionContext,
    Dim,
    ITensor,
    NodeContext,
    Operand,
    Reject,
    node_arguments,
)
from trtcore_converters._checks import all_of, is_static, val
from trtcore_converters._declare import converts
from trtcore_converters._values import broadcast_dims
from trtcore_converters.shape import movable, sizes

aten = torch.ops.aten


def scatter_elements(ctx: ConversionContext, x: Operand, index: Operand, updates: Any, axis: int) -> ITensor:
    """`updates` written into `x` at ``[..., index[...], ...]``; index and updates have one shape."""
    layer = ctx.net.add_scatter(x, index, updates, ctx.trt.ScatterMode.ELEMENT)
    if layer is not None:
        layer.axis = axis
    return ctx.output(layer)


def scatter_tuples(ctx: ConversionContext, x: Operand, tuples: Any, updates: Any) -> ITensor:
    """`updates` (N, rest of x's dims) written into `x` at the N index tuples (N, k) of its first k dims."""
    return ctx.output(ctx.net.add_scatter(x, tuples, updates, ctx.trt.ScatterMode.ND))


@converts(aten.copy.default, capability_validator=movable)
def copy(ctx: ConversionContext, x: Operand, src: Operand, non_blocking: bool = False) -> ITensor:
    """`src` written over all of `x`: broadcast to its shape, in its dtype."""
    return ctx.expand(ctx.cast(ctx.tensor(src), ctx.dtype(x)), sizes(ctx, x))


# ---- scatter -----------------------------------------------------------------------------------------------


@converts(aten.scatter.src, capability_validator=movable)
def scatter_src(ctx: ConversionContext, x: Operand, dim: int, index: Operand, src: Operand) -> ITensor:
    """``src[i]`` written at ``index[i]`` along `dim`; `src` may be larger than `index`, and its rest is not read."""
    x, index, src = ctx.tensor(x), ctx.tensor(index), ctx.tensor(src)
    wanted = sizes(ctx, index, "index")
    if ctx.rank(index) and not same_sizes("index", "src", ctx):
        src = ctx.slice(src, [0] * len(wanted), wanted)
    return _scatter(ctx, x, dim, index, src)


@converts(aten.scatter.value, capability_validator=movable)
def scatter_value(
    ctx: ConversionContext, x: Operand, dim: int, index: Operand, value: Dim | float
) -> ITensor:
    """The number `value` written at every ``index[i]`` along `dim`."""
    x, index = ctx.tensor(x), ctx.tensor(index)
    updates = ctx.expand(ctx.scalar(value, ctx.dtype(x)), sizes(ctx, index, "index"))
    return _scatter(ctx, x, dim, index, updates)


def _scatter(ctx: ConversionContext, x: ITensor, dim: int, index: ITensor, updates: ITensor) -> ITensor:
    if ctx.rank(x):
        return scatter_elements(ctx, x, index, updates, ctx.axis(dim, ctx.rank(x)))
    x, index, updates = ctx.reshape(x, [1]), ctx.reshape(index, [1]), ctx.reshape(updates, [1])
    return ctx.reshape(scatter_elements(ctx, x, index, updates, 0), [])


def same_sizes(one: str, other: str, ctx: ConversionContext) -> bool:
    """Whether two arguments surely have one shape."""
    given = node_arguments(ctx.node)
    a, b = val(given.get(one)), val(given.get(other))
    return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and _expressions(a) == _expressions(b)


def _expressions(tensor: torch.Tensor) -> list[Any]:
    return [dim if isinstance(dim, int) else dim.node.expr for dim in tensor.shape]


# ---- index_copy, index_fill --------------------------------------------------------------------------------


@converts(aten.index_copy.default, capability_validator=movable)
def index_copy(ctx: ConversionContext, x: Operand, dim: int, index: Operand, source: Operand) -> ITensor:
    """The slices of `source` written over the slices `index` (1-D, or 0-d for one) of `x` along `dim`."""
    x, index, source = ctx.tensor(x), ctx.tensor(index), ctx.tensor(source)
    if ctx.rank(x) == 0:
        return ctx.reshape(source, [])
    axis = ctx.axis(dim, ctx.rank(x))
    if ctx.rank(source) < ctx.rank(x):  # of one slice, the dim may be left out
        shape = sizes(ctx, x)
        source = ctx.reshape(source, [*shape[:axis], 1, *shape[axis + 1 :]])
    return write_slices(ctx, x, axis, index, source)


@converts(aten.index_fill.int_Scalar, capability_validator=movable)
def index_fill(ctx: ConversionContext, x: Operand, dim: int, index: Operand, value: Dim | float) -> ITensor:
    """The number `value` written into the slices `index` of `x` along `dim`."""
    x, index = ctx.tensor(x), ctx.tensor(index)
    updates = ctx.scalar(value, ctx.dtype(x))
    if ctx.rank(x) == 0:
        return updates
    axis, shape = ctx.axis(dim, ctx.rank(x)), sizes(ctx, x)
    count = ctx.dim(index, 0) if ctx.rank(index) else 1
    return write_slices(ctx, x, axis, index, ctx.expand(updates, [*shape[:axis], count, *shape[axis + 1 :]]))


def write_slices(ctx: ConversionContext, x: ITensor, axis: int, index: ITensor, source: ITensor) -> ITensor:
    """`source` (as x, but as long as `index` along `axis`) written over the slices `index` of `x`.

    The index is spread over the source, not the source moved: what is written is small beside `x`.
    """
    count = ctx.dim(source, axis)
    if axis == 0:
        return scatter_tuples(ctx, x, ctx.reshape(index, [count, 1]), source)
    rank = ctx.rank(x)
    line = ctx.reshape(index, [1] * axis + [count] + [1] * (rank - axis - 1))
    return scatter_elements(ctx, x, ctx.expand(line, ctx.dims_of(source)), source, axis)


# ---- index_put ---------------------------------------------------------------------------------------------


def _writes(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    if given.get("accumulate"):
        return Reject("TensorRT's scatter replaces elements; it does not accumulate")
    masks = [t for t in map(val, given["indices"]) if _is_mask(t)]
    if not masks:
        return True
    values, x = val(given["values"]), val(given["self"])
    indexed = [index for index in given["indices"] if index is not None]
    if len(indexed) > 1 or masks[0].dtype == torch.uint8:
        return Reject("a mask among several indices: how many elements are written depends on data")
    behind = x.dim() - len(given["indices"]) + 1 - masks[0].dim()
    if not isinstance(values, torch.Tensor) or not _is_one_value(values, behind):
        return Reject("writing several values through a mask: where each goes depends on data")
    return True


def _is_one_value(values: torch.Tensor, behind: int) -> bool:
    """Whether all that a mask takes gets the same: `values` have one along its dim, with so many dims behind it."""
    place = values.dim() - 1 - behind
    size = values.shape[place] if place >= 0 else 1
    return isinstance(size, int) and size == 1


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


@converts(
    [aten.index_put.default, aten._unsafe_index_put.default],
    capability_validator=all_of(movable, _writes),
)
def index_put(
    ctx: ConversionContext,
    x: Operand,
    indices: Sequence[Any],
    values: Any,
    accumulate: bool = False,
    unsafe: bool = False,
) -> ITensor:
    """``x[indices] = values`` with integer tensors, or with one mask and what each element that it takes gets."""
    x, values = ctx.tensor(x), ctx.tensor(values)
    indexed = [dim for dim, item in enumerate(indices) if item is not None]
    if not indexed:
        return ctx.expand(values, sizes(ctx, x))
    first = indices[indexed[0]]
    if ctx.dtype(first) == torch.bool:
        return _put_masked(ctx, x, indexed[0], ctx.tensor(first), values)
    if len(indexed) == 1:
        return _put_along(ctx, x, indexed[0], ctx.tensor(first), values)
    return _put_tuples(ctx, x, indexed, [ctx.tensor(indices[dim], torch.int64) for dim in indexed], values)


def _put_masked(ctx: ConversionContext, x: ITensor, before: int, mask: Any, values: ITensor) -> ITensor:
    """A mask over dims of `x` behind `before` others."""
    rank, masked = ctx.rank(x), ctx.rank(mask)
    behind = rank - before - masked
    mask = ctx.reshape(mask, [*[1] * before, *ctx.dims_of(mask), *[1] * behind])
    dims = ctx.dims_of(values)
    tail = dims[max(len(dims) - behind, 0) :]
    head = dims[: max(len(dims) - behind - 1, 0)]
    values = ctx.reshape(
        values, [*[1] * (before - len(head)), *head, *[1] * masked, *[1] * (behind - len(tail)), *tail]
    )
    return ctx.select(mask, values, x)


def _put_along(ctx: ConversionContext, x: ITensor, dim: int, index: ITensor, values: Any) -> ITensor:
    """One index of any rank: its dims are merged into one of what is written."""
    shape = sizes(ctx, x)
    places = ctx.dims_of(index)
    count = ctx.dim_product(places)
    wide = ctx.expand(values, [*shape[:dim], *places, *shape[dim + 1 :]])
    source = wide if len(places) == 1 else ctx.reshape(wide, [*shape[:dim], count, *shape[dim + 1 :]])
    return write_slices(ctx, x, dim, index, source)


def _put_tuples(
    ctx: ConversionContext, x: ITensor, indexed: list[int], indices: list[Any], values: Any
) -> ITensor:
    """Several indices: their dims moved to the front of `x`, written there, and moved back."""
    kept = [dim for dim in range(ctx.rank(x)) if dim not in indexed]
    neighbours = indexed[-1] - indexed[0] + 1 == len(indexed)
    before = indexed[0] if neighbours else 0
    shape = sizes(ctx, x)
    places = broadcast_dims(ctx, indices)
    rest = [shape[dim] for dim in kept]
    wide = ctx.expand(values, [*rest[:before], *places, *rest[before:]])
    order = [*range(before, before + len(places)), *range(before)]
    wide = ctx.permute(wide, [*order, *range(before + len(places), ctx.rank(wide))])
    count = ctx.dim_product(places)
    updates = ctx.reshape(wide, [count, *rest])
    columns = [ctx.reshape(ctx.expand(index, places), [count, 1]) for index in indices]
    front = [*indexed, *kept]
    written = scatter_tuples(ctx, ctx.permute(x, front), ctx.concat(columns, 1), updates)
    return ctx.permute(written, [front.index(dim) for dim in range(len(front))])


# ---- slices ------------------------------------------------------------------------------------------------


def _static_range(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    x = val(given["self"])
    if not all(is_static(given.get(name)) for name in ("start", "end", "step", "index")):
        return Reject("where to write varies from call to call")
    if isinstance(x, torch.Tensor) and not isinstance(x.shape[given["dim"]], int):
        return Reject("the size of the dim that is written to varies from call to call")
    return True


@converts(aten.slice_scatter.default, capability_validator=all_of(movable, _static_range))
def slice_scatter(
    ctx: ConversionContext,
    x: Operand,
    src: Operand,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> ITensor:
    """`x` with ``x[start:end:step]`` along `dim` replaced by `src`."""
    x, src = ctx.tensor(x), ctx.tensor(src)
    axis = ctx.axis(dim, ctx.rank(x))
    length = sizes(ctx, x)[axis]
    places = list(range(cast(int, length)))[start:end:step]
    if not places:
        return x
    if step == 1 or len(places) == 1:
        return _replaced(ctx, x, axis, places[0], places[-1] + 1, src)
    return write_slices(ctx, x, axis, ctx.constant(places, torch.int64), src)


@converts(aten.select_scatter.default, capability_validator=all_of(movable, _static_range))
def select_scatter(ctx: ConversionContext, x: Operand, src: Operand, dim: int, index: int) -> ITensor:
    """`x` with ``x[index]`` along `dim` replaced by `src`."""
    x, src = ctx.tensor(x), ctx.tensor(src)
    axis = ctx.axis(dim, ctx.rank(x))
    shape = sizes(ctx, x)
    place = index % cast(int, shape[axis])
    src = ctx.reshape(src, [*shape[:axis], 1, *shape[axis + 1 :]])
    return _replaced(ctx, x, axis, place, place + 1, src)


def _replaced(ctx: ConversionContext, x: ITensor, axis: int, start: int, end: int, src: ITensor) -> ITensor:
    """What is before `start` in `x`, then `src`, then what is from `end` on."""
    shape = sizes(ctx, x)

    def part(begin: int, stop: Any) -> list[Any]:
        if stop <= begin:
            return []
        origin = [begin if i == axis else 0 for i in range(len(shape))]
        return [ctx.slice(x, origin, [*shape[:axis], stop - begin, *shape[axis + 1 :]])]

    return ctx.concat([*part(0, start), src, *part(end, shape[axis])], axis)
