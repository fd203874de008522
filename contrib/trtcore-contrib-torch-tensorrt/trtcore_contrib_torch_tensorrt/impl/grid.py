"""Sampling at places of a grid."""

from __future__ import annotations

from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._by_torch import by_torch

__all__ = ["grid"]


def grid(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    grid: Any,
    interpolation_mode: int,
    padding_mode: int,
    align_corners: bool,
    output_mask: Any = None,
) -> Any:
    """``grid_sample`` with ATen's numbers: 0 bilinear, 1 nearest, 2 bicubic; 0 zeros, 1 border, 2 reflection."""
    kinds = interpolation_mode, padding_mode, align_corners
    return by_torch(ctx, lambda x, places: torch.grid_sampler(x, places, *kinds), input, grid)
