"""Choice by a condition."""

from __future__ import annotations

from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._told import told
from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor
from trtcore_contrib_torch_tensorrt.impl.elementwise import _operand

__all__ = ["select", "where"]


def where(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, other: Any, condition: Any) -> Any:
    """`input` where `condition` holds, else `other`; all three broadcast."""
    mask = ctx.cast(get_trt_tensor(ctx, condition, name), torch.bool)
    return ctx.select(mask, _operand(input), _operand(other))


def select(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, other: Any, condition: Any) -> Any:
    """The same as `where`."""
    return where(ctx, target, source_ir, name, input, other, condition)


def __getattr__(name: str) -> Any:
    return told("dynamo.conversion.impl.condition", name)
