"""Operations on two operands, which are promoted and broadcast by torch's rules.

Most are made from a table: a name, and torch's function for it. Two Python numbers give a Python number, as in a
converter that computes sizes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from trtcore_contrib_torch_tensorrt._by_torch import by_torch
from trtcore_contrib_torch_tensorrt.converter_utils import to_torch

__all__ = [
    "add",
    "atan2",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "clamp",
    "convert_binary_elementwise",
    "div",
    "eq",
    "floor_div",
    "floor_divide",
    "fmod",
    "ge",
    "get_python_op_from_trt_elementwise_op",
    "gt",
    "le",
    "logical_and",
    "logical_or",
    "logical_xor",
    "lt",
    "max",
    "min",
    "mul",
    "ne",
    "pow",
    "remainder",
    "rsqrt",
    "sub",
    "trunc_div",
]


def _trunc_div(a: Any, b: Any) -> torch.Tensor:
    return torch.div(a, b, rounding_mode="trunc")


def _binary(function: Callable[..., Any], doc: str, *operations: str) -> Callable[..., Any]:
    """A helper.

    Args:
        operations: ElementWiseOperations that do the same to floating-point numbers, of which one has to hold;
        "NOT" turns the one before round.
    """

    def convert(ctx: Any, target: Any, source_ir: Any, name: str, lhs_val: Any, rhs_val: Any) -> Any:
        lhs, rhs = _operand(lhs_val), _operand(rhs_val)
        if operations and _floating(ctx, lhs, rhs):
            return _layers(ctx, lhs, rhs, *operations)
        if isinstance(lhs, (bool, int, float)):
            if isinstance(rhs, (bool, int, float)):
                return function(torch.tensor(lhs), torch.tensor(rhs)).item()
            return by_torch(ctx, lambda b: function(_like_number(lhs, b), b), rhs)
        if isinstance(rhs, (bool, int, float)):
            return by_torch(ctx, lambda a: function(a, _like_number(rhs, a)), lhs)
        return by_torch(ctx, function, lhs, rhs)

    convert.__doc__ = doc
    convert.__module__ = __name__
    return convert


def _floating(ctx: Any, lhs: Any, rhs: Any) -> bool:
    """Whether both operands are of one floating-point dtype, or one is and the other a number that fits it."""
    tensors = [one for one in (lhs, rhs) if not isinstance(one, (bool, int, float))]
    dtypes = {ctx.dtype(one) for one in tensors}
    return len(dtypes) == 1 and (
        dtypes == {torch.float32} or (len(tensors) == 2 and dtypes.pop().is_floating_point)
    )


def _layers(ctx: Any, lhs: Any, rhs: Any, first: str, second: str = "") -> Any:
    result = ctx.elementwise(lhs, rhs, first)
    if second == "NOT":
        return ctx.unary(result, "NOT")
    return ctx.elementwise(result, ctx.elementwise(lhs, rhs, second), "OR") if second else result


def _like_number(value: Any, other: torch.Tensor) -> torch.Tensor:
    """A Python number as a 0-d tensor that promotes as the number does."""
    return torch.scalar_tensor(value, dtype=torch.result_type(other, value), device=other.device)


def _named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    return function


add = _named("add", _binary(torch.add, "``lhs + rhs``.", "SUM"))
sub = _named("sub", _binary(torch.sub, "``lhs - rhs``.", "SUB"))
mul = _named("mul", _binary(torch.mul, "``lhs * rhs``.", "PROD"))
div = _named("div", _binary(torch.true_divide, "``lhs / rhs``; ints divide as float32.", "DIV"))
trunc_div = _named("trunc_div", _binary(_trunc_div, "``lhs / rhs``, rounded to zero."))
floor_divide = _named("floor_divide", _binary(torch.floor_divide, "``lhs // rhs``."))
floor_div = _named("floor_div", _binary(torch.floor_divide, "``lhs // rhs``."))
pow = _named("pow", _binary(torch.pow, "``lhs ** rhs``."))
max = _named("max", _binary(torch.maximum, "The larger one, element by element.", "MAX"))
min = _named("min", _binary(torch.minimum, "The smaller one, element by element.", "MIN"))
fmod = _named("fmod", _binary(torch.fmod, "The rest of a division, with the sign of `lhs`."))
remainder = _named("remainder", _binary(torch.remainder, "The rest of a division, with the sign of `rhs`."))
atan2 = _named("atan2", _binary(torch.atan2, "The angle of the point (rhs, lhs)."))
eq = _named("eq", _binary(torch.eq, "``lhs == rhs``.", "EQUAL"))
ne = _named("ne", _binary(torch.ne, "``lhs != rhs``.", "EQUAL", "NOT"))
gt = _named("gt", _binary(torch.gt, "``lhs > rhs``.", "GREATER"))
ge = _named("ge", _binary(torch.ge, "``lhs >= rhs``.", "GREATER", "EQUAL"))
lt = _named("lt", _binary(torch.lt, "``lhs < rhs``.", "LESS"))
le = _named("le", _binary(torch.le, "``lhs <= rhs``.", "LESS", "EQUAL"))
logical_and = _named("logical_and", _binary(torch.logical_and, "Whether both are not zero."))
logical_or = _named("logical_or", _binary(torch.logical_or, "Whether one is not zero."))
logical_xor = _named("logical_xor", _binary(torch.logical_xor, "Whether exactly one is not zero."))
bitwise_and = _named("bitwise_and", _binary(torch.bitwise_and, "``lhs & rhs``."))
bitwise_or = _named("bitwise_or", _binary(torch.bitwise_or, "``lhs | rhs``."))
bitwise_xor = _named("bitwise_xor", _binary(torch.bitwise_xor, "``lhs ^ rhs``."))


def convert_binary_elementwise(
    ctx: Any, target: Any, source_ir: Any, name: str, op_type: Any, lhs_val: Any, rhs_val: Any
) -> Any:
    """An elementwise layer; `op_type` is a ``trt.ElementWiseOperation``. Two bools are computed with as int32."""
    lhs, rhs = _operand(lhs_val), _operand(rhs_val)
    if op_type.name not in ("AND", "OR", "XOR", "EQUAL") and ctx.result_type(lhs, rhs) == torch.bool:
        return ctx.elementwise(lhs, rhs, op_type.name, to=torch.int32)
    return ctx.elementwise(lhs, rhs, op_type.name)


def get_python_op_from_trt_elementwise_op(trt_op: Any) -> Callable[[Any, Any], Any]:
    """What an ElementWiseOperation does to Python numbers."""
    found: dict[str, Callable[[Any, Any], Any]] = {
        "SUM": operator.add,
        "SUB": operator.sub,
        "PROD": operator.mul,
        "DIV": operator.truediv,
        "FLOOR_DIV": operator.floordiv,
        "POW": operator.pow,
    }
    if trt_op.name not in found:
        raise RuntimeError(f"{trt_op} has no operator of Python's")
    return found[trt_op.name]


def rsqrt(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
    """One over the square root."""
    return by_torch(ctx, torch.rsqrt, _operand(input_val))


def clamp(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input_val: Any,
    min_val: Any = None,
    max_val: Any = None,
) -> Any:
    """`input_val` between two bounds, each a number, a tensor or None."""
    low, high = (_operand(one) for one in (min_val, max_val))

    def bound(x: torch.Tensor, a: Any, b: Any) -> torch.Tensor:
        if not any(isinstance(one, torch.Tensor) for one in (a, b)):
            return torch.clamp(x, a, b)
        for one, extreme in ((a, torch.maximum), (b, torch.minimum)):
            if one is not None:
                x = extreme(x, one if isinstance(one, torch.Tensor) else _like_number(one, x))
        return x

    return by_torch(ctx, bound, _operand(input_val), low, high)


def _operand(value: Any) -> Any:
    """Arrays as torch tensors; Python numbers stay numbers, which do not raise the other operand's dtype."""
    return to_torch(value) if isinstance(value, (np.ndarray, np.generic)) else value
