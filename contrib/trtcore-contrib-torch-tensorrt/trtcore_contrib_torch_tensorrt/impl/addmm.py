"""``beta * input + alpha * (mat1 @ mat2)``."""

from __future__ import annotations

from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._by_torch import by_torch

__all__ = ["addmm"]


def addmm(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    mat1: Any,
    mat2: Any,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> Any:
    """A matrix product, scaled, and `input` added, scaled."""
    return by_torch(ctx, lambda x, a, b: torch.addmm(x, a, b, beta=beta, alpha=alpha), input, mat1, mat2)
