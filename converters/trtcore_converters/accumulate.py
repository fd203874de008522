"""Many elements into one place: scatter_add, scatter_reduce, index_add, index_reduce, index_put that accumulates.

TensorRT's Scatter replaces elements, and which of two updates of one element wins is undefined. So every place
looks for its own elements: the index is compared with all places, and what does not belong to a place counts as
the neutral element of the reduction. That is exact, also for integers and for indices that occur many times, and
its cost is the number of updates times the number of places, which is why there is a limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from trtcore.pack import (
    ConversionContext,
    Dim,
    ITensor,
    NodeContext,
    Operand,
    Priority,
    Reject,
    node_arguments,
)
from trtcore_converters._checks import all_of, numeric, val
from trtcore_converters._declare import converts
from trtcore_converters._spatial import sample
from trtcore_converters._values import LOW_PRECISION, broadcast_dims, most
from trtcore_converters.creation import positions
from trtcore_converters.gather import flat_position, no_masks
from trtcore_converters.scatter import same_sizes
from trtcore_converters.shape import movable, same, sizes

aten = torch.ops.aten

COMPARISONS = 1 << 26
"""The largest number of updates times places."""


@dataclass(frozen=True)
class _Reduction:
    """A way to make one value of many: the names of the layers' operations, and the value that changes nothing."""

    reduce: str
    combine: str
    neutral: Callable[[torch.dtype], float]


def _lowest(dtype: torch.dtype) -> float:
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def _highest(dtype: torch.dtype) -> float:
    return math.inf if dtype.is_floating_point else torch.iinfo(dtype).max


_SUM = _Reduction("SUM", "SUM", lambda dtype: 0)
_REDUCTIONS = {
    "sum": _SUM,
    "add": _SUM,
    "mean": _SUM,
    "prod": _Reduction("PROD", "PROD", lambda dtype: 1),
    "multiply": _Reduction("PROD", "PROD", lambda dtype: 1),
    "amax": _Reduction("MAX", "MAX", _lowest),
    "amin": _Reduction("MIN", "MIN", _highest),
}


# ---- the limit ---------------------------------------------------------------------------------------------


def _affordable(updates: str, places: Callable[[fx.Node], Any]) -> Callable[..., bool | Reject]:
    """The elements of the argument `updates` times ``places(node)`` stay under the limit."""

    def check(node: fx.Node, ctx: NodeContext) -> bool | Reject:
        tensor = val(node_arguments(node)[updates])
        if not isinstance(tensor, torch.Tensor):
            return True
        if tensor.dim() > 7:
            return Reject(
                "TensorRT has tensors of at most 8 dims, and comparing with every place takes one more"
            )
        return affordable([*tensor.shape, places(node)])

    return check


def affordable(factors: Sequence[Any]) -> bool | Reject:
    """The product of sizes (ints or SymInts, which count with their upper bounds) stays under the limit."""
    known = [most(size) for size in factors]
    if None in known:
        return Reject("how many elements come together has no upper bound; give the input a max_shape")
    total = math.prod(size for size in known if size is not None)
    if total > COMPARISONS:
        return Reject(
            "TensorRT's scatter replaces elements and does not accumulate (IScatterLayer has no reduction); comparing "
            f"every index with every place takes {total} comparisons, and more "
            f"than {COMPARISONS} are slower than torch"
        )
    return True


def _along_dim(node: fx.Node) -> Any:
    given = node_arguments(node)
    shape = getattr(val(given["self"]), "shape", ())
    return shape[given["dim"]] if len(shape) else 1


def _under_indices(node: fx.Node) -> Any:
    given = node_arguments(node)
    shape = getattr(val(given["self"]), "shape", ())
    indexed = [size for size, item in zip(shape, given["indices"]) if item is not None]
    return math.prod(bound if (bound := most(size)) is not None else COMPARISONS + 1 for size in indexed)


# ---- all elements of a place -------------------------------------------------------------------------------


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for lower precisions (rounded once, at the end), int32 for bool, else `dtype` itself."""
    return torch.float32 if dtype in LOW_PRECISION else torch.int32 if dtype == torch.bool else dtype


def belongs(ctx: ConversionContext, index: ITensor, axis: int, count: Any) -> ITensor:
    """Whether an element belongs to a place.

    Args:
        index: int ITensor; the place of every element.
        axis: the dim along which elements come together.
        count: the number of places, an int or a symbolic int.

    Returns:
        bool ITensor with one more dim than `index`: the places at `axis`, the elements behind it.
    """
    dims = ctx.dims_of(index)
    places = ctx.reshape(
        ctx.cast(positions(ctx, count), ctx.dtype(index)), [*[1] * axis, count, *[1] * (len(dims) - axis)]
    )
    return ctx.elementwise(ctx.reshape(index, [*dims[:axis], 1, *dims[axis:]]), places, "EQUAL")


def gathered(ctx: ConversionContext, hit: Any, source: ITensor, axis: int, how: str) -> ITensor:
    """The elements of every place as one: `source` reduced along `axis`, whose size is then that of the places.

    Args:
        hit: what `belongs` gives.
        source: ITensor of the computing dtype.
        how: a key of the reductions ("sum", "prod", "amax", "amin").
    """
    way, dtype = _REDUCTIONS[how], ctx.dtype(source)
    dims = ctx.dims_of(source)
    wide = ctx.reshape(source, [*dims[:axis], 1, *dims[axis:]])
    return ctx.reduce(ctx.select(hit, wide, ctx.constant(way.neutral(dtype), dtype)), way.reduce, [axis + 1])


def _reduced_into(
    ctx: ConversionContext,
    x: ITensor,
    index: ITensor,
    source: ITensor,
    axis: int,
    how: str,
    include_self: bool = True,
) -> ITensor:
    """`x` with the elements of `source` reduced into ``x[..., index[...], ...]`` along `axis`.

    Args:
        x, source: ITensors of one dtype.
        index: int ITensor of source's shape, or that broadcasts to it; besides `axis` no larger than `x`.
        include_self: whether the elements of `x` take part where others come in.
    """
    dtype = ctx.dtype(x)
    inside = computing_dtype(dtype)
    own, source = ctx.cast(x, inside), ctx.cast(source, inside)
    hit = belongs(ctx, index, axis, sizes(ctx, x)[axis])
    way = _REDUCTIONS[how]
    found = _to_shape(ctx, gathered(ctx, hit, source, axis, how), axis, x, way.neutral(inside))
    counted = None
    if how == "mean" or not include_self:
        ones = ctx.cast(hit, torch.int64 if inside == torch.int64 else torch.int32)
        counted = _to_shape(ctx, ctx.reduce(ones, "SUM", [axis + 1]), axis, x, 0)
    result = ctx.elementwise(own, found, way.combine) if include_self else found
    if how == "mean":
        assert counted is not None
        result = _divided(ctx, result, counted, 1 if include_self else 0)
    if not include_self:
        assert counted is not None
        result = ctx.select(ctx.elementwise(counted, 0, "GREATER", to=ctx.dtype(counted)), result, own)
    return ctx.cast(result, dtype)


def _divided(ctx: ConversionContext, total: Any, counted: Any, more: int) -> ITensor:
    """A mean, rounded down on integers as torch does; of nothing it is the total, which nobody takes."""
    dtype = ctx.dtype(total)
    number = ctx.elementwise(counted, more, "SUM", to=ctx.dtype(counted)) if more else counted
    number = ctx.elementwise(number, 1, "MAX", to=ctx.dtype(counted))
    return ctx.elementwise(total, number, "DIV" if dtype.is_floating_point else "FLOOR_DIV", to=dtype)


def _to_shape(ctx: ConversionContext, found: Any, axis: int, x: Operand, fill: float) -> Any:
    """`found` grown to the shape of `x` behind the ends of its dims, where the op's index is smaller than `x`."""
    given = node_arguments(ctx.node)
    index, own = val(given.get("index")), val(given["self"])
    if not isinstance(index, torch.Tensor) or index.dim() != own.dim():
        return found
    more = [
        0 if dim == axis or same(have, want) else ctx.dim_op(ctx.dim(x, dim), ctx.dim(found, dim), "SUB")
        for dim, (have, want) in enumerate(zip(index.shape, own.shape))
    ]
    return sample(ctx, found, [0] * len(more), more, "FILL", ctx.constant(fill, ctx.dtype(found)))


# ---- scatter -----------------------------------------------------------------------------------------------

_scatters = all_of(movable, numeric, _affordable("index", _along_dim))


def _scatter(
    ctx: ConversionContext,
    x: Operand,
    dim: int,
    index: Operand,
    source: ITensor,
    how: str,
    include_self: bool = True,
) -> ITensor:
    x, index = ctx.tensor(x), ctx.tensor(index)
    scalar = ctx.rank(x) == 0
    if scalar:
        x, index, source = ctx.reshape(x, [1]), ctx.reshape(index, [1]), ctx.reshape(source, [1])
    elif ctx.rank(index) == 0:
        index, source = ctx.reshape(index, [1]), ctx.reshape(source, [1])
    if "src" in node_arguments(ctx.node) and not same_sizes("index", "src", ctx):
        source = ctx.slice(source, [0] * ctx.rank(index), ctx.dims_of(index))
    result = _reduced_into(ctx, x, index, source, ctx.axis(dim, ctx.rank(x)), how, include_self)
    return ctx.reshape(result, []) if scalar else result


@converts(aten.scatter_add.default, capability_validator=_scatters)
def scatter_add(ctx: ConversionContext, x: Operand, dim: int, index: Operand, src: Operand) -> ITensor:
    """``src[i]`` added at ``index[i]`` along `dim`."""
    return _scatter(ctx, x, dim, index, ctx.tensor(src), "sum")


@converts(aten.scatter_reduce.two, capability_validator=_scatters)
def scatter_reduce(
    ctx: ConversionContext,
    x: Operand,
    dim: int,
    index: Operand,
    src: Operand,
    reduce: str,
    *,
    include_self: bool = True,
) -> ITensor:
    """``src[i]`` reduced ("sum", "prod", "mean", "amax", "amin") into what is at ``index[i]`` along `dim`."""
    return _scatter(ctx, x, dim, index, ctx.tensor(src), reduce, include_self)


@converts(aten.scatter.reduce, capability_validator=_scatters)
def scatter_with_reduction(
    ctx: ConversionContext, x: Operand, dim: int, index: Operand, src: Operand, *, reduce: str
) -> ITensor:
    """``src[i]`` added to ("add"), or multiplied with ("multiply"), what is at ``index[i]`` along `dim`."""
    return _scatter(ctx, x, dim, index, ctx.tensor(src), reduce)


@converts(aten.scatter.value_reduce, capability_validator=_scatters)
def scatter_value_with_reduction(
    ctx: ConversionContext, x: Operand, dim: int, index: Operand, value: Dim | float, *, reduce: str
) -> ITensor:
    """A number added to, or multiplied with, what is at ``index[i]`` along `dim`, as often as it is there."""
    x = ctx.tensor(x)
    source = ctx.expand(ctx.scalar(value, ctx.dtype(x)), ctx.dims_of(ctx.tensor(index)))
    return _scatter(ctx, x, dim, index, source, reduce)


# ---- slices by index ---------------------------------------------------------------------------------------


def _slices(
    ctx: ConversionContext,
    x: Operand,
    dim: int,
    index: Operand,
    source: ITensor,
    how: str,
    include_self: bool = True,
) -> ITensor:
    """Slices of `source` reduced into the slices `index` (1-D, or 0-d for one) of `x` along `dim`."""
    x, index = ctx.tensor(x), ctx.tensor(index)
    if ctx.rank(x) == 0:
        x, source = ctx.reshape(x, [1]), ctx.reshape(source, [-1])
        return ctx.reshape(_slices(ctx, x, 0, index, source, how, include_self), [])
    axis, rank = ctx.axis(dim, ctx.rank(x)), ctx.rank(x)
    count = ctx.dim(index, 0) if ctx.rank(index) else 1
    if ctx.rank(source) < rank:
        shape = sizes(ctx, x)
        source = ctx.reshape(source, [*shape[:axis], count, *shape[axis + 1 :]])
    line = ctx.reshape(index, [*[1] * axis, count, *[1] * (rank - axis - 1)])
    return _reduced_into(ctx, x, line, source, axis, how, include_self)


@converts(
    aten.index_add.default,
    capability_validator=all_of(movable, numeric, _affordable("source", _along_dim)),
)
def index_add(
    ctx: ConversionContext, x: Operand, dim: int, index: Operand, source: Operand, *, alpha: Any = 1
) -> ITensor:
    """`alpha` times the slices of `source` added to the slices `index` of `x` along `dim`."""
    x, source = ctx.tensor(x), ctx.tensor(source)
    inside = computing_dtype(ctx.dtype(x))
    if ctx.is_tensor(alpha) or alpha != 1:
        source = ctx.elementwise(ctx.cast(source, inside), ctx.scalar(alpha, inside), "PROD")
    result = _slices(ctx, ctx.cast(x, inside), dim, index, source, "sum")
    return ctx.cast(result, ctx.dtype(x))


@converts(
    aten.index_reduce.default,
    capability_validator=all_of(movable, numeric, _affordable("source", _along_dim)),
)
def index_reduce(
    ctx: ConversionContext,
    x: Operand,
    dim: int,
    index: Operand,
    source: Operand,
    reduce: str,
    *,
    include_self: bool = True,
) -> ITensor:
    """The slices of `source` reduced ("prod", "mean", "amax", "amin") into the slices `index` of `x`."""
    return _slices(ctx, x, dim, index, ctx.tensor(source), reduce, include_self)


# ---- index_put ---------------------------------------------------------------------------------------------


def _accumulates(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    if not node_arguments(node).get("accumulate"):
        return Reject("it replaces elements")
    return True


def _written(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """The elements that are written times the places they may go to."""
    given = node_arguments(node)
    indices = [val(item) for item in given["indices"] if item is not None]
    shape = getattr(val(given["self"]), "shape", ())
    kept = [size for size, item in zip(shape, [*given["indices"], *[None] * len(shape)]) if item is None]
    longest = [max(most(size) or COMPARISONS for size in sizes) for sizes in _aligned(indices)]
    return affordable([*longest, *kept, _under_indices(node)])


def _aligned(tensors: Sequence[torch.Tensor]) -> list[list[Any]]:
    """Per dim of the broadcast tensors, the sizes there."""
    rank = max(tensor.dim() for tensor in tensors)
    return [[t.shape[i - rank] for t in tensors if t.dim() >= rank - i] for i in range(rank)]


@converts(
    [aten.index_put.default, aten._unsafe_index_put.default],
    priority=Priority.FALLBACK,
    capability_validator=all_of(_accumulates, movable, numeric, no_masks, _written),
)
def index_put_accumulate(
    ctx: ConversionContext,
    x: Operand,
    indices: Sequence[Any],
    values: Any,
    accumulate: bool = False,
    unsafe: bool = False,
) -> ITensor:
    """``x[indices] += values`` with integer tensors, where an element may occur many times."""
    x, values = ctx.tensor(x), ctx.tensor(values)
    shape = sizes(ctx, x)
    indexed = [dim for dim, item in enumerate(indices) if item is not None]
    kept = [dim for dim in range(len(shape)) if dim not in indexed]
    places = broadcast_dims(ctx, [ctx.tensor(indices[dim]) for dim in indexed])
    rest = [shape[dim] for dim in kept]
    neighbours = indexed[-1] - indexed[0] + 1 == len(indexed)
    before = indexed[0] if neighbours else 0
    wide = ctx.expand(values, [*rest[:before], *places, *rest[before:]])
    order = [*range(before, before + len(places)), *range(before)]
    wide = ctx.permute(wide, [*order, *range(before + len(places), ctx.rank(wide))])
    count = ctx.dim_product(places)
    position = flat_position(ctx, [indices[dim] for dim in indexed], [shape[dim] for dim in indexed])
    line = ctx.reshape(ctx.expand(position, places), [count, *[1] * len(rest)])
    front = [*indexed, *kept]
    moved = ctx.permute(x, front)
    rows = ctx.reshape(moved, [ctx.dim_product([shape[dim] for dim in indexed]), *rest])
    inside, dtype = computing_dtype(ctx.dtype(x)), ctx.dtype(x)
    source = ctx.cast(ctx.reshape(wide, [count, *rest]), inside)
    added = gathered(ctx, belongs(ctx, line, 0, ctx.dim(rows, 0)), source, 0, "sum")
    result = ctx.cast(ctx.elementwise(ctx.cast(rows, inside), added, "SUM"), dtype)
    return ctx.permute(
        ctx.reshape(result, [shape[dim] for dim in front]), [front.index(d) for d in range(len(front))]
    )
