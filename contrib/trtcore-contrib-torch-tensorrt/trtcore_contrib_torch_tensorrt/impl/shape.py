"""Sizes as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["get_shape_with_dynamic_shape", "numel", "shape"]


def shape(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, dim: int | None = None) -> Any:
    """The shape of an ITensor, int64 of shape (rank,); or its size at `dim`, of shape (1,)."""
    if dim is None:
        return ctx.shape_of(input_val)
    size = ctx.dim(input_val, dim)
    return size if ctx.is_tensor(size) else ctx.constant([size], torch.int64)


def numel(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
    """The number of elements, int64 of shape (1,)."""
    count = ctx.dim_product(ctx.dims_of(input_val))
    return count if ctx.is_tensor(count) else ctx.constant([count], torch.int64)


def get_shape_with_dynamic_shape(
    ctx: Any, target: Any, source_ir: Any, name: str, shape: Sequence[Any], input_val: Any
) -> Any:
    """`shape` as one int64 shape tensor, with the sizes of `input_val` where it has -1."""
    sizes = ctx.dims_of(input_val)
    return ctx.shape_tensor(
        [size if not ctx.is_tensor(one) and int(one) == -1 else one for one, size in zip(shape, sizes)]
    )
