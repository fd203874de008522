"""Numbers one after the other."""

from __future__ import annotations

from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._by_torch import Size, by_torch

__all__ = ["arange"]


def arange(
    ctx: Any, target: Any, source_ir: Any, name: str, start: Any, end: Any, step: Any, dtype: Any = None
) -> Any:
    """``start``, ``start + step``, ... below `end`; ints (known now or not) give int64, unless the node that is
    converted says another dtype: floats are rounded before they are counted, as torch does it.
    """
    if dtype is None and getattr(target, "overloadpacket", None) is torch.ops.aten.arange:
        dtype = ctx.node.kwargs.get("dtype")
    values = [one if isinstance(one, float) else Size(one) for one in (start, end, step)]
    return by_torch(ctx, lambda a, b, c: torch.arange(a, b, c, dtype=dtype), *values)
