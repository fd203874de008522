"""A matrix of weights, and a bias."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

from trtcore_contrib_torch_tensorrt._by_torch import by_torch
from trtcore_contrib_torch_tensorrt.impl.normalization import cdist_forward as cdist_forward

__all__ = ["linear"]


def linear(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, weight: Any, bias: Any = None
) -> Any:
    """``input @ weight.T + bias``."""
    return by_torch(ctx, F.linear, input, weight, bias)
