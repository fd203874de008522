"""Reshaping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F

from trtcore.pack import ConversionError
from trtcore_contrib_torch_tensorrt._by_torch import by_torch
from trtcore_contrib_torch_tensorrt.converter_utils import dims_in, get_trt_tensor

__all__ = ["pixel_shuffle", "pixel_unshuffle", "reshape", "resize"]


def reshape(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, shape: Any) -> Any:
    """`input` in another shape: ints (one of them -1 for the rest) and ITensors of one element, or one shape tensor."""
    return ctx.reshape(get_trt_tensor(ctx, input, name), dims_in(ctx, shape))


def pixel_shuffle(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, upscale_factor: int) -> Any:
    """Channels spread over the plane."""
    return by_torch(ctx, lambda x: F.pixel_shuffle(x, upscale_factor), input)


def pixel_unshuffle(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, downscale_factor: int
) -> Any:
    """The plane gathered into channels."""
    return by_torch(ctx, lambda x: F.pixel_unshuffle(x, downscale_factor), input)


def resize(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, sizes: Sequence[int]) -> Any:
    """The first elements of `input` in the shape `sizes`; zeros where it has fewer.

    Raises:
        ConversionError: sizes that vary from call to call.
    """
    x = get_trt_tensor(ctx, input, name)
    if -1 in ctx.shape(x) or any(ctx.is_tensor(one) for one in sizes):
        raise ConversionError("resize of sizes that vary from call to call")
    wanted = 1
    for one in sizes:
        wanted *= int(one)
    flat = ctx.reshape(x, [-1])
    have = ctx.shape(flat)[0]
    if have < wanted:
        flat = by_torch(ctx, lambda one: F.pad(one, (0, wanted - have)), flat)
    return ctx.reshape(ctx.slice(flat, [0], [wanted]), list(sizes))
