"""Elements by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, ConversionContext, Reject, converter, node_arguments
from trtcore_converters._checks import all_of, val
from trtcore_converters.shape import movable

aten = torch.ops.aten


def no_masks(node: fx.Node, ctx: CompileContext) -> bool | Reject:
    """Indexing by a bool (or uint8) mask has a shape that depends on data."""
    for index in node_arguments(node)["indices"]:
        tensor = val(index)
        if isinstance(tensor, torch.Tensor) and tensor.dtype in (torch.bool, torch.uint8):
            return Reject("indexing by a mask: the shape of the result depends on data")
    return True


@converter(
    [aten.index.Tensor, aten._unsafe_index.Tensor],
    capability_validator=all_of(movable, no_masks),
    supports_dynamic_shapes=True,
)
def index(ctx: ConversionContext, x: Any, indices: Sequence[Any]) -> Any:
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


def flat_position(ctx: ConversionContext, indices: Sequence[Any], sizes: Sequence[Any]) -> Any:
    """The row-major position of a multi-index in a block of `sizes`: an int64 ITensor of the broadcast shape."""
    result = None
    for item, size in zip(indices, sizes):
        wrapped = wrap(ctx, item, size)
        if result is None:
            result = wrapped
        else:
            result = ctx.elementwise(
                ctx.elementwise(result, ctx.scalar(size, torch.int64), "PROD"), wrapped, "SUM"
            )
    return result


def wrap(ctx: ConversionContext, item: Any, size: Any) -> Any:
    """Indices in [-size, size) as int64 in [0, size)."""
    if isinstance(item, torch.Tensor):
        if not bool((item < 0).any()):
            return ctx.constant(item, torch.int64)
        if not ctx.is_tensor(size):
            return ctx.constant(torch.where(item < 0, item + size, item), torch.int64)
    item = ctx.tensor(item, torch.int64)
    negative = ctx.elementwise(item, 0, "LESS", to=torch.int64)
    return ctx.select(negative, ctx.elementwise(item, ctx.scalar(size, torch.int64), "SUM"), item)


@converter(aten.index_select.default, capability_validator=movable, supports_dynamic_shapes=True)
def index_select(ctx: ConversionContext, x: Any, dim: int, index: Any) -> Any:
    """The slices `index` (1-D or 0-d, taken as one) along `dim`."""
    x, index = ctx.tensor(x), ctx.tensor(index)
    if ctx.rank(x) == 0:
        return ctx.reshape(ctx.gather(ctx.reshape(x, [1]), index, 0), [])
    if ctx.rank(index) == 0:
        index = ctx.reshape(index, [1])
    return ctx.gather(x, index, dim)


@converter(aten.gather.default, capability_validator=movable, supports_dynamic_shapes=True)
def gather(ctx: ConversionContext, x: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    """``x[..., index[...], ...]``: one index per element of the result, along `dim`."""
    x, index = ctx.tensor(x), ctx.tensor(index)
    if ctx.rank(x) == 0 or ctx.rank(index) == 0:
        flat = gather_elements(ctx, ctx.reshape(x, [-1]), ctx.reshape(index, [-1]), 0)
        return ctx.reshape(flat, ctx.dims_of(index))
    return gather_elements(ctx, x, index, ctx.axis(dim, ctx.rank(x)))


def gather_elements(ctx: ConversionContext, x: Any, index: Any, axis: int) -> Any:
    """TensorRT's GatherElements."""
    layer = ctx.net.add_gather_v2(x, index, ctx.trt.GatherMode.ELEMENT)
    layer.axis = axis
    return ctx.output(layer)
