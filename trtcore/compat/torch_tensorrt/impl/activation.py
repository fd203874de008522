"""Activations."""

from __future__ import annotations

from typing import Any

from trtcore.compat.torch_tensorrt.converter_utils import get_trt_tensor

__all__ = ["convert_activation", "relu"]


def convert_activation(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    operation_type: Any,
    input_val: Any,
    alpha: float | None = None,
    beta: float | None = None,
) -> Any:
    """An activation layer; `operation_type` is a ``trt.ActivationType``."""
    return ctx.activation(get_trt_tensor(ctx, input_val, name), operation_type.name, alpha, beta)


def relu(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
    """``max(x, 0)``."""
    return ctx.activation(get_trt_tensor(ctx, input_val, name), "RELU")
