"""Convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trtcore.pack import ConversionError
from trtcore_contrib_torch_tensorrt._by_torch import by_torch

__all__ = ["convNd", "convolution"]


def convNd(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    is_conv1d: bool,
    input: Any,
    weight: Any,
    bias: Any,
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int] | None,
    dilation: int | Sequence[int] | None,
    groups: int | None,
    scale: Any = None,
    zero_point: Any = None,
) -> Any:
    """A convolution in one, two or three dims; `weight` may be a constant or an ITensor."""
    _refuse_scales(scale, zero_point)
    return convolution(
        ctx,
        target,
        source_ir,
        name,
        input,
        weight,
        bias,
        stride or 1,
        padding or 0,
        dilation or 1,
        groups or 1,
    )


def convolution(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    weight: Any,
    bias: Any,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    transposed: bool = False,
    output_padding: int | Sequence[int] = 0,
) -> Any:
    """``aten.convolution``, transposed or not."""
    dims = len(weight.shape) - 2
    numbers = [_each(value, dims) for value in (stride, padding, dilation)]
    more = _each(output_padding, dims)

    def convolve(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        batch = x if x.dim() == dims + 2 else x.unsqueeze(0)
        made = torch.ops.aten.convolution.default(batch, w, b, *numbers, transposed, more, groups)
        return made if batch is x else made.squeeze(0)

    return by_torch(ctx, convolve, input, weight, bias)


def _each(value: Any, count: int) -> list[int]:
    """One number per dim."""
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


def _refuse_scales(scale: Any, zero_point: Any) -> None:
    if scale is not None or zero_point is not None:
        raise ConversionError(
            "scale and zero_point of a quantised convolution: networks are strongly typed",
            advice="quantise and dequantise around the convolution: impl.quantize.quantize",
        )
