"""Small pieces that converters are made of: operands, output dtype and dims, the dtype to compute in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext, Dim, Operand, node_arguments
from trtcore_converters.torch_private import interval

aten = torch.ops.aten

LOW_PRECISION = frozenset({torch.float16, torch.bfloat16})

CASTS = (
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten.to.other,
    aten._to_copy.default,
    aten.type_as.default,
)
"""Ops that give the same numbers in another dtype, layout or place."""


def output(ctx: ConversionContext, index: int | None = None) -> torch.Tensor | None:
    """The FakeTensor that the op gives (the one at `index`, if it gives several); None where it is unknown."""
    value = ctx.node.meta.get("val")
    if index is not None and isinstance(value, (list, tuple)):
        value = value[index]
    return value if isinstance(value, torch.Tensor) else None


def output_dtype(ctx: ConversionContext, default: torch.dtype) -> torch.dtype:
    """The dtype that the op gives; `default` where it is unknown."""
    value = output(ctx)
    return default if value is None else value.dtype


def known_dim(value: Any) -> int | None:
    """A size as an int, where it is one; None for a SymInt."""
    return int(value) if isinstance(value, int) else None


def traced_dims(ctx: ConversionContext, shape: Sequence[Any]) -> list[Dim]:
    """A traced shape as ints and, for its symbolic dims, int64 ITensors of shape (1,)."""
    return [int(dim) if isinstance(dim, int) else ctx.symbolic(dim.node.expr) for dim in shape]


def operand(ctx: ConversionContext, name: str, value: Operand | float) -> Operand | float:
    """The argument `name`; a symbolic int, which comes with shape (1,), becomes a 0-d tensor, so that it counts
    as a number in promotion and broadcasting."""
    if ctx.is_tensor(value):
        source = node_arguments(ctx.node).get(name)
        if isinstance(source, fx.Node) and not isinstance(source.meta.get("val"), torch.Tensor):
            return ctx.scalar(value)
    return value


def number(value: Any) -> Any:
    """The Python number in a Python number or a 0-d constant; None for anything else."""
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, torch.Tensor) and value.dim() == 0:
        return value.item()
    return None


def compute_dtype(ctx: ConversionContext, dtype: torch.dtype, *values: Any) -> torch.dtype:
    """The dtype in which an op of dtype `dtype` is to be computed.

    It is `dtype`, but float32 where torch would take a float16/bfloat16 op's numbers in float32 and rounding
    them to `dtype` first would change them (1e5 is infinity in float16).
    """
    if dtype not in LOW_PRECISION:
        return dtype
    for value in values:
        if ctx.is_tensor(value) or (isinstance(value, torch.Tensor) and value.dim()):
            if ctx.dtype(value) == torch.float32:  # a 0-d one: else the op's dtype would be float32
                return torch.float32
            continue
        plain = number(value)
        if plain is not None and not _exact(plain, dtype):
            return torch.float32
    return dtype


def _exact(value: float, dtype: torch.dtype) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return True
    return float(torch.tensor(value, dtype=torch.float64).to(dtype)) == float(value)


def power_of_two(value: Any) -> bool:
    """Whether a number is 2**k (either sign), so that dividing by it is exact."""
    return isinstance(value, (int, float)) and math.isfinite(value) and abs(math.frexp(value)[0]) == 0.5


def used_outputs(node: fx.Node) -> set[int] | None:
    """Indices of the outputs that somebody takes; None where a user takes the list whole."""
    used: set[int] = set()
    for user in node.users:
        if user.op != "call_function" or len(user.args) < 2 or not isinstance(user.args[1], int):
            return None
        used.add(user.args[1])
    return used


def cast_all(ctx: ConversionContext, dtype: torch.dtype, *values: Any) -> list[Any]:
    """Every value as an ITensor of `dtype`, shapes untouched; None stays None."""
    return [None if value is None else ctx.tensor(value, dtype) for value in values]


def most(size: Any) -> int | None:
    """The largest value of a traced size; None where it has no bound. Adds no guard."""
    if not isinstance(size, torch.SymInt):
        return int(size)
    upper = interval(size).upper
    return int(upper) if upper.is_Integer else None


def least(size: Any) -> int:
    """The smallest value of a traced size; 0 where that is not known. Adds no guard."""
    if not isinstance(size, torch.SymInt):
        return int(size)
    lower = interval(size).lower
    return max(int(lower), 0) if lower.is_Integer else 0


def along(values: torch.Tensor, dim: int, rank: int) -> torch.Tensor:
    """One-dimensional values as a tensor of `rank` dims, of which all but `dim` are one."""
    shape = [1] * rank
    shape[dim] = values.shape[0]
    return values.reshape(shape)


def broadcast_dims(ctx: ConversionContext, tensors: Sequence[Any]) -> list[Any]:
    """The dims of the tensors broadcast against each other."""
    rank = max(ctx.rank(tensor) for tensor in tensors)
    result: list[Any] = [1] * rank
    for tensor in tensors:
        for place, dim in enumerate(ctx.dims_of(tensor), rank - ctx.rank(tensor)):
            if known_dim(result[place]) == 1:
                result[place] = dim
            elif ctx.is_tensor(result[place]) and known_dim(dim) != 1:
                result[place] = dim if known_dim(dim) is not None else ctx.dim_op(result[place], dim, "MAX")
    return result
