"""Operations on two operands, which are promoted and broadcast by torch's rules.

Besides the functions written out here: comparisons (``eq``, ``ne``, ``gt``, ``ge``, ``lt``, ``le``), ``logical_and``,
``logical_or``, ``logical_xor`` and ``floor_divide``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor, to_torch
from trtcore_contrib_torch_tensorrt.impl._named import named

__all__ = ["add", "convert_binary_elementwise", "div", "max", "min", "mul", "pow", "sub"]

# Name -> ElementWiseOperations, of which one has to hold.
_OPERATIONS = {
    "eq": ("EQUAL",),
    "floor_divide": ("FLOOR_DIV",),
    "ge": ("GREATER", "EQUAL"),
    "gt": ("GREATER",),
    "le": ("LESS", "EQUAL"),
    "logical_and": ("AND",),
    "logical_or": ("OR",),
    "logical_xor": ("XOR",),
    "lt": ("LESS",),
    "ne": ("EQUAL", "NOT"),
}


def __getattr__(name: str) -> Any:
    instead = 'ctx.elementwise(a, b, "SUM"), with TensorRT\'s own names'
    return named(__name__, name, _OPERATIONS, _operation, instead)


def _operation(operations: tuple[str, ...]) -> Any:
    first, *more = operations

    def convert(ctx: Any, target: Any, source_ir: Any, name: str, lhs_val: Any, rhs_val: Any) -> Any:
        a, b = _operand(lhs_val), _operand(rhs_val)
        if first in ("AND", "OR", "XOR"):
            a, b = (ctx.cast(get_trt_tensor(ctx, value, name), torch.bool) for value in (a, b))
        result = ctx.elementwise(a, b, first)
        if more == ["NOT"]:
            return ctx.unary(result, "NOT")
        return ctx.elementwise(result, ctx.elementwise(a, b, more[0]), "OR") if more else result

    return convert


def convert_binary_elementwise(
    ctx: Any, target: Any, source_ir: Any, name: str, op_type: Any, lhs_val: Any, rhs_val: Any
) -> Any:
    """An elementwise layer; `op_type` is a ``trt.ElementWiseOperation``."""
    return ctx.elementwise(_operand(lhs_val), _operand(rhs_val), op_type.name)


def add(ctx: Any, target: Any, source_ir: Any, name: str, lhs_val: Any, rhs_val: Any) -> Any:
    """``lhs + rhs``."""
    return ctx.elementwise(_operand(lhs_val), _operand(rhs_val), "SUM")


def sub(ctx: Any, target: Any, source_ir: Any, name: str, lhs_val: Any, rhs_val: Any) -> Any:
    """``lhs - rhs``."""
    return ctx.elementwise(_operand(lhs_val), _operand(rhs_val), "SUB")


def mul(ctx: Any, target: Any, source_ir: Any, name: str, lhs_val: Any, rhs_val: Any) -> Any:
    """``lhs * rhs``."""
    return ctx.elementwise(_operand(lhs_val), _operand(rhs_val), "PROD")


def div(ctx: Any, target: Any, source_ir: Any, name: str, lhs_val: Any, rhs_val: Any) -> Any:
    """``lhs / rhs``; ints divide as float32."""
    lhs, rhs = _operand(lhs_val), _operand(rhs_val)
    dtype = ctx.result_type(lhs, rhs)
    return ctx.elementwise(lhs, rhs, "DIV", to=dtype if dtype.is_floating_point else torch.float32)


def pow(ctx: Any, target: Any, source_ir: Any, name: str, lhs_val: Any, rhs_val: Any) -> Any:
    """``lhs ** rhs``, in floating point."""
    lhs, rhs = _operand(lhs_val), _operand(rhs_val)
    dtype = ctx.result_type(lhs, rhs)
    return ctx.elementwise(lhs, rhs, "POW", to=dtype if dtype.is_floating_point else torch.float32)


def max(ctx: Any, target: Any, source_ir: Any, name: str, lhs_val: Any, rhs_val: Any) -> Any:
    """The larger one, element by element."""
    return ctx.elementwise(_operand(lhs_val), _operand(rhs_val), "MAX")


def min(ctx: Any, target: Any, source_ir: Any, name: str, lhs_val: Any, rhs_val: Any) -> Any:
    """The smaller one, element by element."""
    return ctx.elementwise(_operand(lhs_val), _operand(rhs_val), "MIN")


def _operand(value: Any) -> Any:
    """Arrays as torch tensors; Python numbers stay numbers, which do not raise the other operand's dtype."""
    return to_torch(value) if isinstance(value, (np.ndarray, np.generic)) else value
