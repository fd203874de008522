"""Slices put in by index."""

from __future__ import annotations

from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._by_torch import by_torch

__all__ = ["index_copy"]


def index_copy(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, dim: int, index: Any, source: Any
) -> Any:
    """`input` with the slices of `source` at `index` of `dim`."""
    return by_torch(ctx, lambda x, places, new: torch.index_copy(x, dim, places, new), input, index, source)
