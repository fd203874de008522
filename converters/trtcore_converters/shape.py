"""Views, parts and joins of tensors: what moves elements and computes nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

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
from trtcore_converters._checks import all_of, is_static, numeric, val
from trtcore_converters._declare import converts
from trtcore_converters._values import known_dim, output, traced_dims, used_outputs
from trtcore_converters.torch_private import interval

aten = torch.ops.aten


_MOST_DIMS = 8


def movable(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """TensorRT knows uint8 at the edges of a network only, and no more than eight dims."""
    result = node.meta.get("val")
    for tensor in result if isinstance(result, (list, tuple)) else (result,):
        if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.uint8:
            return Reject("TensorRT only casts uint8")
        if isinstance(tensor, torch.Tensor) and tensor.dim() > _MOST_DIMS:
            return Reject(f"TensorRT has tensors of at most {_MOST_DIMS} dims, and this has {tensor.dim()}")
    return True


def _traced_shape(ctx: ConversionContext, name: str) -> Sequence[Any] | None:
    """The traced shape of the argument `name`."""
    tensor = val(node_arguments(ctx.node).get(name))
    return tensor.shape if isinstance(tensor, torch.Tensor) else None


def sizes(ctx: ConversionContext, x: Operand, name: str = "self") -> list[Dim]:
    """The dims of the argument `name`: ints wherever the trace has them, else int64 ITensors of shape (1,)."""
    traced = _traced_shape(ctx, name)
    if traced is None or len(traced) != ctx.rank(x):
        return ctx.dims_of(x)
    return [int(dim) if isinstance(dim, int) else ctx.dim(x, i) for i, dim in enumerate(traced)]


# ---- other shapes ------------------------------------------------------------------------------------------


def _reshape_to(ctx: ConversionContext, x: Operand, dims: Sequence[Any]) -> ITensor:
    """`x` reshaped to the op's dims, with every dim that the trace knows as an int."""
    traced = output(ctx)
    if traced is not None and len(traced.shape) == len(dims):
        known = [known_dim(dim) for dim in traced.shape]
        dims = [want if have is None else have for have, want in zip(known, dims)]
    return ctx.reshape(ctx.tensor(x), dims)


@converts([aten.view.default, aten.reshape.default, aten._unsafe_view.default], capability_validator=movable)
def reshape(ctx: ConversionContext, x: Operand, dims: Sequence[Any]) -> ITensor:
    """`x` in another shape, rows kept in order."""
    return _reshape_to(ctx, x, dims)


@converts(aten.flatten.using_ints, capability_validator=movable)
def flatten(ctx: ConversionContext, x: Operand, start_dim: int = 0, end_dim: int = -1) -> ITensor:
    """Dims `start_dim` to `end_dim` as one."""
    dims = sizes(ctx, x)
    start, end = ctx.axis(start_dim, len(dims)), ctx.axis(end_dim, len(dims))
    return _reshape_to(ctx, x, [*dims[:start], -1, *dims[end + 1 :]])


@converts(aten.unflatten.int, capability_validator=movable)
def unflatten(ctx: ConversionContext, x: Operand, dim: int, dims: Sequence[Any]) -> ITensor:
    """Dim `dim` as several."""
    own = sizes(ctx, x)
    dim = ctx.axis(dim, len(own))
    return _reshape_to(ctx, x, [*own[:dim], *dims, *own[dim + 1 :]])


@converts(aten.unsqueeze.default, capability_validator=movable)
def unsqueeze(ctx: ConversionContext, x: Operand, dim: int) -> ITensor:
    """A new dim of one."""
    dims = sizes(ctx, x)
    dims.insert(dim % (len(dims) + 1), 1)
    return ctx.reshape(ctx.tensor(x), dims)


def _squeezed(ctx: ConversionContext, x: Operand, candidates: Sequence[int] | None) -> ITensor:
    dims = sizes(ctx, x)
    chosen = range(len(dims)) if candidates is None else {ctx.axis(dim, len(dims)) for dim in candidates}
    return ctx.reshape(
        ctx.tensor(x), [size for i, size in enumerate(dims) if i not in chosen or not _is_one(ctx, size)]
    )


def _is_one(ctx: ConversionContext, size: Any) -> bool:
    return not ctx.is_tensor(size) and size == 1


@converts(aten.squeeze.default, capability_validator=movable)
def squeeze(ctx: ConversionContext, x: Operand) -> ITensor:
    """Without the dims of one."""
    return _squeezed(ctx, x, None)


@converts(aten.squeeze.dim, capability_validator=movable)
def squeeze_dim(ctx: ConversionContext, x: Operand, dim: int) -> ITensor:
    """Without dim `dim`, if it is one."""
    return _squeezed(ctx, x, [dim])


@converts(aten.squeeze.dims, capability_validator=movable)
def squeeze_dims(ctx: ConversionContext, x: Operand, dims: Sequence[int]) -> ITensor:
    """Without those of the `dims` that are one."""
    return _squeezed(ctx, x, dims)


# ---- order of dims -----------------------------------------------------------------------------------------


@converts(aten.permute.default, capability_validator=movable)
def permute(ctx: ConversionContext, x: Operand, dims: Sequence[int]) -> ITensor:
    """Dims in another order."""
    return ctx.permute(ctx.tensor(x), dims)


@converts(aten.transpose.int, capability_validator=movable)
def transpose(ctx: ConversionContext, x: Operand, dim0: int, dim1: int) -> ITensor:
    """Two dims swapped."""
    order = list(range(ctx.rank(x)))
    if order:
        a, b = ctx.axis(dim0, len(order)), ctx.axis(dim1, len(order))
        order[a], order[b] = b, a
    return ctx.permute(ctx.tensor(x), order)


@converts([aten.t.default, aten.numpy_T.default, aten.mT.default], capability_validator=movable)
def matrix_transpose(ctx: ConversionContext, x: Operand) -> ITensor:
    """The dims of a matrix (or of a batch of them) swapped; ``T`` of more dims reverses all of them."""
    order = list(range(ctx.rank(x)))
    if ctx.node.target is aten.numpy_T.default:
        order.reverse()
    else:
        order[-2:] = order[-2:][::-1]
    return ctx.permute(ctx.tensor(x), order)


# ---- repetition --------------------------------------------------------------------------------------------


@converts(aten.expand.default, capability_validator=movable)
def expand(ctx: ConversionContext, x: Operand, dims: Sequence[Any], *, implicit: bool = False) -> ITensor:
    """Dims of one stretched; -1 keeps a dim, new dims come first."""
    traced, own = output(ctx), _traced_shape(ctx, "self")
    x = ctx.tensor(x)
    if traced is None or own is None:
        return ctx.expand(x, dims)
    new = len(dims) - len(own)
    kept = [i >= new and same(own[i - new], size) for i, size in enumerate(traced.shape)]
    stretched = [i < new or own[i - new] == 1 for i in range(len(dims)) if not kept[i]]
    if all(kept):
        return x
    if not all(stretched):  # whether a dim is one shows at run time
        return ctx.expand(x, [-1 if keep else want for keep, want in zip(kept, dims)])
    x = ctx.unsqueeze_to(x, len(dims))
    sizes = [ctx.dim(x, i) if keep else want for i, (keep, want) in enumerate(zip(kept, dims))]
    return ctx.slice(x, [0] * len(dims), sizes, [1 if keep else 0 for keep in kept])


def same(a: Any, b: Any) -> bool:
    """Whether two traced sizes are surely equal. Adds no guard."""
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return bool(a.node.expr == b.node.expr)


def _repeatable(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """How often varies only where a dim of one is stretched."""
    arguments = node_arguments(node)
    repeats, x = arguments["repeats"], val(arguments["self"])
    own = [1] * (len(repeats) - x.dim()) + list(x.shape)
    if all(is_static(times) or (isinstance(size, int) and size == 1) for times, size in zip(repeats, own)):
        return True
    return Reject("how often to repeat varies from call to call")


@converts(aten.repeat.default, capability_validator=all_of(movable, _repeatable))
def repeat(ctx: ConversionContext, x: Operand, repeats: Sequence[Any]) -> ITensor:
    """`x` laid side by side, `repeats` times per dim; new dims come first."""
    x = ctx.unsqueeze_to(ctx.tensor(x), len(repeats))
    varying = [-1 if is_static(times) else times for times in repeats]
    if any(not is_static(times) for times in repeats):
        x = ctx.expand(x, varying)
    for dim, times in enumerate(repeats):
        if times == 1 or not is_static(times):
            continue
        if times == 0:
            dims = ctx.dims_of(x)
            x = ctx.slice(x, [0] * len(dims), [0 if i == dim else size for i, size in enumerate(dims)])
        elif ctx.shape(x)[dim] == 1:
            x = ctx.expand(x, [times if i == dim else -1 for i in range(len(repeats))])
        else:
            x = ctx.concat([x] * times, dim)
    return x


# ---- parts -------------------------------------------------------------------------------------------------


def cut(ctx: ConversionContext, x: ITensor, dim: int, start: Any, size: Any, step: Any = 1) -> ITensor:
    """`size` slices of `x` along `dim` from `start` on, which is in range."""
    dims = ctx.dims_of(x)
    starts, steps = [0] * len(dims), [1] * len(dims)
    starts[dim], steps[dim], dims[dim] = start, step, size
    return ctx.slice(x, starts, dims, steps)


def bounded(ctx: ConversionContext, position: Any, name: str, size: Any) -> Dim:
    """A slice's start or end as torch reads it: from the end if negative, at least 0, at most `size`."""
    if not ctx.is_tensor(position):
        position = int(position)
        if position < 0:
            return ctx.dim_op(ctx.dim_op(size, position, "SUM"), 0, "MAX")
        if position == 0:
            return 0
        return size if position >= sys.maxsize else ctx.dim_op(size, position, "MIN")
    if not _never_negative(ctx, name):
        # position + size where position < 0: min(max(-position, 0), 1) says whether it is.
        negative = ctx.dim_op(ctx.dim_op(ctx.dim_op(0, position, "SUB"), 0, "MAX"), 1, "MIN")
        position = ctx.dim_op(position, ctx.dim_op(negative, size, "PROD"), "SUM")
        position = ctx.dim_op(position, 0, "MAX")
    return ctx.dim_op(position, size, "MIN")


def _never_negative(ctx: ConversionContext, name: str) -> bool:
    """Whether a traced size can't be below zero. Adds no guard."""
    value = val(node_arguments(ctx.node).get(name))
    if not isinstance(value, torch.SymInt):
        return False
    if value.node.expr.is_nonnegative:
        return True
    return bool(interval(value).lower >= 0)


@converts(aten.slice.Tensor, capability_validator=movable)
def slice_(
    ctx: ConversionContext, x: Operand, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1
) -> ITensor:
    """``x[start:end:step]`` along `dim`."""
    x = ctx.tensor(x)
    dim = ctx.axis(dim, ctx.rank(x))
    own, made = _traced_shape(ctx, "self"), output(ctx)
    if (
        own is not None
        and made is not None
        and not ctx.is_tensor(step)
        and step == 1
        and same(own[dim], made.shape[dim])
    ):
        return x
    size = ctx.dim(x, dim)
    first = bounded(ctx, 0 if start is None else start, "start", size)
    return cut(ctx, x, dim, first, _length(ctx, dim, size, first, end, step), step)


def _length(ctx: ConversionContext, dim: int, size: Any, first: Any, end: Any, step: Any) -> Dim:
    """How many slices there are: what the trace says, where the sizes there are known to the engine."""
    made = output(ctx)
    if made is not None:
        try:
            return traced_dims(ctx, [made.shape[dim]])[0]
        except Exception:  # the size has a name of its own: compute it from the bounds
            pass
    last = bounded(ctx, sys.maxsize if end is None else end, "end", size)
    length = ctx.dim_op(ctx.dim_op(last, first, "SUB"), 0, "MAX")
    if ctx.is_tensor(step) or step != 1:
        length = ctx.dim_op(ctx.dim_op(ctx.dim_op(length, step, "SUM"), 1, "SUB"), step, "FLOOR_DIV")
    return length


@converts(aten.select.int, capability_validator=movable)
def select(ctx: ConversionContext, x: Operand, dim: int, index: Dim) -> ITensor:
    """``x[index]`` along `dim`, which goes."""
    x = ctx.tensor(x)
    dim = ctx.axis(dim, ctx.rank(x))
    if not ctx.is_tensor(index) and index < 0 and ctx.shape(x)[dim] != -1:
        index += ctx.shape(x)[dim]
    return ctx.gather(x, ctx.scalar(index, torch.int64), dim)


@converts([aten.narrow.default], capability_validator=movable)
def narrow(ctx: ConversionContext, x: Operand, dim: int, start: Any, length: Any) -> ITensor:
    """`length` slices from `start` on."""
    x = ctx.tensor(x)
    dim = ctx.axis(dim, ctx.rank(x))
    return cut(ctx, x, dim, bounded(ctx, start, "start", ctx.dim(x, dim)), length)


def _pieces(ctx: ConversionContext, x: Operand, dim: int, lengths: Sequence[Any]) -> list[ITensor]:
    """Consecutive parts of `x` along `dim`; None for those that nobody takes."""
    x = ctx.tensor(x)
    dim = ctx.axis(dim, ctx.rank(x))
    used = used_outputs(ctx.node)
    parts: list[Any] = []
    start: Any = 0
    for index, length in enumerate(lengths):
        parts.append(cut(ctx, x, dim, start, length) if used is None or index in used else None)
        if index + 1 < len(lengths):
            start = ctx.dim_op(start, length, "SUM")
    return parts


def _traced_lengths(ctx: ConversionContext, dim: int) -> list[Dim]:
    """The lengths of the parts along `dim`, from the trace."""
    return [traced_dims(ctx, [part.shape[dim]])[0] for part in ctx.node.meta["val"]]


def _known_parts(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    if not isinstance(node.meta.get("val"), (list, tuple)):
        return Reject("how many parts there are is unknown")
    return True


@converts(
    [
        aten.split.Tensor,
        aten.split.default,
        aten.chunk.default,
        aten.unsafe_chunk.default,
        aten.unsafe_split.Tensor,
    ],
    capability_validator=all_of(movable, _known_parts),
)
def split(ctx: ConversionContext, x: Operand, size_or_chunks: Any, dim: int = 0) -> list[ITensor]:
    """Parts of one size, the last of them smaller."""
    return _pieces(ctx, x, dim, _traced_lengths(ctx, dim))


@converts(
    [
        aten.split_with_sizes.default,
        aten.split.sizes,
        aten.tensor_split.sections,
        aten.tensor_split.indices,
        aten.unsafe_split_with_sizes.default,
    ],
    capability_validator=all_of(movable, _known_parts),
)
def split_with_sizes(ctx: ConversionContext, x: Operand, lengths: Any, dim: int = 0) -> list[ITensor]:
    """Parts of the given lengths."""
    return _pieces(ctx, x, dim, _traced_lengths(ctx, dim))


@converts(aten.unbind.int, capability_validator=all_of(movable, _known_parts))
def unbind(ctx: ConversionContext, x: Operand, dim: int = 0) -> list[ITensor | None]:
    """The slices along `dim`, without it."""
    x = ctx.tensor(x)
    used = used_outputs(ctx.node)
    return [
        ctx.gather(x, ctx.constant(index, torch.int64), dim) if used is None or index in used else None
        for index in range(len(ctx.node.meta["val"]))
    ]


# ---- joins -------------------------------------------------------------------------------------------------


@converts([aten.cat.default, aten.concat.default], capability_validator=movable)
def cat(ctx: ConversionContext, tensors: Sequence[Any], dim: int = 0) -> ITensor:
    """The tensors one after the other; empty 1-D ones, which torch allows anywhere, are left out."""
    rank = max(ctx.rank(x) for x in tensors)
    made = output(ctx)
    kept = [x for x in tensors if ctx.rank(x) == rank and not (rank == 1 and ctx.shape(x) == (0,))] or [
        tensors[0]
    ]
    dtype = made.dtype if made is not None else ctx.dtype(kept[0])
    return ctx.concat([ctx.tensor(x, dtype) for x in kept], ctx.axis(dim, rank))


@converts(aten.stack.default, capability_validator=movable)
def stack(ctx: ConversionContext, tensors: Sequence[Any], dim: int = 0) -> ITensor:
    """The tensors along a new dim."""
    rank = ctx.rank(tensors[0]) + 1
    dim = ctx.axis(dim, rank)
    made = output(ctx)
    dtype = made.dtype if made is not None else ctx.dtype(tensors[0])
    parts = []
    for x in tensors:
        x = ctx.tensor(x, dtype)
        dims = ctx.dims_of(x)
        parts.append(ctx.reshape(x, [*dims[:dim], 1, *dims[dim:]]))
    return ctx.concat(parts, dim)


# ---- the same elements in another order --------------------------------------------------------------------


@converts(aten.flip.default, capability_validator=movable)
def flip(ctx: ConversionContext, x: Operand, dims: Sequence[int]) -> ITensor:
    """The `dims` backwards."""
    x = ctx.tensor(x)
    own = ctx.dims_of(x)
    chosen = {ctx.axis(dim, len(own)) for dim in dims} if own else set()
    if not chosen:
        return x
    starts = [
        ctx.dim_op(ctx.dim_op(size, 1, "SUB"), 0, "MAX") if i in chosen else 0 for i, size in enumerate(own)
    ]
    return ctx.slice(x, starts, own, [-1 if i in chosen else 1 for i in range(len(own))])


def _rolled_dims_static(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    shape = getattr(val(given["self"]), "shape", ())
    dims = given["dims"] or range(len(shape))
    if not is_static(given["shifts"]) or not is_static([shape[dim] for dim in dims] if shape else []):
        return Reject("a roll along a dim whose size varies")
    return True


@converts(aten.roll.default, capability_validator=all_of(movable, _rolled_dims_static))
def roll(ctx: ConversionContext, x: Operand, shifts: Sequence[int], dims: Sequence[int] = ()) -> ITensor:
    """Elements moved by `shifts` along `dims`, round and round; without dims along the flattened tensor."""
    x = ctx.tensor(x)
    if not dims:
        own = ctx.dims_of(x)
        return ctx.reshape(roll(ctx, ctx.reshape(x, [-1]), shifts, [0]), own)
    for shift, dim in zip(shifts, dims):
        dim = ctx.axis(dim, ctx.rank(x))
        size = ctx.shape(x)[dim]
        shift = shift % size if size else 0
        if shift:
            x = ctx.concat([cut(ctx, x, dim, size - shift, shift), cut(ctx, x, dim, 0, size - shift)], dim)
    return x


# ---- nothing at all ----------------------------------------------------------------------------------------


def _no_constant_bytes(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """TensorRT takes uint8 as an input, and has no constants of it."""
    (source, *_) = node.all_input_nodes
    constant = source.op == "get_attr" and getattr(val(source), "dtype", None) is torch.uint8
    return numeric(node, ctx) if constant else True


def _identity(ctx: ConversionContext, x: Operand, *_: Any, **__: Any) -> ITensor:
    return ctx.tensor(x)


_SAME: Sequence[Callable[..., Any]] = (
    aten.clone.default,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.lift_fresh.default,
    aten._conj.default,
    aten.resolve_conj.default,
    aten.resolve_neg.default,
    aten.positive.default,
)
converts(list(_SAME), name="identity", capability_validator=_no_constant_bytes)(_identity)


def _inactive(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    if given.get("train") and given.get("p") != 0:
        return Reject("dropout in training mode is random; call model.eval() before compiling")
    return True


@converts(
    [aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default],
    capability_validator=_inactive,
)
def dropout(ctx: ConversionContext, x: Operand, p: float, train: bool) -> ITensor:
    """Nothing, at inference."""
    return ctx.tensor(x)
