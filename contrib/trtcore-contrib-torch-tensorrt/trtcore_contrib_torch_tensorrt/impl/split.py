"""Parts of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._by_torch import by_torch, sizes

__all__ = ["split"]


def split(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    split_size_or_sections: int | Sequence[int],
    dim: int = 0,
) -> Any:
    """A list of parts along `dim`, of one size or of these sizes."""
    return by_torch(
        ctx, lambda x, numbers: list(torch.split(x, numbers, dim)), input, sizes(split_size_or_sections)
    )
