"""Rotary position embeddings: TensorRT's layer. `recover_rotary` (a lowering pass) finds them in models."""

from __future__ import annotations

from typing import Any

import torch
import torch.onnx.ops  # registers the op
from torch import fx

from trtcore.pack import (
    ConversionContext,
    ITensor,
    NodeContext,
    Operand,
    Reject,
    Requires,
    node_arguments,
)
from trtcore_converters._checks import val
from trtcore_converters._declare import converts
from trtcore_converters._values import known_dim

ROTARY_EMBEDDING: Any = torch.ops.onnx.RotaryEmbedding.opset23
"""torch's op for it: x (batch, heads, length, size), cosines and sines (batch, length, size / 2)."""


def _plain(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    x, cosines = val(given["x"]), val(given["cos_cache"])
    if isinstance(x, torch.Tensor):
        if x.dim() != 4:
            return Reject("the rotary layer takes x of shape (batch, heads, length, size)")
        if not x.is_floating_point() or (isinstance(cosines, torch.Tensor) and cosines.dtype != x.dtype):
            return Reject("the rotary layer takes x, cosines and sines of one floating-point dtype")
        if known_dim(x.shape[-1]) is None:
            return Reject("the size of a head varies from call to call")
    if not isinstance(given["rotary_embedding_dim"], int):
        return Reject("the rotated part of a head varies from call to call")
    return True


@converts(
    ROTARY_EMBEDDING,
    capability_validator=_plain,
    requires=Requires(layers=frozenset({"add_rotary_embedding"})),
)
def rotary_embedding(
    ctx: ConversionContext,
    x: Operand,
    cos_cache: Any,
    sin_cache: Any,
    position_ids: Any = None,
    *,
    interleaved: bool = False,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> ITensor:
    """Pairs of the first `rotary_embedding_dim` features (0: all) of each head, turned by an angle.

    With `position_ids` (batch, length), cosines and sines are tables (positions, size / 2) that they choose from.
    """
    x, cosines, sines = (ctx.tensor(value) for value in (x, cos_cache, sin_cache))
    if position_ids is not None:
        cosines, sines = (ctx.gather(table, ctx.tensor(position_ids), 0) for table in (cosines, sines))
    size = rotary_embedding_dim or int(ctx.shape(x)[-1])
    return ctx.output(ctx.net.add_rotary_embedding(x, cosines, sines, interleaved, size))
