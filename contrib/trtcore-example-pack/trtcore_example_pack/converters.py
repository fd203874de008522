"""The converter of ``trtcore_example::squared_relu``."""

from __future__ import annotations

from typing import Any

import torch

from trtcore.pack import CompileContext, ConversionContext, Reject, converter
from trtcore_example_pack import ops  # noqa: F401  (registers the op)


def floating(node: torch.fx.Node, ctx: CompileContext) -> bool | Reject:
    """TensorRT's RELU takes floating point only; a node without metadata is left to TensorRT's own check."""
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
    positive = ctx.activation(x, "RELU")
    return ctx.elementwise(positive, positive, "PROD")
