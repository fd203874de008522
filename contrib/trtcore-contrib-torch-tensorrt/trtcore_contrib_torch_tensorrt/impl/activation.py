"""Activations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from trtcore.pack import node_arguments
from trtcore_contrib_torch_tensorrt._by_torch import by_torch
from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor
from trtcore_contrib_torch_tensorrt.impl.prelu import prelu

__all__ = [
    "clip",
    "convert_activation",
    "elu",
    "gelu",
    "hard_sigmoid",
    "hard_swish",
    "hardshrink",
    "leaky_relu",
    "prelu",
    "relu",
    "selu",
    "sigmoid",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "thresholded_relu",
]


def convert_activation(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    operation_type: Any,
    input_val: Any,
    alpha: float | None = None,
    beta: float | None = None,
    dyn_range_fn: Any = None,
) -> Any:
    """An activation layer; `operation_type` is a ``trt.ActivationType``. `dyn_range_fn` is of implicit
    quantisation, which strongly typed networks have not.
    """
    return ctx.activation(get_trt_tensor(ctx, input_val, name), operation_type.name, alpha, beta)


def _simple(ctx: Any, function: Any, kind: str, x: Any) -> Any:
    return ctx.activation(x, kind) if ctx.dtype(x).is_floating_point else by_torch(ctx, function, x)


def relu(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
    """``max(x, 0)``."""
    return _simple(ctx, torch.relu, "RELU", get_trt_tensor(ctx, input_val, name))


def sigmoid(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
    """``1 / (1 + exp(-x))``; of ints in float32."""
    return _simple(ctx, torch.sigmoid, "SIGMOID", get_trt_tensor(ctx, input_val, name))


def tanh(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
    """The hyperbolic tangent; of ints in float32."""
    return _simple(ctx, torch.tanh, "TANH", get_trt_tensor(ctx, input_val, name))


def leaky_relu(
    ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, alpha: float | None = 0.01
) -> Any:
    """`x` where it is positive, else ``alpha * x``."""
    slope = 0.01 if alpha is None else alpha
    return by_torch(ctx, lambda x: F.leaky_relu(x, slope), get_trt_tensor(ctx, input_val, name))


def elu(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input_val: Any,
    alpha: float = 1.0,
    beta: float | None = None,
) -> Any:
    """`x` where it is positive, else ``alpha * (exp(x) - 1)``; all times `beta`, which is ``aten.elu``'s scale."""
    scale = 1 if beta is None else beta
    return by_torch(
        ctx, lambda x: torch.ops.aten.elu.default(x, alpha, scale), get_trt_tensor(ctx, input_val, name)
    )


def selu(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
    """`elu` with the two numbers that keep means and variances."""
    return by_torch(ctx, F.selu, get_trt_tensor(ctx, input_val, name))


def softsign(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
    """``x / (1 + |x|)``."""
    return by_torch(ctx, F.softsign, get_trt_tensor(ctx, input_val, name))


def softplus(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, beta: float = 1) -> Any:
    """``log(1 + exp(beta * x)) / beta``; `x` itself above the threshold of the node, where a softplus is converted."""
    is_softplus = target is torch.ops.aten.softplus.default
    threshold = node_arguments(ctx.node)["threshold"] if is_softplus else 20
    return by_torch(ctx, lambda x: F.softplus(x, beta, threshold), get_trt_tensor(ctx, input_val, name))


def clip(
    ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, alpha: float | None, beta: float | None
) -> Any:
    """`x` between `alpha` and `beta`."""
    return by_torch(ctx, lambda x: torch.clamp(x, alpha, beta), get_trt_tensor(ctx, input_val, name))


def hard_sigmoid(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input_val: Any,
    alpha: float = 1 / 6,
    beta: float = 1 / 2,
) -> Any:
    """``alpha * x + beta`` between 0 and 1."""
    x = get_trt_tensor(ctx, input_val, name)
    return ctx.activation(x, "HARD_SIGMOID", alpha, beta)


def hard_swish(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
    """``x * hard_sigmoid(x)``."""
    return by_torch(ctx, F.hardswish, get_trt_tensor(ctx, input_val, name))


def thresholded_relu(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, alpha: float) -> Any:
    """`x` where it is above `alpha`, else 0."""
    return by_torch(ctx, lambda x: F.threshold(x, alpha, 0), get_trt_tensor(ctx, input_val, name))


def gelu(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, approximate: str = "none") -> Any:
    """``x`` times the normal distribution's share below x; "tanh" for its approximation."""
    return by_torch(ctx, lambda x: F.gelu(x, approximate=approximate), get_trt_tensor(ctx, input_val, name))


def hardshrink(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, lambd: float = 0.5) -> Any:
    """`x`, but 0 within `lambd` of 0."""
    return by_torch(ctx, lambda x: F.hardshrink(x, lambd), get_trt_tensor(ctx, input_val, name))


def softshrink(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, lambd: float = 0.5) -> Any:
    """`x`, `lambd` nearer to 0."""
    return by_torch(ctx, lambda x: F.softshrink(x, lambd), get_trt_tensor(ctx, input_val, name))


def tanhshrink(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
    """``x - tanh(x)``."""
    return by_torch(ctx, F.tanhshrink, get_trt_tensor(ctx, input_val, name))
