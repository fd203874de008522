"""Padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F

from trtcore_contrib_torch_tensorrt._by_torch import by_torch, sizes

__all__ = ["circular_padNd", "constant_padNd", "pad", "reflection_padNd", "replication_padNd"]


def constant_padNd(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, pad: Sequence[Any], value: float = 0
) -> Any:
    """`value` around; widths from the last dim, before and behind, may be ITensors."""
    return _padded(ctx, input, pad, "constant", value)


def reflection_padNd(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, padding: Sequence[Any]
) -> Any:
    """What lies inside, mirrored at the border."""
    return _padded(ctx, input, padding, "reflect")


def replication_padNd(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, padding: Sequence[Any]
) -> Any:
    """The border, repeated."""
    return _padded(ctx, input, padding, "replicate")


def circular_padNd(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, pad: Sequence[Any]) -> Any:
    """What lies at the other end."""
    return _padded(ctx, input, pad, "circular")


def pad(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    pad: Sequence[Any],
    mode: str = "constant",
    value: float | None = None,
) -> Any:
    """``torch.nn.functional.pad``."""
    return _padded(ctx, input, pad, mode, value)


def _padded(ctx: Any, x: Any, widths: Sequence[Any], mode: str, value: float | None = None) -> Any:
    return by_torch(ctx, lambda one, numbers: F.pad(one, numbers, mode, value), x, sizes(list(widths)))
