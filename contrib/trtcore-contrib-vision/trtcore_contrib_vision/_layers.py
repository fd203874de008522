"""Small pieces that the pack's converters share."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext


def traced(value: Any) -> torch.Tensor | None:
    """The FakeTensor of a node; None where there is none."""
    found = value.meta.get("val") if isinstance(value, fx.Node) else value
    return found if isinstance(found, torch.Tensor) else None


def positions(ctx: ConversionContext, size: Any) -> Any:
    """``0, 1, ... size - 1`` as float32; `size` is an int or a symbolic int."""
    if not ctx.is_tensor(size):
        return ctx.constant(torch.arange(size, dtype=torch.float32))
    layer = ctx.net.add_fill((1,), ctx.trt.FillOperation.LINSPACE, ctx.backend.trt_dtype(torch.int64))
    layer.set_input(0, ctx.shape_tensor([size]))
    layer.set_input(1, ctx.constant(0, torch.int64))
    layer.set_input(2, ctx.constant([1], torch.int64))
    return ctx.cast(ctx.output(layer), torch.float32)


def add(ctx: ConversionContext, *terms: Any) -> Any:
    """The sum of tensors and numbers."""
    total = terms[0]
    for term in terms[1:]:
        total = ctx.elementwise(total, term, "SUM")
    return total


def times(ctx: ConversionContext, *factors: Any) -> Any:
    """The product of tensors and numbers."""
    product = factors[0]
    for factor in factors[1:]:
        product = ctx.elementwise(product, factor, "PROD")
    return product


def part(ctx: ConversionContext, x: Any, axis: int, index: int) -> Any:
    """``x[..., index:index + 1, ...]``: the dim is kept."""
    start, sizes = [0] * ctx.rank(x), ctx.dims_of(x)
    start[axis], sizes[axis] = index, 1
    return ctx.slice(x, start, sizes)
