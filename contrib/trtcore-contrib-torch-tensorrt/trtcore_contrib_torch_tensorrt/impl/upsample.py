"""Resizing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from trtcore_contrib_torch_tensorrt._by_torch import by_torch, sizes

__all__ = ["upsample"]


_OPS = {
    ("nearest", 1): "upsample_nearest1d",
    ("nearest", 2): "upsample_nearest2d",
    ("nearest", 3): "upsample_nearest3d",
    ("nearest-exact", 1): "_upsample_nearest_exact1d",
    ("nearest-exact", 2): "_upsample_nearest_exact2d",
    ("nearest-exact", 3): "_upsample_nearest_exact3d",
    ("linear", 1): "upsample_linear1d",
    ("bilinear", 2): "upsample_bilinear2d",
    ("trilinear", 3): "upsample_trilinear3d",
    ("bicubic", 2): "upsample_bicubic2d",
}


def upsample(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    size: Sequence[Any] | None,
    scale_factor: Sequence[float] | None,
    mode: str,
    align_corners: bool | None,
) -> Any:
    """`input` resized to `size` (ints and ITensors), or by `scale_factor`; both as the ATen op with scales has it."""
    corners = () if mode.startswith("nearest") else (bool(align_corners),)
    scales = None if scale_factor is None or None in tuple(scale_factor) else list(scale_factor)

    def resize(x: torch.Tensor, wanted: Any) -> torch.Tensor:
        if wanted is None:
            return F.interpolate(x, None, scales, mode, *corners)
        op = getattr(torch.ops.aten, _OPS[mode, x.dim() - 2]).default
        return op(x, wanted, *corners, *(scales or ()))

    return by_torch(ctx, resize, input, None if size is None else sizes(list(size)))
