"""Linear algebra beside matrix products."""

from __future__ import annotations

from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._by_torch import by_torch

__all__ = ["cross"]


def cross(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, other: Any, dim: int = -1) -> Any:
    """The cross product of vectors along `dim`, which has three elements; the other dims broadcast."""
    return by_torch(ctx, lambda a, b: torch.linalg.cross(a, b, dim=dim), input, other)
