"""Transposed convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtcore_contrib_torch_tensorrt.impl.conv import _refuse_scales, convolution

__all__ = ["deconvNd"]


def deconvNd(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    is_deconv1d: bool,
    input: Any,
    weight: Any,
    bias: Any,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int | None,
    output_padding: int | Sequence[int] = 0,
    scale: Any = None,
    zero_point: Any = None,
) -> Any:
    """A transposed convolution in one, two or three dims."""
    _refuse_scales(scale, zero_point)
    numbers = (stride or 1, padding or 0, dilation or 1, groups or 1)
    return convolution(ctx, target, source_ir, name, input, weight, bias, *numbers, True, output_padding or 0)
