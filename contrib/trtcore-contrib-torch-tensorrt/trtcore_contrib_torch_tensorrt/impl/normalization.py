"""Softmax."""

from __future__ import annotations

from typing import Any

import torch

from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor

__all__ = ["softmax"]


def softmax(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    dim: int,
    half_to_float: bool = False,
) -> Any:
    """Softmax along `dim`; of ints, and of half precision with `half_to_float`, in float32."""
    x = get_trt_tensor(ctx, input, name)
    if half_to_float or not ctx.dtype(x).is_floating_point:
        x = ctx.cast(x, torch.float32)
    if ctx.rank(x) == 1:  # TensorRT takes two dims and more
        return ctx.reshape(ctx.softmax(ctx.reshape(x, [1, *ctx.dims_of(x)]), 1), ctx.dims_of(x))
    return ctx.softmax(x, dim)
