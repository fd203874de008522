"""Operations on two operands, which are promoted and broadcast by torch's rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trtcore.compat.torch_tensorrt.converter_utils import to_torch

__all__ = ["add", "convert_binary_elementwise", "div", "max", "min", "mul", "pow", "sub"]


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
