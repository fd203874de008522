"""Parts of a tensor, and copies of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor

__all__ = ["expand", "slice_op"]


def slice_op(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    dim: int,
    start: int | None,
    stop: int | None,
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
    sizes = ctx.dims_of(x)
    starts[axis], sizes[axis], strides[axis] = first, count, step
    return ctx.slice(x, starts, sizes, strides)


def _place(ctx: Any, index: Any, size: Any) -> Any:
    """An index of a slice as a place in [0, size]."""
    if not ctx.is_tensor(index) and index < 0:
        return ctx.dim_op(ctx.dim_op(size, index, "SUM"), 0, "MAX")
    return ctx.dim_op(index, size, "MIN")


def expand(ctx: Any, target: Any, source_ir: Any, name: str, input_t: Any, shape: Sequence[Any]) -> Any:
    """`input_t` broadcast to `shape`, -1 keeping a dim."""
    return ctx.expand(get_trt_tensor(ctx, input_t, name), list(shape))
