"""The converter of ``trtcore_example::squared_relu``, and an override of gelu."""

from __future__ import annotations

import math
from typing import Any

import torch

from trtcore.pack import ConversionContext, NodeContext, Reject, converter, node_arguments
from trtcore_contrib_example import ops  # noqa: F401  (registers the op)

aten = torch.ops.aten


def floating(node: torch.fx.Node, ctx: NodeContext) -> bool | Reject:
    """TensorRT's activations take floating point only; a node without metadata is left to TensorRT's own check."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor) and not value.dtype.is_floating_point:
        return Reject(f"squared_relu of {value.dtype}; only floating point is converted")
    return True


@converter(
    torch.ops.trtcore_example.squared_relu.default,
    capability_validator=floating,
    supports_dynamic_shapes=True,
)
def squared_relu(ctx: ConversionContext, x: Any) -> Any:
    """Two layers: an activation, and its product with itself."""
    positive = ctx.activation(ctx.tensor(x), "RELU")
    return ctx.elementwise(positive, positive, "PROD")


def tanh_form(node: torch.fx.Node, ctx: NodeContext) -> bool | Reject:
    """Take only what the override computes exactly; the next converter in order gets the rest."""
    if node_arguments(node)["approximate"] != "tanh":
        return Reject("this override has the tanh form only")
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor) and value.dtype != torch.float32:
        return Reject(f"gelu of {value.dtype}; the override is for float32")
    return True


@converter(aten.gelu.default, capability_validator=tanh_form, supports_dynamic_shapes=True)
def gelu_by_sigmoid(ctx: ConversionContext, x: Any, *, approximate: str = "none") -> Any:
    """``x * sigmoid(2u)``, which is ``x / 2 * (1 + tanh(u))``, with ``u = sqrt(2/pi) * (x + 0.044715 x^3)``.

    It goes before the built-in converter: at the same priority a third-party pack does.
    """
    x = ctx.tensor(x)
    cube = ctx.elementwise(ctx.elementwise(x, x, "PROD"), x, "PROD")
    inner = ctx.elementwise(x, ctx.elementwise(cube, 0.044715, "PROD"), "SUM")
    twice = ctx.elementwise(inner, 2 * math.sqrt(2 / math.pi), "PROD")
    return ctx.elementwise(x, ctx.activation(twice, "SIGMOID"), "PROD")
