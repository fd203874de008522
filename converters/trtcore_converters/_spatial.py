"""What convolutions and pooling share: settings per dim, padding, 1-D or unbatched inputs in 2-D."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from trtcore.pack import ConversionContext, ITensor


def spread(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """A setting with one entry per spatial dim; a single entry stands for all of them."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return tuple(int(v) for v in (values * dims if len(values) == 1 else values))


def in_two_dims(ctx: ConversionContext, x: ITensor, dims: int, layer: Callable[[Any], Any]) -> Any:
    """Run `layer` on `x` as a batch with at least two spatial dims, which TensorRT's layers want.

    An unbatched input gets a batch dim of one, and with one spatial dim a dim of one goes before it; the
    result loses them again.

    Args:
        x: ITensor of shape (N, C, *spatial) or (C, *spatial).
        dims: number of spatial dims.
        layer: from ITensor to ITensor of the same rank.
    """
    batched = ctx.rank(x) == dims + 2
    sizes = ctx.dims_of(x)
    if not batched:
        sizes = [1, *sizes]
    if dims == 1:
        sizes = [*sizes[:2], 1, sizes[2]]
    if batched and dims > 1:
        return layer(x)
    result = ctx.dims_of(out := layer(ctx.reshape(x, sizes)))
    if dims == 1:
        result = [*result[:2], result[3]]
    return ctx.reshape(out, result if batched else result[1:])


def one_dim(values: Sequence[int], dims: int, fill: int) -> tuple[int, ...]:
    """`values` for the two spatial dims that a 1-D input has after `in_two_dims`."""
    return (fill, *values) if dims == 1 else tuple(values)


def apply_along(ctx: ConversionContext, x: ITensor, axis: int, matrix: torch.Tensor) -> ITensor:
    """The product of a constant matrix of shape (new, old) with `x` along one axis, which gets the new size."""
    rank = ctx.rank(x)
    if axis == rank - 1:
        return ctx.matmul(x, ctx.constant(matrix), transpose_b=True)
    if axis == rank - 2:
        return ctx.matmul(ctx.constant(matrix), x)
    order = [*(a for a in range(rank) if a != axis), axis]
    back = [order.index(a) for a in range(rank)]
    return ctx.permute(apply_along(ctx, ctx.permute(x, order), rank - 1, matrix), back)


def pad_with_zeros(
    ctx: ConversionContext, x: ITensor, before: Sequence[int], after: Sequence[int]
) -> ITensor:
    """`x` with zeros around it; a count per dim."""
    return sample(ctx, x, before, after, "FILL")


def sample(
    ctx: ConversionContext,
    x: ITensor,
    before: Sequence[Any],
    after: Sequence[Any],
    mode: str,
    fill: Any = None,
) -> ITensor:
    """`x` with elements added (or, for negative counts, removed) before and after every dim.

    Args:
        before, after: counts per dim, ints or symbolic ints.
        mode: what lies outside of `x`, a SampleMode name: FILL, CLAMP, REFLECT, WRAP.
        fill: 0-d ITensor of x's dtype for FILL; None is zero.
    """
    counts = [*before, *after]
    if not any(ctx.is_tensor(count) or count for count in counts):
        return x
    start = ctx.dims([ctx.dim_op(0, count, "SUB") for count in before])
    size = ctx.dims(
        [
            ctx.dim_op(dim, ctx.dim_op(b, a, "SUM"), "SUM")
            if ctx.is_tensor(b) or ctx.is_tensor(a) or b + a
            else dim
            for dim, b, a in zip(ctx.dims_of(x), before, after)
        ]
    )
    ones = (1,) * ctx.rank(x)
    layer = ctx.net.add_slice(
        x, ones if ctx.is_tensor(start) else start, ones if ctx.is_tensor(size) else size, ones
    )
    layer.mode = getattr(ctx.trt.SampleMode, mode)
    for index, value in ((1, start), (2, size)):
        if ctx.is_tensor(value):
            layer.set_input(index, value)
    if fill is not None:
        layer.set_input(4, fill)
    return ctx.output(layer)
