"""A rectifier with a slope per channel."""

from __future__ import annotations

from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._by_torch import by_torch

__all__ = ["prelu"]


def prelu(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, weight: Any) -> Any:
    """`input` where it is positive, else ``weight * input``; `weight` broadcasts."""
    return by_torch(ctx, lambda x, slope: torch.where(x > 0, x, slope * x), input, weight)
