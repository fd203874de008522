"""Sizes as tensors."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["shape"]


def shape(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, dim: int | None = None) -> Any:
    """The shape of an ITensor, int64 of shape (rank,); or its size at `dim`, of shape (1,)."""
    if dim is None:
        return ctx.shape_of(input_val)
    size = ctx.dim(input_val, dim)
    return size if ctx.is_tensor(size) else ctx.constant([size], torch.int64)
