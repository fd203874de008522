"""A slice put in."""

from __future__ import annotations

from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._by_torch import Size, by_torch

__all__ = ["slice_scatter"]


def slice_scatter(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    src: Any,
    dim: int = 0,
    start: Any = None,
    end: Any = None,
    step: int = 1,
) -> Any:
    """`input` with `src` in the place of a slice of `dim`."""
    places = [None if one is None else Size(one) for one in (start, end)]
    return by_torch(
        ctx, lambda x, new, a, b: torch.slice_scatter(x, new, dim, a, b, step), input, src, *places
    )
