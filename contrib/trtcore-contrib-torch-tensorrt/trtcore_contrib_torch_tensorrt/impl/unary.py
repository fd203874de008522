"""Operations on one operand. Besides the functions written out here: ``abs``, ``neg``, ``sin``, ``erf`` and so on,
TensorRT's unary operations by their lower-case names."""

from __future__ import annotations

from typing import Any

import torch

from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor
from trtcore_contrib_torch_tensorrt.impl._named import named

__all__ = ["convert_unary", "exp", "log", "sqrt"]

# Name -> (UnaryOperation, whether ints are computed in float32).
_OPERATIONS = {
    **{name: (name.upper(), False) for name in ("abs", "ceil", "floor", "neg", "round", "sign")},
    **{
        name: (name.upper(), True)
        for name in (
            "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "erf", "isinf", "isnan", "recip",
            "sin", "sinh", "tan",
        )
    },
    "logical_not": ("NOT", False),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    return named(__name__, name, _OPERATIONS, _operation, 'ctx.unary(x, "ERF"), with TensorRT\'s own names')


def _operation(entry: tuple[str, bool]) -> Any:
    operation, floating = entry

    def convert(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
        x = _floating(ctx, input_val, name) if floating else get_trt_tensor(ctx, input_val, name)
        return ctx.unary(x, operation)

    return convert


def convert_unary(
    ctx: Any, target: Any, source_ir: Any, name: str, operation_type: Any, input_val: Any
) -> Any:
    """A unary layer; `operation_type` is a ``trt.UnaryOperation``."""
    return ctx.unary(get_trt_tensor(ctx, input_val, name), operation_type.name)


def exp(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
    """``e ** x``; of ints in float32."""
    return ctx.unary(_floating(ctx, input_val, name), "EXP")


def log(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
    """The natural logarithm; of ints in float32."""
    return ctx.unary(_floating(ctx, input_val, name), "LOG")


def sqrt(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
    """The square root; of ints in float32."""
    return ctx.unary(_floating(ctx, input_val, name), "SQRT")


def _floating(ctx: Any, value: Any, name: str) -> Any:
    x = get_trt_tensor(ctx, value, name)
    return x if ctx.dtype(x).is_floating_point else ctx.cast(x, torch.float32)
