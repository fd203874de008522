"""Reductions over one dim, several, or (None, or no dim) all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor

__all__ = ["amax", "amin", "mean", "sum"]

_Dims = int | Sequence[int] | None


def amax(
    ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, dim: _Dims = None, keepdim: bool = False
) -> Any:
    """The largest elements."""
    return _reduce(ctx, name, "MAX", input_val, dim, keepdim)


def amin(
    ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, dim: _Dims = None, keepdim: bool = False
) -> Any:
    """The smallest elements."""
    return _reduce(ctx, name, "MIN", input_val, dim, keepdim)


def sum(
    ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, dim: _Dims = None, keepdim: bool = False
) -> Any:
    """Sums; bools are counted as int64."""
    x = get_trt_tensor(ctx, input_val, name)
    x = ctx.cast(x, torch.int64) if ctx.dtype(x) == torch.bool else x
    return _reduce(ctx, name, "SUM", x, dim, keepdim)


def mean(
    ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, dim: _Dims = None, keepdim: bool = False
) -> Any:
    """Means; those of ints in float32."""
    x = get_trt_tensor(ctx, input_val, name)
    x = x if ctx.dtype(x).is_floating_point else ctx.cast(x, torch.float32)
    return _reduce(ctx, name, "AVG", x, dim, keepdim)


def _reduce(ctx: Any, name: str, operation: str, x: Any, dim: _Dims, keepdim: bool) -> Any:
    axes = [dim] if isinstance(dim, int) else list(dim or ())
    return ctx.reduce(get_trt_tensor(ctx, x, name), operation, axes, keepdim)
