"""Choice by a condition."""

from __future__ import annotations

from typing import Any

import torch

from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor

__all__ = ["where"]


def where(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, other: Any, condition: Any) -> Any:
    """`input` where `condition` holds, else `other`; all three broadcast."""
    return ctx.select(ctx.cast(get_trt_tensor(ctx, condition, name), torch.bool), input, other)
