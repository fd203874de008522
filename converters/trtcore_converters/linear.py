"""Matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, ConversionContext, Reject, converter
from trtcore_converters._values import number, output_dtype

aten = torch.ops.aten


def _floating(node: fx.Node, ctx: CompileContext) -> bool | Reject:
    result = node.meta.get("val")
    if isinstance(result, torch.Tensor) and not result.is_floating_point():
        return Reject("TensorRT multiplies matrices in floating point only")
    return True


def _at_rank(ctx: ConversionContext, x: Any, rank: int) -> Any:
    """`x` with ones prepended to its shape; a constant as a view of the same storage."""
    if isinstance(x, torch.Tensor):
        return ctx.constant(x.reshape([1] * (rank - x.dim()) + list(x.shape)) if x.dim() < rank else x)
    return ctx.unsqueeze_to(x, rank)


def _transposed(x: torch.Tensor) -> bool:
    """Whether a constant is a transposed view of a contiguous matrix."""
    return x.dim() == 2 and not x.is_contiguous() and x.mT.is_contiguous()


def product(ctx: ConversionContext, a: Any, b: Any, transpose_b: bool = False) -> Any:
    """``a @ b`` of operands of rank >= 2. A constant that is a transposed view is not copied."""
    rank = max(ctx.rank(a), ctx.rank(b))
    transpose_a = False
    if isinstance(a, torch.Tensor) and _transposed(a):
        a, transpose_a = a.mT, True
    if isinstance(b, torch.Tensor) and _transposed(b):
        b, transpose_b = b.mT, not transpose_b
    return ctx.matmul(_at_rank(ctx, a, rank), _at_rank(ctx, b, rank), transpose_a, transpose_b)


@converter(aten.linear.default, capability_validator=_floating, supports_dynamic_shapes=True)
def linear(ctx: ConversionContext, x: Any, weight: Any, bias: Any = None) -> Any:
    """``x @ weight.T + bias``; x of shape (..., in), weight (out, in), bias (out,)."""
    single = ctx.rank(x) == 1
    rows = ctx.unsqueeze_to(ctx.tensor(x), 2) if single else x
    column = ctx.rank(weight) == 1  # torch takes a weight of shape (in,) as one output that is squeezed
    if column:
        weight = weight.reshape(1, -1) if isinstance(weight, torch.Tensor) else ctx.unsqueeze_to(weight, 2)
    result = product(ctx, rows, weight, transpose_b=True)
    if column:
        result = ctx.reshape(result, ctx.dims_of(result)[:-1])
    if single:
        result = ctx.reshape(result, ctx.dims_of(result)[1:])
    if bias is None:
        return result
    return ctx.elementwise(result, _at_rank(ctx, bias, ctx.rank(result)), "SUM", to=ctx.dtype(result))


@converter(
    [aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default],
    capability_validator=_floating,
    supports_dynamic_shapes=True,
)
def matmul(ctx: ConversionContext, a: Any, b: Any) -> Any:
    """``a @ b``; a vector is a row on the left, a column on the right, and its dim of one goes again."""
    row, column = ctx.rank(a) == 1, ctx.rank(b) == 1
    if row:
        a = a.reshape(1, -1) if isinstance(a, torch.Tensor) else ctx.reshape(a, [1, ctx.dim(a, 0)])
    if column:
        b = b.reshape(-1, 1) if isinstance(b, torch.Tensor) else ctx.reshape(b, [ctx.dim(b, 0), 1])
    result = product(ctx, a, b)
    if row or column:
        *batch, rows, columns = ctx.dims_of(result)
        result = ctx.reshape(result, batch + ([] if row else [rows]) + ([] if column else [columns]))
    return result


@converter(
    [aten.addmm.default, aten.baddbmm.default, aten.addmv.default],
    capability_validator=_floating,
    supports_dynamic_shapes=True,
)
def addmm(ctx: ConversionContext, bias: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """``beta * bias + alpha * (a @ b)``; beta = 0 leaves the bias out, also where it is not finite."""
    result = matmul(ctx, a, b)
    dtype = output_dtype(ctx, ctx.dtype(result))
    if number(alpha) != 1:
        result = ctx.elementwise(result, alpha, "PROD", to=torch.float32)
    if number(beta) == 0:
        return ctx.cast(result, dtype)
    if number(beta) != 1:
        bias = ctx.elementwise(bias, beta, "PROD", to=torch.float32)
    inside = dtype if number(alpha) == 1 == number(beta) else torch.float32
    return ctx.cast(ctx.elementwise(result, bias, "SUM", to=inside), dtype)
