"""What convolutions and pooling share: settings per dim, zero padding, 1-D or unbatched inputs as 2-D batches."""

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


def pad_with_zeros(ctx: ConversionContext, x: Any, before: Sequence[int], after: Sequence[int]) -> Any:
    """`x` with zeros around it; a count per dim."""
    if not any(before) and not any(after):
        return x
    grown = [
        ctx.dim_op(size, b + a, "SUM") if b + a else size for size, b, a in zip(ctx.dims_of(x), before, after)
    ]
    size, ones = ctx.dims(grown), (1,) * len(grown)
    fixed = not ctx.is_tensor(size)
    layer = ctx.net.add_slice(x, tuple(-b for b in before), size if fixed else ones, ones)
    if not fixed:
        layer.set_input(2, size)
    layer.mode = ctx.trt.SampleMode.FILL
    return ctx.output(layer)
