"""Dims of one, put in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor

__all__ = ["broadcast_in_dim", "unsqueeze"]


def unsqueeze(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any = None, dim: int = 0, *, input_t: Any = None
) -> Any:
    """`input` (by its older name `input_t`) with a dim of one at `dim`."""
    x = get_trt_tensor(ctx, input_t if input is None else input, name)
    dims = ctx.dims_of(x)
    dims.insert(dim % (len(dims) + 1), 1)
    return ctx.reshape(x, dims)


def broadcast_in_dim(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input_t: Any,
    shape: Sequence[int],
    broadcast_dimensions: Sequence[int],
) -> Any:
    """``prims.broadcast_in_dim``: the dims of `input_t` at these places of `shape`, broadcast."""
    x = get_trt_tensor(ctx, input_t, name)
    dims: list[Any] = [1] * len(shape)
    for place, size in zip(broadcast_dimensions, ctx.dims_of(x)):
        dims[place] = size
    return ctx.expand(ctx.reshape(x, dims), list(shape))
