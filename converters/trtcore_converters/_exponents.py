"""The exponents of float32 numbers, and scaling by powers of two: exact, though TensorRT sees no bits."""

from __future__ import annotations

import math
from typing import Any

import torch

from trtcore.pack import ConversionContext, ITensor

_HALVES = 96  # halves of the exponents that numbers are scaled by are smaller than this


def exponent(ctx: ConversionContext, x: ITensor) -> ITensor:
    """``floor(log2(x))`` for x >= 0, or one beside it, as int64; -150 for 0."""
    log = ctx.elementwise(ctx.unary(x, "LOG"), 1 / math.log(2), "PROD")
    log = ctx.elementwise(ctx.elementwise(ctx.unary(log, "FLOOR"), -150.0, "MAX"), 128.0, "MIN")
    return ctx.cast(log, torch.int64)


def parts(ctx: ConversionContext, x: ITensor) -> tuple[ITensor, ITensor]:
    """m and e, int64, with ``x == m * 2**e`` and m < 2**26, for finite x >= 0."""
    e = ctx.elementwise(exponent(ctx, x), 24, "SUB")
    finite = ctx.elementwise(x, torch.finfo(torch.float32).max, "MIN")
    return ctx.cast(scaled(ctx, finite, ctx.unary(e, "NEG")), torch.int64), e


def scaled(ctx: ConversionContext, x: ITensor, exponent: Any) -> ITensor:
    """``x * 2**exponent``, in two steps, as 2**128 is no float32 number; the powers come from a table."""
    powers = ctx.constant(2.0 ** torch.arange(-_HALVES, _HALVES + 1), torch.float32)
    half = ctx.elementwise(exponent, 2, "DIV")
    for part in (half, ctx.elementwise(exponent, half, "SUB")):
        x = ctx.elementwise(x, ctx.gather(powers, ctx.elementwise(part, _HALVES, "SUM"), 0), "PROD")
    return x
