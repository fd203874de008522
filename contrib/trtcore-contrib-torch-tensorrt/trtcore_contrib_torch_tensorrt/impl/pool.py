"""Pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from trtcore_contrib_torch_tensorrt._by_torch import by_torch

__all__ = ["adaptive_avg_pool1d", "adaptive_avg_poolNd", "adaptive_max_poolNd", "avg_poolNd", "max_poolNd"]


_Numbers = int | Sequence[int]


def _dims(ctx: Any, x: Any, *numbers: Any) -> int:
    """In how many dims is pooled: as many as the first list has numbers."""
    for one in numbers:
        if isinstance(one, (list, tuple)) and len(one) > 1:
            return len(one)
    several = [one for one in numbers if isinstance(one, (list, tuple)) and one]
    return 1 if several and ctx.rank(x) <= 3 else ctx.rank(x) - 2


def _given(numbers: Any) -> Any:
    return None if numbers is None or numbers == [] or numbers == () else numbers


def avg_poolNd(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    kernel_size: _Numbers,
    stride: _Numbers = (),
    padding: _Numbers = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Means of windows, in one, two or three dims."""
    dims = _dims(ctx, input, kernel_size, stride, padding)
    more = () if dims == 1 else (divisor_override,)
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[dims]

    def average(x: torch.Tensor) -> torch.Tensor:
        return pool(x, kernel_size, _given(stride), padding, ceil_mode, count_include_pad, *more)

    return by_torch(ctx, average, input)


def max_poolNd(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    kernel_size: _Numbers,
    stride: _Numbers = (),
    padding: _Numbers = 0,
    dilation: _Numbers = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maxima of windows, in one, two or three dims."""
    dims = _dims(ctx, input, kernel_size, stride, padding)
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[dims]

    def largest(x: torch.Tensor) -> Any:
        return pool(x, kernel_size, _given(stride), padding, dilation, ceil_mode, return_indices)

    return by_torch(ctx, largest, input)


def adaptive_avg_poolNd(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, output_size: _Numbers
) -> Any:
    """Means, to a size, in two or three dims (one for a list of one)."""
    dims = _dims(ctx, input, output_size)
    pool = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[dims]
    return by_torch(ctx, lambda x: pool(x, output_size), input)


def adaptive_avg_pool1d(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, output_size: _Numbers
) -> Any:
    """Means, to a length."""
    return by_torch(ctx, lambda x: F.adaptive_avg_pool1d(x, output_size), input)


def adaptive_max_poolNd(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, output_size: _Numbers
) -> Any:
    """Maxima, to a size."""
    dims = _dims(ctx, input, output_size)
    pool = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}[dims]
    return by_torch(ctx, lambda x: pool(x, output_size), input)
