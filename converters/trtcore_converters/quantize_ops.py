"""Ops that quantise a tensor and dequantise it again ("fake quantisation"), as tools calibrate models with.

What calibrated models are captured as; `trtcore_converters.fake_quantize` makes Q/DQ layers of them. In
torch they are these formulas, on any device. The formats:

| name | values | |
|---|---|---|
| int8 | -128 to 127 (-127 with ``narrow``) | steps of amax / 127 |
| int4 | -8 to 7 (-7) | steps of amax / 7 |
| fp8 | E4M3 | 448 stands for amax |
| nvfp4 | E2M1, in blocks of 16 | a block's scale is E4M3, in steps of amax / (6 * 448) |
| mxfp8 | E4M3, in blocks of 32 | a block's scale is a power of two |
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trtcore.pack import texts_are_data

LARGEST = {"int8": 127.0, "int4": 7.0, "fp8": 448.0}
"""What the largest absolute value becomes."""
_LOWEST = {"int8": -128.0, "int4": -8.0, "fp8": -448.0}
_NOTHING = 2.0**-24
"""An amax up to this is that of a tensor of zeros."""
_HUGE = 2.0**100
"""A scale by which everything becomes 0."""
BLOCKS = {"nvfp4": 16, "mxfp8": 32}


@torch.library.custom_op("trtcore_quantize::fake_quantize", mutates_args=())
def fake_quantize(
    x: Tensor, amax: Tensor, to: str, narrow: bool, blocks: Sequence[int], gain: float = 1.0
) -> Tensor:
    """``dequantise(quantise(x)) * gain`` with scales that calibration found.

    Args:
        x: floating point, any shape.
        amax: the absolute value that becomes the format's largest one; one element, or of x's rank, where each dim has
            the size 1, x's own, or the number of blocks.
        to: int8, int4 or fp8.
        narrow: leave the lowest integer out.
        blocks: how many elements of each dim of x share a scale; empty: none does, beside dims of size 1 of `amax`.
        gain: a factor of the result, which costs nothing: it becomes part of the dequantise layer's scale.

    Returns:
        x's shape and dtype.
    """
    scale = spread(scales(amax, to), x.shape, blocks)
    return (quantised(x, scale, to, narrow) * (scale * gain)).to(x.dtype)


@fake_quantize.register_fake
def _(x: Tensor, amax: Tensor, to: str, narrow: bool, blocks: Sequence[int], gain: float = 1.0) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("trtcore_quantize::fake_quantize_blocks", mutates_args=())
def fake_quantize_blocks(x: Tensor, amax: Tensor | None, to: str) -> Tensor:
    """``dequantise(quantise(x))`` in blocks of the last dim, whose scales come from their own values.

    Args:
        x: floating point; a last block that is not full is one of its own.
        amax: for nvfp4 the largest absolute value of tensors like x, one element; None for mxfp8.
        to: nvfp4 or mxfp8.

    Returns:
        x's shape and dtype.
    """
    values, block_scales = quantised_nvfp4(x, amax) if to == "nvfp4" else quantised_mxfp8(x)
    return dequantised_blocks(values, block_scales, BLOCKS[to]).to(x.dtype)


@fake_quantize_blocks.register_fake
def _(x: Tensor, amax: Tensor | None, to: str) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("trtcore_quantize::dequantize", mutates_args=())
def dequantize(
    q: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    form: str,
    blocks: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """``(q - zero_point) * scale`` of numbers that are quantised already.

    Args:
        q: int8 or float8_e4m3fn; for the form int4 int8 numbers of -8 to 7.
        scale, zero_point: one element, or of q's rank: a size of 1, q's, or the number of blocks in each dim.
        form: int8, int4 or fp8.
        blocks: as for `fake_quantize`.
        dtype: of the result.
    """
    values = q.float()
    if zero_point is not None:
        values = values - spread(zero_point.float(), q.shape, blocks)
    return (values * spread(scale.float(), q.shape, blocks)).to(dtype)


@dequantize.register_fake
def _(
    q: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    form: str,
    blocks: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    return torch.empty_like(q, dtype=dtype, memory_format=torch.contiguous_format)


def scales(amax: Tensor, to: str) -> Tensor:
    """The float32 steps of a format, positive also where nothing was seen: there every integer is 0."""
    amax = amax.detach().float()
    nothing = amax <= _NOTHING
    return torch.where(nothing, 1.0 / LARGEST[to] if to == "fp8" else _HUGE, amax / LARGEST[to])


def spread(scale: Tensor, shape: Sequence[int], blocks: Sequence[int]) -> Tensor:
    """Scales of blocks, repeated to the shape of what they scale."""
    if scale.numel() == 1:
        return scale.reshape(())
    for axis, (count, size) in enumerate(zip(scale.shape, shape)):
        if count not in (1, size):
            scale = scale.repeat_interleave(blocks[axis], axis).narrow(axis, 0, size)
    return scale


def quantised(x: Tensor, scale: Tensor, to: str, narrow: bool) -> Tensor:
    """``x / scale`` as a number of the format, in float32."""
    y = x.float() / scale
    if to == "fp8":
        return y.clamp(-448.0, 448.0).to(torch.float8_e4m3fn).float()
    return y.round().clamp(_LOWEST[to] + narrow, LARGEST[to])


def quantised_nvfp4(x: Tensor, amax: Tensor | None) -> tuple[Tensor, Tensor]:
    """E2M1 values in float32, and the float32 scale of each block: an E4M3 number of steps of amax / (6 * 448)."""
    assert amax is not None
    whole = nvfp4_step(amax)
    scale = nvfp4_block_scales(x, whole).float() * whole
    y = _by_blocks(x, BLOCKS["nvfp4"]) / torch.where(scale == 0, 1.0, scale)[..., None]
    return _in_a_row(round_e2m1(y), x.shape[-1]), scale


def nvfp4_step(amax: Tensor) -> Tensor:
    """What a block's scale counts in, float32, without dims."""
    step = amax.detach().float().amax() / (6.0 * 448.0)
    return torch.where(step > 0, step, 1.0)


def nvfp4_block_scales(x: Tensor, step: Tensor) -> Tensor:
    """E4M3; a block of zeros has the scale 1."""
    found = _by_blocks(x, BLOCKS["nvfp4"]).abs().amax(-1) / (6.0 * step)
    found = torch.where(found == 0, 1.0, found)
    return found.clamp(2.0**-9, 448.0).to(torch.float8_e4m3fn)


def round_e2m1(x: Tensor) -> Tensor:
    """The nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 with x's sign, ties to the even mantissa."""
    size = x.abs()
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return torch.copysign(((size / step).round() * step).clamp_max(6.0), x)


def quantised_mxfp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """E4M3 values in float32, and each block's scale: the power of two that takes its largest value to at most 448."""
    blocks = _by_blocks(x, BLOCKS["mxfp8"])
    exponent = (blocks.abs().amax(-1) / 448.0).log2().ceil().clamp(-127.0, 127.0)
    scale = exponent.nan_to_num(nan=-127.0).exp2()
    values = (blocks / scale[..., None]).clamp(-448.0, 448.0).to(torch.float8_e4m3fn).float()
    return _in_a_row(values, x.shape[-1]), scale


def dequantised_blocks(values: Tensor, block_scales: Tensor, block: int) -> Tensor:
    """Values times their block's scale, along the last dim, in float32."""
    return _in_a_row(_by_blocks(values, block) * block_scales[..., None], values.shape[-1])


def _by_blocks(x: Tensor, block: int) -> Tensor:
    """The last dim as (blocks, block); zeros fill the last block up."""
    padded = F.pad(x.float(), (0, -x.shape[-1] % block))
    return padded.reshape(*padded.shape[:-1], -1, block)


def _in_a_row(blocks: Tensor, size: int) -> Tensor:
    """`_by_blocks` undone."""
    return blocks.flatten(-2).narrow(-1, 0, size)


def packed_int4(values: Tensor) -> Tensor:
    """Integers of -8 to 7, two to a byte: uint8, flat."""
    return _packed(values.reshape(-1).to(torch.int16) & 15)


def packed_e2m1(values: Tensor) -> Tensor:
    """E2M1 numbers, two to a byte: uint8, flat."""
    size = values.reshape(-1).abs()
    known = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], device=values.device)
    sign = torch.signbit(values.reshape(-1)).to(torch.int16)
    return _packed(torch.searchsorted(known, size).to(torch.int16) | (sign << 3))


def _packed(halves: Tensor) -> Tensor:
    return (halves[0::2] | (halves[1::2] << 4)).to(torch.uint8)


def blocks_fit(shape: Sequence[int], amax_shape: Sequence[int], blocks: Sequence[int]) -> bool:
    """Whether an amax of several elements is one for each block of a tensor of this shape."""
    if len(shape) != len(amax_shape) or (blocks and len(blocks) != len(shape)):
        return False
    wanted = [math.ceil(size / block) for size, block in zip(shape, blocks)] if blocks else list(shape)
    return all(count in (1, want) for count, want in zip(amax_shape, wanted))


for _name in ("fake_quantize", "fake_quantize_blocks", "dequantize"):
    texts_are_data(getattr(torch.ops.trtcore_quantize, _name).default)  # names of formats
