"""Operations on one operand."""

from __future__ import annotations

from typing import Any

import torch

from trtcore.compat.torch_tensorrt.converter_utils import get_trt_tensor

__all__ = ["convert_unary", "exp", "log", "sqrt"]


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
