"""What a division of float32 numbers leaves, exactly, in the int64 arithmetic that TensorRT has.

The remainder of m * 2**d divided by n is that of (m mod n) * 2**d: so the power of two, which may be 2**278,
is multiplied in piece by piece, and the remainder taken after each.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from trtcore.pack import ConversionContext, ITensor, Operand
from trtcore_converters._exponents import parts, scaled

_PIECE = 35  # a remainder has less than 27 bits, and with 35 more it fits int64
_PIECES = 8  # 8 * 35 bits: from the smallest denormal number to the largest number


def fmod(ctx: ConversionContext, a: ITensor, b: ITensor) -> ITensor:
    """``a - trunc(a / b) * b`` of float32 ITensors, as if it were never rounded; NaN for what has no remainder."""
    size, divisor = ctx.unary(a, "ABS"), ctx.unary(b, "ABS")
    (m, e), (n, f) = parts(ctx, size), parts(ctx, divisor)
    # Where logarithms were rounded apart, the smaller number may seem to have the larger exponent, by one.
    lead = ctx.elementwise(ctx.elementwise(ctx.elementwise(f, e, "SUB"), 0, "MAX"), 1, "MIN")
    n = ctx.elementwise(ctx.elementwise(n, ctx.elementwise(lead, 1, "SUM"), "PROD"), 1, "MAX")
    f = ctx.elementwise(f, lead, "SUB")
    rest = _modulo(ctx, m, n)
    left = ctx.elementwise(ctx.elementwise(e, f, "SUB"), 0, "MAX")
    powers = ctx.constant(2 ** torch.arange(_PIECE + 1))
    for _ in range(_PIECES):
        piece = ctx.elementwise(left, _PIECE, "MIN")
        rest = _modulo(ctx, ctx.elementwise(rest, ctx.gather(powers, piece, 0), "PROD"), n)
        left = ctx.elementwise(left, piece, "SUB")
    found = scaled(ctx, ctx.cast(rest, torch.float32), f)
    signed = ctx.select(ctx.elementwise(a, 0.0, "LESS"), ctx.unary(found, "NEG"), found)
    result = ctx.select(ctx.elementwise(size, divisor, "LESS"), a, signed)
    return ctx.select(_has_one(ctx, size, divisor), result, math.nan)


def remainder(ctx: ConversionContext, a: ITensor, b: ITensor) -> ITensor:
    """`fmod`, and one divisor more where that is on the other side of zero than the divisor."""
    left = fmod(ctx, a, b)
    return ctx.select(_across(ctx, left, b), ctx.elementwise(left, b, "SUM"), left)


def floor_divide(ctx: ConversionContext, a: ITensor, b: ITensor) -> ITensor:
    """The quotient rounded down, from what the division leaves: torch's own steps.

    Without the remainder ``(a - left) / b`` is a whole number but for its rounding; half a unit tells which.
    """
    left = fmod(ctx, a, b)
    quotient = ctx.elementwise(ctx.elementwise(a, left, "SUB"), b, "DIV")
    quotient = ctx.elementwise(quotient, ctx.cast(_across(ctx, left, b), torch.float32), "SUB")
    below = ctx.unary(quotient, "FLOOR")
    above = ctx.elementwise(ctx.elementwise(quotient, below, "SUB"), 0.5, "GREATER")
    whole = ctx.elementwise(below, ctx.cast(above, torch.float32), "SUM")
    return ctx.select(ctx.elementwise(b, 0.0, "EQUAL"), ctx.elementwise(a, b, "DIV"), whole)


def _across(ctx: ConversionContext, left: Any, b: Operand | float) -> ITensor:
    """Whether a remainder is neither 0 nor on the divisor's side of it."""
    return ctx.elementwise(
        ctx.elementwise(ctx.elementwise(left, 0.0, "LESS"), ctx.elementwise(b, 0.0, "GREATER"), "AND"),
        ctx.elementwise(ctx.elementwise(left, 0.0, "GREATER"), ctx.elementwise(b, 0.0, "LESS"), "AND"),
        "OR",
    )


def _has_one(ctx: ConversionContext, size: Any, divisor: Any) -> ITensor:
    """Whether there is a remainder: of a finite number, by a number other than 0."""
    return ctx.elementwise(
        ctx.elementwise(size, math.inf, "LESS"), ctx.elementwise(divisor, 0.0, "GREATER"), "AND"
    )


def _modulo(ctx: ConversionContext, a: Operand | float, n: Any) -> ITensor:
    """``a mod n`` of positive int64 numbers."""
    return ctx.elementwise(a, ctx.elementwise(ctx.elementwise(a, n, "DIV"), n, "PROD"), "SUB")
