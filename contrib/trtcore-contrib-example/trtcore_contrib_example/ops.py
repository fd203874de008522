"""The op for torch. It imports nothing of trtcore: models can use it without."""

from __future__ import annotations

import torch


@torch.library.custom_op("trtcore_example::squared_relu", mutates_args=())
def squared_relu(x: torch.Tensor) -> torch.Tensor:
    """Return ``relu(x) ** 2``, of the shape and dtype of `x` (So et al., Primer, 2021)."""
    return torch.relu(x).square()


@squared_relu.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)
