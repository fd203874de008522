"""Elements by index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from trtcore.pack import (
    ConversionContext,
    ITensor,
    NodeContext,
    Operand,
    Priority,
    Reject,
    Requires,
    node_arguments,
)
from trtcore_converters._checks import all_of, floating, is_static, val
from trtcore_converters._declare import converts
from trtcore_converters._values import broadcast_dims
from trtcore_converters.creation import filled
from trtcore_converters.shape import movable

aten = torch.ops.aten


def no_masks(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """Indexing by a bool (or uint8) mask has a shape that depends on data."""
    for index in node_arguments(node)["indices"]:
        tensor = val(index)
        if isinstance(tensor, torch.Tensor) and tensor.dtype in (torch.bool, torch.uint8):
            return Reject("indexing by a mask: the shape of the result depends on data")
    return True


@converts([aten.index.Tensor, aten._unsafe_index.Tensor], capability_validator=all_of(movable, no_masks))
def index(ctx: ConversionContext, x: Operand, indices: Sequence[Any]) -> ITensor:
    """``x[indices]`` with integer tensors, broadcast against each other, and None for dims that are kept.

    The indexed dims are replaced by the dims of the indices, where they were if they are neighbours, else in
    front (as in torch and NumPy). Negative indices count from the end.
    """
    x = ctx.tensor(x)
    indexed = [dim for dim, item in enumerate(indices) if item is not None]
    if not indexed:
        return x
    if len(indexed) == 1:
        return ctx.gather(x, ctx.tensor(indices[indexed[0]]), indexed[0])
    first, neighbours = indexed[0], indexed[-1] - indexed[0] + 1 == len(indexed)
    kept = [dim for dim in range(ctx.rank(x)) if dim not in indexed]
    before = first if neighbours else 0
    ordered = ctx.permute(x, [*kept[:before], *indexed, *kept[before:]])
    sizes = ctx.dims_of(ordered)
    end = before + len(indexed)
    merged = ctx.dim_product(sizes[before:end])
    rows = ctx.reshape(ordered, [*sizes[:before], merged, *sizes[end:]])
    position = flat_position(ctx, [indices[dim] for dim in indexed], sizes[before:end])
    return ctx.gather(rows, position, before)


def flat_position(ctx: ConversionContext, indices: Sequence[Any], sizes: Sequence[Any]) -> ITensor:
    """The row-major position of a multi-index in a block of `sizes`: an int64 ITensor of the broadcast shape."""
    result: ITensor | None = None
    for item, size in zip(indices, sizes):
        wrapped = wrap(ctx, item, size)
        if result is None:
            result = wrapped
        else:
            result = ctx.elementwise(
                ctx.elementwise(result, ctx.scalar(size, torch.int64), "PROD"), wrapped, "SUM"
            )
    assert result is not None
    return result


def wrap(ctx: ConversionContext, item: Any, size: Any) -> ITensor:
    """Indices in [-size, size) as int64 in [0, size)."""
    if isinstance(item, torch.Tensor):
        if not bool((item < 0).any()):
            return ctx.constant(item, torch.int64)
        if not ctx.is_tensor(size):
            return ctx.constant(torch.where(item < 0, item + size, item), torch.int64)
    item = ctx.tensor(item, torch.int64)
    negative = ctx.elementwise(item, 0, "LESS", to=torch.int64)
    return ctx.select(negative, ctx.elementwise(item, ctx.scalar(size, torch.int64), "SUM"), item)


@converts(aten.index_select.default, capability_validator=movable)
def index_select(ctx: ConversionContext, x: Operand, dim: int, index: Operand) -> ITensor:
    """The slices `index` (1-D or 0-d, taken as one) along `dim`."""
    x, index = ctx.tensor(x), ctx.tensor(index)
    if ctx.rank(x) == 0:
        return ctx.reshape(ctx.gather(ctx.reshape(x, [1]), index, 0), [])
    if ctx.rank(index) == 0:
        index = ctx.reshape(index, [1])
    return ctx.gather(x, index, dim)


@converts(aten.gather.default, capability_validator=movable)
def gather(
    ctx: ConversionContext, x: Operand, dim: int, index: Operand, *, sparse_grad: bool = False
) -> ITensor:
    """``x[..., index[...], ...]``: one index per element of the result, along `dim`."""
    x, index = ctx.tensor(x), ctx.tensor(index, torch.int64)
    if 0 in ctx.shape(index):  # may have any number of dims
        return filled(ctx, ctx.dims_of(index), 0, ctx.dtype(x))
    if ctx.rank(x) == 0 or ctx.rank(index) == 0:
        flat = gather_elements(ctx, ctx.reshape(x, [-1]), ctx.reshape(index, [-1]), 0)
        return ctx.reshape(flat, ctx.dims_of(index))
    return gather_elements(ctx, x, index, ctx.axis(dim, ctx.rank(x)))


def gather_elements(ctx: ConversionContext, x: Operand, index: Operand, axis: int) -> ITensor:
    """TensorRT's GatherElements."""
    layer = ctx.net.add_gather_v2(x, index, ctx.trt.GatherMode.ELEMENT)
    layer.axis = axis
    return ctx.output(layer)


# ---- elements by their place in memory ----------------------------------------------------------------------


def _fixed_corner(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    shape = getattr(val(given["self"]), "shape", None)
    if shape is not None and not (is_static(shape[given["dim1"]]) and is_static(shape[given["dim2"]])):
        return Reject("the diagonal of a matrix whose size varies")
    return True


@converts(aten.diagonal.default, capability_validator=all_of(movable, _fixed_corner))
def diagonal(ctx: ConversionContext, x: Operand, offset: int = 0, dim1: int = 0, dim2: int = 1) -> ITensor:
    """The diagonals of the matrices over two dims, as a last dim; `offset` counts to the right of the main one."""
    x = ctx.tensor(x)
    rank = ctx.rank(x)
    rows, columns = ctx.axis(dim1, rank), ctx.axis(dim2, rank)
    kept = [dim for dim in range(rank) if dim not in (rows, columns)]
    size = (ctx.shape(x)[rows], ctx.shape(x)[columns])
    places = torch.arange(size[0] * size[1]).reshape(size).diagonal(offset).contiguous()
    last = ctx.permute(x, [*kept, rows, columns])
    flat = ctx.reshape(last, [*ctx.dims_of(last)[:-2], size[0] * size[1]])
    return ctx.gather(flat, ctx.constant(places), len(kept))


def _memory_order(x: torch.Tensor) -> list[int] | None:
    """The dims of a traced tensor from the slowest to the fastest in memory; None where it is not dense there."""
    if not all(isinstance(size, int) for size in (*x.shape, *x.stride())) or x.storage_offset():
        return None
    order = sorted(range(x.dim()), key=lambda dim: (-x.stride()[dim], -x.shape[dim]))
    expected = 1
    for dim in reversed(order):
        if x.shape[dim] != 1 and x.stride(dim) != expected:
            return None
        expected *= x.shape[dim]
    return order


def _dense(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    if not all(is_static(given[name]) for name in ("size", "stride", "storage_offset")):
        return Reject("its sizes or strides vary from call to call")
    x = val(given["self"])
    if not isinstance(x, torch.Tensor) or _memory_order(x) is None:
        return Reject(
            "it looks into the memory of a tensor that is part of a larger one, or of varying shape"
        )
    size, stride = given["size"], given["stride"]
    last = (given["storage_offset"] or 0) + sum((n - 1) * step for n, step in zip(size, stride))
    if last >= x.numel() and math.prod(size):
        return Reject(f"it looks at place {last} of memory in which the tensor it is given has {x.numel()}")
    return True


@converts(aten.as_strided.default, capability_validator=all_of(movable, _dense))
def as_strided(
    ctx: ConversionContext, x: Operand, size: Any, stride: Any, storage_offset: int | None = None
) -> ITensor:
    """The elements at ``offset + sum(index * stride)`` of a tensor in its traced layout, gathered."""
    traced = val(node_arguments(ctx.node)["self"])
    x = ctx.permute(ctx.tensor(x), _memory_order(traced) or [])
    count = math.prod(ctx.shape(x))
    places = torch.arange(count).as_strided(tuple(size), tuple(stride), storage_offset or 0).contiguous()
    return ctx.gather(ctx.reshape(x, [count]), ctx.constant(places), 0)


@converts(aten.as_strided_scatter.default, capability_validator=all_of(movable, _dense))
def as_strided_scatter(
    ctx: ConversionContext,
    x: Operand,
    src: Operand,
    size: Any,
    stride: Any,
    storage_offset: int | None = None,
) -> ITensor:
    """`x` with `src` written at ``offset + sum(index * stride)`` of its traced layout."""
    order = _memory_order(val(node_arguments(ctx.node)["self"])) or []
    x = ctx.permute(ctx.tensor(x), order)
    shape, count = ctx.shape(x), math.prod(ctx.shape(x))
    places = torch.arange(count).as_strided(tuple(size), tuple(stride), storage_offset or 0).flatten()
    taken, updates = (
        ctx.constant(places.contiguous()),
        ctx.reshape(ctx.tensor(src, ctx.dtype(x)), [places.numel()]),
    )
    layer = ctx.net.add_scatter(ctx.reshape(x, [count]), taken, updates, ctx.trt.ScatterMode.ELEMENT)
    if layer is not None:
        layer.axis = 0
    written = ctx.reshape(ctx.output(layer), shape)
    return ctx.permute(written, [order.index(dim) for dim in range(len(order))])


def _fixed_dim(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    shape = getattr(val(given["self"]), "shape", None)
    if not is_static([given["size"], given["step"]]) or (shape and not is_static(shape[given["dimension"]])):
        return Reject("the dim to unfold, or the windows, vary from call to call")
    return True


@converts(aten.unfold.default, capability_validator=all_of(movable, _fixed_dim))
def unfold(ctx: ConversionContext, x: Operand, dimension: int, size: int, step: int) -> ITensor:
    """Windows of `size`, every `step`, along a dim, which counts the windows then; their elements are a last dim."""
    x = ctx.tensor(x)
    rank = ctx.rank(x)
    if rank == 0:
        return ctx.expand(ctx.reshape(x, [1]), [size])
    dim = ctx.axis(dimension, rank)
    places = torch.arange(ctx.shape(x)[dim]).unfold(0, size, step).contiguous()
    windows = ctx.gather(x, ctx.constant(places), dim)
    return ctx.permute(windows, [i for i in range(rank + 1) if i != dim + 1] + [dim + 1])


# ---- pairs ------------------------------------------------------------------------------------


def _fixed_count(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    shape = getattr(val(node_arguments(node)["self"]), "shape", None)
    if shape is not None and not is_static(shape[0]):
        return Reject("how many pairs there are varies from call to call")
    return True


@converts(
    [aten.pdist.default, aten._pdist_forward.default],
    capability_validator=all_of(floating("self"), _fixed_count),
)
def pdist(ctx: ConversionContext, x: Operand, p: float = 2.0) -> ITensor:
    """The p-norms of the differences of all pairs of rows (i < j): x of shape (n, m), the result (n (n - 1) / 2,)."""
    x = ctx.tensor(x)
    first, second = torch.triu_indices(ctx.shape(x)[0], ctx.shape(x)[0], 1)
    rows = [ctx.gather(x, ctx.constant(index.contiguous()), 0) for index in (first, second)]
    size = ctx.unary(ctx.cast(ctx.elementwise(rows[0], rows[1], "SUB"), torch.float32), "ABS")
    if p == 0:
        found = ctx.reduce(ctx.cast(ctx.cast(size, torch.bool), torch.float32), "SUM", [1])
    elif math.isinf(p):
        found = ctx.reduce(size, "MAX", [1])
    elif p == 1:
        found = ctx.reduce(size, "SUM", [1])
    elif p == 2:
        found = ctx.unary(ctx.reduce(ctx.elementwise(size, size, "PROD"), "SUM", [1]), "SQRT")
    else:
        total = ctx.reduce(ctx.elementwise(size, float(p), "POW"), "SUM", [1])
        found = ctx.elementwise(total, 1.0 / p, "POW")
    return ctx.cast(found, ctx.dtype(x))


# ---- where elements are -------------------------------------------------------------------------------------


@converts(
    [aten.nonzero.default, aten.argwhere.default],
    capability_validator=movable,
    requires_output_allocator=True,
    requires=Requires(layers=frozenset({"add_non_zero"})),
)
def nonzero(ctx: ConversionContext, x: Operand) -> ITensor:
    """The indices of the elements that are not zero, one per row, in row-major order."""
    x = ctx.tensor(x)
    found = ctx.output(ctx.net.add_non_zero(ctx.cast(x, torch.bool)))
    return ctx.cast(ctx.permute(found, [1, 0]), torch.int64)


def _one_mask(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    indices = node_arguments(node)["indices"]
    if len(indices) != 1 or getattr(val(indices[0]), "dtype", None) != torch.bool:
        return Reject("a mask among several indices: the shape of the result depends on data")
    return True


_NON_ZERO = Requires(layers=frozenset({"add_non_zero"}))


@converts(
    aten.masked_select.default,
    capability_validator=movable,
    requires_output_allocator=True,
    requires=_NON_ZERO,
)
def masked_select(ctx: ConversionContext, x: Operand, mask: Any) -> ITensor:
    """The elements that the mask sets, in row-major order, after both are broadcast."""
    x, mask = ctx.tensor(x), ctx.tensor(mask)
    shape = broadcast_dims(ctx, [x, mask])
    flat, where = (ctx.reshape(ctx.expand(tensor, shape), [-1]) for tensor in (x, mask))
    return _selected(ctx, flat, where)


@converts(
    aten.index.Tensor,
    priority=Priority.FALLBACK,
    capability_validator=all_of(movable, _one_mask),
    requires_output_allocator=True,
    requires=_NON_ZERO,
)
def index_by_mask(ctx: ConversionContext, x: Operand, indices: Sequence[Any]) -> ITensor:
    """``x[mask]``: the slices that the mask over the first dims sets."""
    x, mask = ctx.tensor(x), ctx.tensor(indices[0])
    rest = ctx.dims_of(x)[ctx.rank(mask) :]
    return _selected(ctx, ctx.reshape(x, [-1, *rest]), ctx.reshape(mask, [-1]))


def _selected(ctx: ConversionContext, rows: Any, mask: Any) -> ITensor:
    """The rows that a mask of shape (rows,) sets."""
    found = ctx.output(ctx.net.add_non_zero(mask))  # (1, how many)
    layer = ctx.net.add_shuffle(found)
    layer.reshape_dims = (-1,)
    return ctx.gather(rows, ctx.output(layer), 0)
