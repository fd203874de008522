"""Rows of a table."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from trtcore_contrib_torch_tensorrt._by_torch import by_torch

__all__ = ["embedding", "embedding_bag"]


def embedding(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, weight: Any) -> Any:
    """The rows of `weight` at the indices `input`."""
    return by_torch(ctx, lambda table, where: F.embedding(where.long(), table), weight, input)


def embedding_bag(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    weight: Any,
    indices: Any,
    offsets: Any,
    mode: int,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """Sums (0), means (1) or maxima (2) of rows per bag; the op's other results are None."""
    kinds = ("sum", "mean", "max")

    def bag(
        table: torch.Tensor, where: torch.Tensor, starts: torch.Tensor, scales: torch.Tensor | None
    ) -> torch.Tensor:
        return F.embedding_bag(
            where,
            table,
            starts,
            mode=kinds[mode],
            per_sample_weights=scales,
            include_last_offset=include_last_offset,
            padding_idx=None if padding_idx is None or padding_idx < 0 else padding_idx,
        )

    return by_torch(ctx, bag, weight, indices, offsets, per_sample_weights), None, None, None
