"""What convolutions, pooling and resizing share: per-dim settings, and 1-D or unbatched inputs as 2-D batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trtcore.pack import ConversionContext


def spread(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """A setting with one entry per spatial dim; a single entry stands for all of them."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return tuple(int(v) for v in (values * dims if len(values) == 1 else values))


def in_two_dims(ctx: ConversionContext, x: Any, dims: int, layer: Callable[[Any], Any]) -> Any:
    """Run `layer` on `x` as a batch with at least two spatial dims, which TensorRT's layers want.

    An unbatched input gets a batch dim of one; with one spatial dim a dim of one goes before it. Both go again.

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
