"""Dims of one, taken out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor

__all__ = ["squeeze"]


def squeeze(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, dim: int | Sequence[int] | None = None
) -> Any:
    """`input` without those of its dims that are of one (None: all such)."""
    x = get_trt_tensor(ctx, input, name)
    shape = ctx.shape(x)
    wanted = range(len(shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {ctx.axis(one, len(shape)) for one in wanted}
    return ctx.reshape(
        x, [size for at, size in enumerate(ctx.dims_of(x)) if at not in gone or shape[at] != 1]
    )
