"""Parts of a tensor, copies of it, and running sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._by_torch import by_torch, sizes
from trtcore_contrib_torch_tensorrt.converter_utils import dims_in, get_trt_tensor

__all__ = [
    "as_strided",
    "chunk",
    "cumsum",
    "diagonal",
    "expand",
    "flip",
    "narrow",
    "slice",
    "slice_op",
    "tile",
]


def slice_op(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    dim: int,
    start: Any,
    stop: Any,
    step: int,
) -> Any:
    """``input[..., start:stop:step, ...]`` at `dim`, with Python's rules; also where the dim's size varies."""
    x = get_trt_tensor(ctx, input, name)
    axis = ctx.axis(dim, ctx.rank(x))
    size = ctx.dim(x, axis)
    first = _place(ctx, 0 if start is None else start, size)
    last = size if stop is None else _place(ctx, stop, size)
    room = ctx.dim_op(ctx.dim_op(last, first, "SUB"), step - 1, "SUM")
    count = ctx.dim_op(ctx.dim_op(room, step, "FLOOR_DIV"), 0, "MAX")
    rank = ctx.rank(x)
    starts: list[Any] = [0] * rank
    strides = [1] * rank
    dims = ctx.dims_of(x)
    starts[axis], dims[axis], strides[axis] = first, count, step
    return ctx.slice(x, starts, dims, strides)


def _place(ctx: Any, index: Any, size: Any) -> Any:
    """An index of a slice as a place in [0, size]."""
    if not ctx.is_tensor(index):
        index = int(index)
        if index < 0:
            return ctx.dim_op(ctx.dim_op(size, index, "SUM"), 0, "MAX")
        return ctx.dim_op(index, size, "MIN")
    return ctx.dim_op(dims_in(ctx, [index])[0], size, "MIN")


def slice(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    start: Sequence[Any],
    shape: Sequence[Any],
    stride: Sequence[Any],
) -> Any:
    """A slice layer: elements ``start + i * stride`` for i below `shape`, per dim."""
    return ctx.slice(get_trt_tensor(ctx, input, name), *(dims_in(ctx, one) for one in (start, shape, stride)))


def narrow(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, dim: int, start: int, length: int
) -> Any:
    """`length` elements of `dim` from `start` on."""
    return slice_op(ctx, target, source_ir, name, input, dim, start, start + length, 1)


def expand(ctx: Any, target: Any, source_ir: Any, name: str, input_t: Any, shape: Any) -> Any:
    """`input_t` broadcast to `shape`, -1 keeping a dim."""
    return ctx.expand(get_trt_tensor(ctx, input_t, name), dims_in(ctx, shape))


def chunk(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, chunks: int, dim: int) -> Any:
    """A list of at most `chunks` parts of one size; the last may be smaller."""
    return by_torch(ctx, lambda x: list(torch.chunk(x, chunks, dim)), input)


def cumsum(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, dim: int) -> Any:
    """Running sums along `dim`."""
    return by_torch(ctx, lambda x: torch.cumsum(x, dim), input)


def tile(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, dims: Sequence[Any]) -> Any:
    """`input` repeated so often along its last dims; more numbers than dims make new ones in front."""
    return by_torch(ctx, lambda x, numbers: torch.tile(x, numbers), input, sizes(list(dims)))


def flip(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, dims: Sequence[int]) -> Any:
    """`input` backwards along `dims`."""
    return by_torch(ctx, lambda x: torch.flip(x, list(dims)), input)


def diagonal(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, offset: int, dim1: int, dim2: int
) -> Any:
    """The diagonal of two dims, as the last one."""
    return by_torch(ctx, lambda x: torch.diagonal(x, offset, dim1, dim2), input)


def as_strided(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> Any:
    """Elements at steps of a contiguous tensor's memory."""
    return by_torch(ctx, lambda x: torch.as_strided(x, list(size), list(stride), storage_offset or 0), input)
