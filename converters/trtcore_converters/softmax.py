"""Softmax and its logarithm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trtcore.pack import (
    ConversionContext,
    ITensor,
    Operand,
)
from trtcore_converters._declare import converts
from trtcore_converters._values import output_dtype

aten = torch.ops.aten


def _on_matrix(ctx: ConversionContext, x: ITensor, dim: int, compute: Callable[[Any, int], Any]) -> Any:
    """Run `compute(x, axis)` on at least two dims: TensorRT's softmax refuses less."""
    rank = ctx.rank(x)
    if rank >= 2:
        return compute(x, ctx.axis(dim, rank))
    dims = ctx.dims_of(x)
    return ctx.reshape(compute(ctx.unsqueeze_to(x, 2), 1), dims)


def softmax_along(ctx: ConversionContext, x: ITensor, dim: int) -> Any:
    """Softmax of an ITensor of any rank."""
    return _on_matrix(ctx, x, dim, ctx.softmax)


@converts([aten.softmax.int, aten._softmax.default])
def softmax(ctx: ConversionContext, x: Operand, dim: int, dtype_or_half_to_float: Any = None) -> Any:
    """``exp(x) / sum(exp(x))`` along `dim`, in the op's dtype (the input is cast to it first)."""
    return softmax_along(ctx, ctx.tensor(x, output_dtype(ctx, ctx.dtype(x))), dim)


@converts([aten.log_softmax.int, aten._log_softmax.default])
def log_softmax(ctx: ConversionContext, x: Operand, dim: int, dtype_or_half_to_float: Any = None) -> ITensor:
    """``x - max - log(sum(exp(x - max)))``: the logarithm of a softmax would be -inf where that underflows."""
    dtype = output_dtype(ctx, ctx.dtype(x))

    def compute(x: Any, axis: int) -> Any:
        shifted = ctx.elementwise(x, ctx.reduce(x, "MAX", [axis], keepdim=True), "SUB")
        total = ctx.reduce(ctx.unary(shifted, "EXP"), "SUM", [axis], keepdim=True)
        return ctx.elementwise(shifted, ctx.unary(total, "LOG"), "SUB")

    return ctx.cast(_on_matrix(ctx, ctx.tensor(x, torch.float32), dim, compute), dtype)
