"""Tensors of one value."""

from __future__ import annotations

from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._by_torch import by_torch, sizes
from trtcore_contrib_torch_tensorrt.converter_utils import dims_in, get_trt_tensor, torch_dtype

__all__ = ["full"]


def full(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    shape: Any,
    fill_value: Any,
    dtype: Any = None,
) -> Any:
    """`fill_value` in a shape of ints and ITensors, or of one shape tensor."""
    wanted = None if dtype is None else torch_dtype(ctx, dtype)
    dims = dims_in(ctx, shape)
    if isinstance(fill_value, (bool, int, float)):
        return by_torch(ctx, lambda numbers: torch.full(numbers, fill_value, dtype=wanted), sizes(dims))
    value = get_trt_tensor(ctx, fill_value, name)
    value = value if wanted is None else ctx.cast(value, wanted)
    return ctx.expand(ctx.reshape(value, [1] * len(dims)), dims)
