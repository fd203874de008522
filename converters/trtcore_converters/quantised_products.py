"""Products of integers in int8: TensorRT multiplies what dequantise layers make."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext, ITensor, NodeContext, Operand, Reject, Requires, node_arguments
from trtcore_converters._checks import val
from trtcore_converters._declare import converts

aten: Any = torch.ops.aten


def _of_int8(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    for name in ("self", "mat2"):
        tensor = val(node_arguments(node)[name])
        if isinstance(tensor, torch.Tensor) and tensor.dtype != torch.int8:
            return Reject(
                f"a product of {str(tensor.dtype).removeprefix('torch.')}, and TensorRT has int8 (torchao shifts int8 "
                "to uint8 for models on the CPU: quantise the model on its GPU)"
            )
    return True


@converts(
    aten._int_mm.default,
    capability_validator=_of_int8,
    requires=Requires(layers=frozenset({"add_dequantize"})),
)
def int_mm(ctx: ConversionContext, a: Operand, b: Operand) -> ITensor:
    """``a @ b`` in int32, of int8 matrices dequantised by 1; beyond sums of 2**24 it is rounded as float32 is."""
    return ctx.cast(ctx.matmul(_as_floats(ctx, a), _as_floats(ctx, b)), torch.int32)


def _as_floats(ctx: ConversionContext, x: Operand) -> ITensor:
    float32 = ctx.backend.trt_dtype(torch.float32)
    one = ctx.constant(1.0, torch.float32)
    return ctx.output(ctx.net.add_dequantize(ctx.tensor(x), one, float32))
