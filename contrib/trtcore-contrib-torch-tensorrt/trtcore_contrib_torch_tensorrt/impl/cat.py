"""Concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor

__all__ = ["cat"]


def cat(ctx: Any, target: Any, source_ir: Any, name: str, input: Sequence[Any], dim: int) -> Any:
    """The tensors one after the other along `dim`, in the dtype that torch would promote them to."""
    parts = [get_trt_tensor(ctx, part, f"{name}_{index}") for index, part in enumerate(input)]
    dtype = ctx.result_type(*parts)
    return ctx.concat([ctx.cast(part, dtype) for part in parts], dim)
