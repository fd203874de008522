"""Changes of dtype. Moves between devices and memory formats mean nothing inside an engine."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext, ITensor, NodeContext, Operand, Reject
from trtcore_converters._declare import converts
from trtcore_converters._values import CASTS, output_dtype

aten = torch.ops.aten

_CASTABLE = frozenset(
    {
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.bool,
        torch.uint8,
        torch.int8,
    }
)


def _castable(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    for source in (node, *node.all_input_nodes):
        tensor = source.meta.get("val")
        if isinstance(tensor, torch.Tensor) and tensor.dtype not in _CASTABLE:
            return Reject(f"TensorRT casts no {str(tensor.dtype).removeprefix('torch.')}")
    return True


@converts(
    list(CASTS),
    capability_validator=_castable,
)
def to(ctx: ConversionContext, x: Operand, *_: Any, **__: Any) -> ITensor:
    """`x` in the dtype that the op gives.

    Floats become integers by truncation; what is out of range saturates (in torch it is undefined).
    """
    x = ctx.tensor(x)
    return ctx.cast(x, output_dtype(ctx, ctx.dtype(x)))
