"""Activations. Besides the functions written out here: ``tanh``, ``sigmoid``, ``softsign``, ``leaky_relu``, ``elu``."""

from __future__ import annotations

from typing import Any

from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor
from trtcore_contrib_torch_tensorrt.impl._named import named

__all__ = ["convert_activation", "relu"]

# Name -> (ActivationType, alpha where none is given).
_TYPES = {
    "elu": ("ELU", 1.0),
    "leaky_relu": ("LEAKY_RELU", 0.01),
    "sigmoid": ("SIGMOID", None),
    "softsign": ("SOFTSIGN", None),
    "tanh": ("TANH", None),
}


def __getattr__(name: str) -> Any:
    instead = 'ctx.activation(x, "CLIP", alpha, beta), with TensorRT\'s own names'
    return named(__name__, name, _TYPES, _activation, instead)


def _activation(entry: tuple[str, float | None]) -> Any:
    kind, default = entry

    def convert(
        ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, alpha: float | None = default
    ) -> Any:
        return ctx.activation(get_trt_tensor(ctx, input_val, name), kind, alpha)

    return convert


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
