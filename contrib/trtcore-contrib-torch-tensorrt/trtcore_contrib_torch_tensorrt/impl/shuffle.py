"""Reshaping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor

__all__ = ["reshape"]


def reshape(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, shape: Sequence[Any]) -> Any:
    """`input` in another shape; sizes are ints, one of them -1 for the rest, or ITensors of shape (1,)."""
    return ctx.reshape(get_trt_tensor(ctx, input, name), list(shape))
