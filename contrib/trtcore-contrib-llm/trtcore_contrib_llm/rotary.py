"""Rotary embeddings whose cosines and sines are looked up by position, in TensorRT's rotary layer.

Takes over what the built-in converter of the op leaves: ``position_ids``, and x of three dims.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import (
    ConversionContext,
    NodeContext,
    Priority,
    Reject,
    Requires,
    converter,
    node_arguments,
)


def _by_position(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    if given["position_ids"] is None:
        return Reject("without position_ids the built-in converter takes it")
    x, cosines = (given[name].meta.get("val") for name in ("x", "cos_cache"))
    if x is None or cosines is None or cosines.dim() != 2:
        return Reject("with position_ids, cosines and sines are of shape (positions, size / 2)")
    if not x.is_floating_point() or cosines.dtype != x.dtype:
        return Reject("the rotary layer takes x, cosines and sines of one floating-point dtype")
    if x.dim() == 3 and not given["num_heads"]:
        return Reject("x of three dims needs num_heads")
    if x.dim() not in (3, 4) or not isinstance(x.shape[-1], int):
        return Reject("x has three or four dims, and heads of a known size")
    return True


@converter(
    "onnx::RotaryEmbedding.opset23",
    priority=Priority.HIGH,
    capability_validator=_by_position,
    supports_dynamic_shapes=True,
    requires=Requires(layers=frozenset({"add_rotary_embedding"})),
)
def rotary_embedding(
    ctx: ConversionContext,
    x: Any,
    cos_cache: Any,
    sin_cache: Any,
    position_ids: Any = None,
    *,
    interleaved: bool = False,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Any:
    """x (batch, heads, length, size), or (batch, length, heads * size); positions (batch, length).

    A position outside of the cosines is undefined, as any index out of range.
    """
    x, cosines, sines = (ctx.tensor(value) for value in (x, cos_cache, sin_cache))
    dims = ctx.dims_of(x)
    flat = len(dims) == 3
    if flat:
        x = ctx.permute(ctx.reshape(x, [*dims[:2], num_heads, dims[2] // num_heads]), [0, 2, 1, 3])
    size = rotary_embedding_dim or int(ctx.shape(x)[-1])
    layer = ctx.net.add_rotary_embedding(x, cosines, sines, interleaved, size)
    layer.set_input(3, ctx.tensor(position_ids, torch.int64))
    turned = ctx.output(layer)
    return ctx.reshape(ctx.permute(turned, [0, 2, 1, 3]), dims) if flat else turned
