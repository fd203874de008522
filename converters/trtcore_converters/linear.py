"""Matrix products.

TensorRT multiplies matrices in floating point only. Integers are multiplied element by element and summed,
which is exact and wraps as torch does; that is for small matrices (indices, counts), hence the limit.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext, ITensor, NodeContext, Operand, Reject
from trtcore_converters._checks import arguments, numeric
from trtcore_converters._declare import converts
from trtcore_converters._values import most, number, output_dtype

aten = torch.ops.aten

_PRODUCTS = 1 << 24
"""The largest number of products in a matrix product of integers."""


def _multiplies(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """Floating point, or integers whose products are few."""
    result = node.meta.get("val")
    if not isinstance(result, torch.Tensor) or result.is_floating_point():
        return True
    given = list(arguments(node).values())
    first = next(i for i, value in enumerate(given) if isinstance(value, torch.Tensor))
    left = given[1] if node.target in _WITH_ADDEND else given[first]
    if not numeric(node, ctx) or result.dtype == torch.bool or result.dim() > 6:
        return Reject("TensorRT multiplies matrices in floating point only")
    sizes = [most(size) for size in (*result.shape, left.shape[-1] if left.dim() else 1)]
    if None in sizes or math.prod(size or 0 for size in sizes) > _PRODUCTS:
        return Reject(
            'TensorRT multiplies matrices in floating point only ("first input has type Int64 but must have type '
            f'Float, Half, BFloat16 ..."), and these integers make more than {_PRODUCTS} products'
        )
    return True


def _at_rank(ctx: ConversionContext, x: Operand, rank: int) -> ITensor:
    """`x` with ones prepended to its shape; a constant as a view of the same storage."""
    if isinstance(x, torch.Tensor):
        return ctx.constant(x.reshape([1] * (rank - x.dim()) + list(x.shape)) if x.dim() < rank else x)
    return ctx.unsqueeze_to(x, rank)


def _transposed(x: torch.Tensor) -> bool:
    """Whether a constant is a transposed view of a contiguous matrix."""
    return x.dim() == 2 and not x.is_contiguous() and x.mT.is_contiguous()


def product(ctx: ConversionContext, a: Operand, b: Operand, transpose_b: bool = False) -> ITensor:
    """``a @ b`` of operands of rank >= 2. A constant that is a transposed view is not copied."""
    if not ctx.dtype(a).is_floating_point:
        return _sum_of_products(ctx, ctx.tensor(a), ctx.tensor(b), transpose_b)
    rank = max(ctx.rank(a), ctx.rank(b))
    transpose_a = False
    if isinstance(a, torch.Tensor) and _transposed(a):
        a, transpose_a = a.mT, True
    if isinstance(b, torch.Tensor) and _transposed(b):
        b, transpose_b = b.mT, not transpose_b
    return ctx.matmul(_at_rank(ctx, a, rank), _at_rank(ctx, b, rank), transpose_a, transpose_b)


def _sum_of_products(ctx: ConversionContext, a: ITensor, b: ITensor, transpose_b: bool) -> ITensor:
    """``a @ b`` of integers: every row times every column, element by element, and summed."""
    if not transpose_b:
        order = list(range(ctx.rank(b)))
        b = ctx.permute(b, [*order[:-2], order[-1], order[-2]])
    *batch, rows, inner = ctx.dims_of(a)
    left = ctx.reshape(a, [*batch, rows, 1, inner])
    *batch, columns, inner = ctx.dims_of(b)
    right = ctx.reshape(b, [*batch, 1, columns, inner])
    products = ctx.elementwise(left, right, "PROD")
    return ctx.reduce(products, "SUM", [ctx.rank(products) - 1])


@converts(aten.linear.default, capability_validator=_multiplies)
def linear(ctx: ConversionContext, x: Operand, weight: Operand, bias: Operand | None = None) -> ITensor:
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


@converts(
    [aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default],
    capability_validator=_multiplies,
)
def matmul(ctx: ConversionContext, a: Operand, b: Operand) -> ITensor:
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


@converts([aten.addmm.default, aten.baddbmm.default, aten.addmv.default], capability_validator=_multiplies)
def addmm(
    ctx: ConversionContext,
    bias: Operand,
    a: Operand,
    b: Operand,
    *,
    beta: Any = 1,
    alpha: Any = 1,
) -> ITensor:
    """``beta * bias + alpha * (a @ b)``; beta = 0 leaves the bias out, also where it is not finite."""
    result = matmul(ctx, a, b)
    dtype = output_dtype(ctx, ctx.dtype(result))
    scaled = number(alpha) != 1 or number(beta) != 1
    inside = torch.float32 if scaled and dtype.is_floating_point else dtype
    if number(alpha) != 1:
        result = ctx.elementwise(result, alpha, "PROD", to=inside)
    if number(beta) == 0:
        return ctx.cast(result, dtype)
    if number(beta) != 1:
        bias = ctx.elementwise(bias, beta, "PROD", to=inside)
    return ctx.cast(ctx.elementwise(result, bias, "SUM", to=inside), dtype)


_WITH_ADDEND = frozenset({aten.addmm.default, aten.baddbmm.default, aten.addmv.default})


@converts([aten.mm.dtype, aten.bmm.dtype])
def matmul_to_dtype(ctx: ConversionContext, a: Operand, b: Operand, out_dtype: torch.dtype) -> ITensor:
    """``a @ b`` of float16 or bfloat16 matrices in float32, unrounded."""
    return product(ctx, ctx.cast(a, out_dtype), ctx.cast(b, out_dtype))
