"""Addition to the residual stream and RMS normalisation.

TensorRT's normalization layer is no help: it takes the mean away, which RMS normalisation does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext, NodeContext, Reject, converter, node_arguments
from trtcore_contrib_llm.ops import add_rms_norm as add_rms_norm_op


def _alike(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    x, residual = (given[name].meta.get("val") for name in ("x", "residual"))
    if x is None or not x.is_floating_point() or x.dtype != residual.dtype:
        return Reject("x and the residual stream are of one floating-point dtype")
    if x.dim() != residual.dim() or x.dim() < 2:
        return Reject("x and the residual stream have one rank, of at least two dims")
    return True


@converter(add_rms_norm_op, capability_validator=_alike, supports_dynamic_shapes=True)
def add_rms_norm(ctx: ConversionContext, x: Any, residual: Any, weight: Any, eps: float) -> tuple[Any, Any]:
    """The sum in the op's dtype, statistics and weight in float32."""
    x = ctx.tensor(x)
    total = ctx.elementwise(x, residual, "SUM")
    wide = ctx.cast(total, torch.float32)
    mean = ctx.reduce(ctx.elementwise(wide, wide, "PROD"), "AVG", [-1], keepdim=True)
    inverse = ctx.unary(ctx.unary(ctx.elementwise(mean, eps, "SUM"), "SQRT"), "RECIP")
    normal = ctx.elementwise(wide, inverse, "PROD")
    scaled = ctx.elementwise(normal, weight, "PROD", to=torch.float32)
    return ctx.cast(scaled, ctx.dtype(x)), total
